"""What is drawn afresh in every epoch, as pure functions of seed, epoch and question.

A run that goes on after an interruption draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np

from stages.core.midpoints import Indices, segment_edges


def random_view(seed: int, epoch: int, question_id: str, views: int) -> int:
    """One of `views` stored random views, from 1; 0 when there are none."""
    if views == 0:
        return 0
    return 1 + _number(f"{seed} {epoch} {question_id}") % views


def random_positions(seed: int, epoch: int, question_id: str, frames: int, keep: int) -> Indices:
    """int64 [keep], a random frame of each of `keep` equal segments (specs/sevila.md 1.8)."""
    edges = segment_edges(0, frames, keep)
    width = np.maximum(edges[1:] - edges[:-1], 1)
    number = _number(f"frames {seed} {epoch} {question_id}")
    generator = np.random.Generator(np.random.PCG64(number))
    return edges[:-1] + generator.integers(0, width)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
