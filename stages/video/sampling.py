"""Which frames of a clip are read: pure functions on presentation times and integers.

The rule is the published one (specs/sevila.md 1.8): the clip [start, end) becomes a range of frame
numbers, the range is cut into n equal segments at truncated float edges, and one frame is taken per
segment: the midpoint in evaluation, a uniform draw in training. Two deliberate differences: a short
clip repeats frames instead of being dropped, and a clip that starts after the last frame is an
error instead of a read outside the file.
"""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import DataError
from stages.core.midpoints import Indices, segment_edges

# Seconds by which a time stamp may miss a clip's edge through float rounding alone.
_EDGE_SLACK = 1e-6


def clip_bounds(
    times: NDArray[np.float64],
    duration: float,
    fps: float,
    constant_rate: bool,
    start: float | None,
    end: float | None,
) -> tuple[int, int]:
    """The frame range [lo, hi) of the clip [start, end) seconds; None, None is the whole file.

    At a constant rate the published rule holds: `int(start * fps)`, `int(end * fps)`, clipped to
    the file. Otherwise both edges become the frame on screen at that presentation time, which is
    the same rule said without a rate.

    Args:
        times: Presentation times in seconds, ascending, one per presented frame.
        duration: Seconds from the first frame's appearance to the last frame's end.
        fps: Average frames per second.
        constant_rate: Whether frame i is on screen at `i / fps` after the first.
        start: Seconds, or None for the first frame.
        end: Seconds, or None for the end of the file.

    Raises:
        DataError: no frames, a time that is not a number, a reversed clip, or a clip that starts
            after the last frame.
    """
    count = len(times)
    if count == 0:
        raise DataError("the video has no frames")
    if start is None and end is None:
        return 0, count
    first = 0.0 if start is None else float(start)
    last = math.inf if end is None else float(end)
    _refuse_impossible_clip(first, last)
    if constant_rate:
        lo, hi = _frame_number(first, fps, count), _frame_number(last, fps, count)
    else:
        lo = _frame_on_screen(times, duration, first)
        hi = _frame_on_screen(times, duration, last)
    lo, hi = max(lo, 0), min(max(hi, 0), count)
    if lo >= count:
        raise DataError(
            f"the clip starts at {first:g} s, but the video's last frame is at "
            f"{float(times[-1]):g} s (duration {duration:g} s)"
        )
    return lo, max(lo, hi)


def random_indices(lo: int, hi: int, n: int, rng: np.random.Generator) -> Indices:
    """`int64[n]`: a uniform draw from each of n equal segments of [lo, hi) (training).

    An empty segment gives its edge. Exactly n numbers are drawn whatever the clip, by
    `Generator.random`, whose stream does not change between NumPy versions.
    """
    edges = segment_edges(lo, hi, n)
    widths = edges[1:] - edges[:-1]
    return edges[:-1] + np.floor(rng.random(n) * widths).astype(np.int64)


def count_repeats(indices: Indices) -> int:
    """How many indices repeat an earlier one: 0 unless the clip has fewer frames than slots."""
    return len(indices) - len(np.unique(indices))


def view_rng(seed: int, video: str, clip: str, view: int) -> np.random.Generator:
    """The random generator of one view of one clip, the same in every process and every order."""
    text = json.dumps([seed, video, clip, view], ensure_ascii=True)
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def _refuse_impossible_clip(start: float, end: float) -> None:
    if math.isnan(start) or math.isnan(end) or math.isinf(start):
        raise DataError(f"the clip's times are not numbers: start {start}, end {end}")
    if end < start:
        raise DataError(f"the clip ends before it starts: start {start:g} s, end {end:g} s")


def _frame_number(seconds: float, fps: float, count: int) -> int:
    # Capped in float first: int() of an infinite or huge product is an error or a huge integer.
    return int(min(seconds * fps, float(count))) if math.isfinite(seconds) else count


def _frame_on_screen(times: NDArray[np.float64], duration: float, seconds: float) -> int:
    if seconds >= float(times[0]) + duration - _EDGE_SLACK:
        return len(times)
    return int(np.searchsorted(times, seconds + _EDGE_SLACK, side="right")) - 1
