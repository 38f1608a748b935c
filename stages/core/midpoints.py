"""The one rule by which a range of frames is cut into segments (specs/sevila.md 1.8)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import DataError

Indices = NDArray[np.int64]


def segment_edges(lo: int, hi: int, n: int) -> Indices:
    """int64 [n + 1], borders of n equal segments of [lo, hi).

    A float linspace, truncated, as the reference computes it: exact integer division differs.

    Raises:
        DataError: Fewer than one segment.
    """
    if n < 1:
        raise DataError(f"at least one frame per clip is needed, not {n}")
    return np.linspace(lo, hi, n + 1).astype(np.int64)


def midpoint_indices(lo: int, hi: int, n: int) -> Indices:
    """int64 [n], the middle frame of each segment; 32 frames, 4 kept: 4, 12, 20, 28."""
    edges = segment_edges(lo, hi, n)
    return (edges[:-1] + edges[1:]) // 2


def subset_midpoints(stored: int, keep: int) -> Indices:
    """int64 [keep], positions among `stored` frames by the same rule.

    Raises:
        DataError: More frames are asked for than are stored.
    """
    if keep > stored:
        raise DataError(f"{keep} frames are asked for, but only {stored} are stored per clip")
    return midpoint_indices(0, stored, keep)
