"""Which frames are read: the published rule, its recorded answers and its laws."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.errors import DataError
from stages.core.midpoints import midpoint_indices, subset_midpoints
from stages.video.sampling import (
    clip_bounds,
    count_repeats,
    random_indices,
    view_rng,
)


def golden(relative: str) -> Any:
    shared = os.environ.get("VQA_SHARED") or Path(__file__).resolve().parents[2] / "../shared"
    path = Path(shared) / "golden" / relative
    if not path.is_file():
        pytest.skip(f"the golden file {relative} is not here")
    return json.loads(path.read_text())


def even_times(count: int, fps: float) -> np.ndarray:
    return np.arange(count) / fps if fps else np.zeros(count)


def bounds(count: int, fps: float, start: float | None, end: float | None) -> tuple[int, int]:
    duration = count / fps if fps else 0.0
    return clip_bounds(even_times(count, fps), duration, fps, True, start, end)


def published(count: int, fps: float, n: int, start: float | None, end: float | None) -> list[int]:
    lo, hi = bounds(count, fps, start, end)
    return midpoint_indices(lo, hi, min(n, count)).tolist()


def test_midpoints_equal_the_recorded_vlap_indices() -> None:
    for row in golden("vlap/case12_frame_indices.json")["rows"]:
        start, end = row["clip_seconds"] or (None, None)
        got = published(row["video_frames"], row["fps"], row["n_frms"], start, end)
        assert got == row["indices"], row


def test_midpoints_equal_the_recorded_sevila_indices_or_are_refused() -> None:
    refused = 0
    for row in golden("sevila/case09_sampling.json")["eval"]:
        start, end = (float(x) if x is not None else None for x in (row["start"], row["end"]))
        question = (row["num_frames"], row["fps"], row["n_frms"], start, end)
        outside = "out of range" in row.get("flags", []) or "error" in row
        if outside or (start is not None and end is not None and start > end):
            refused += 1
            with pytest.raises(DataError):
                published(*question)
        else:
            assert published(*question) == row["indices"], row
    assert refused


def test_recorded_random_draws_lie_in_the_segments_we_draw_from() -> None:
    for row in golden("sevila/case09_sampling.json")["train_mode"]:
        lo, hi = bounds(row["num_frames"], row["fps"], row["start"], row["end"])
        n = min(row["n_frms"], row["num_frames"])
        draws = [random_indices(lo, hi, n, view_rng(s, "v", "c", 0)) for s in range(400)]
        assert np.all(np.min(draws, axis=0) <= row["indices"])
        assert np.all(np.max(draws, axis=0) >= row["indices"])


def test_whole_numbers_of_segments_use_float_edges() -> None:
    assert midpoint_indices(0, 87, 75).tolist()[-4:] != [83, 84, 85, 86]
    assert midpoint_indices(0, 87, 75).tolist()[-3:] == [83, 84, 86]


def test_subset_of_the_cache_takes_the_middle_of_each_segment() -> None:
    assert subset_midpoints(32, 4).tolist() == [4, 12, 20, 28]
    assert subset_midpoints(4, 4).tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match="only 4 are stored"):
        subset_midpoints(4, 8)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (math.nan, 3.0, "not numbers"),
        (1.0, math.nan, "not numbers"),
        (math.inf, None, "not numbers"),
        (12.0, 10.0, "before it starts"),
        (20.0, 30.0, "last frame"),
        (1e300, 1e301, "last frame"),
    ],
)
@pytest.mark.parametrize("constant", [True, False])
def test_impossible_clips_are_refused(
    start: float, end: float | None, message: str, constant: bool
) -> None:
    with pytest.raises(DataError, match=message):
        clip_bounds(even_times(500, 25.0), 20.0, 25.0, constant, start, end)


def test_variable_rate_clips_go_by_presentation_time() -> None:
    # Frames at 0, 1, 2, ..., 9 s and then ten more in one second.
    times = np.concatenate([np.arange(10.0), 9.0 + np.arange(1, 11) / 10])
    assert clip_bounds(times, 10.1, 2.0, False, 3.0, 5.0) == (3, 5)
    assert clip_bounds(times, 10.1, 2.0, False, 9.05, 9.35) == (9, 12)
    assert clip_bounds(times, 10.1, 2.0, False, 9.5, 99.0) == (14, 20)
    assert clip_bounds(times, 10.1, 2.0, False, -5.0, 2.5) == (0, 2)


clips = st.tuples(
    st.integers(1, 5000),
    st.sampled_from([3.0, 12.5, 24000 / 1001, 25.0, 30000 / 1001, 60.0]),
    st.floats(0, 200),
    st.floats(0, 60),
    st.integers(1, 100),
)


@given(clips, st.booleans(), st.integers(0, 2**32))
def test_every_plan_has_its_count_is_sorted_and_stays_inside(
    clip: tuple[int, float, float, float, int], constant: bool, seed: int
) -> None:
    count, fps, start, length, n = clip
    times = even_times(count, fps)
    try:
        lo, hi = clip_bounds(times, count / fps, fps, constant, start, start + length)
    except DataError:
        assert start * fps > count - 1 - 1e-3
        return
    assert 0 <= lo <= hi <= count
    for indices in (
        midpoint_indices(lo, hi, n),
        random_indices(lo, hi, n, view_rng(seed, "a", "b", 0)),
    ):
        assert len(indices) == n
        assert np.all(np.diff(indices) >= 0)
        assert indices[0] >= lo
        assert indices[-1] < max(hi, lo + 1)
    if hi - lo >= n:
        assert count_repeats(midpoint_indices(lo, hi, n)) == 0
    else:
        assert count_repeats(midpoint_indices(lo, hi, n)) >= n - max(hi - lo, 1)


@given(clips)
def test_both_rules_agree_on_a_constant_rate(clip: tuple[int, float, float, float, int]) -> None:
    count, fps, start, length, _ = clip
    times = even_times(count, fps)
    try:
        by_number = clip_bounds(times, count / fps, fps, True, start, start + length)
        by_time = clip_bounds(times, count / fps, fps, False, start, start + length)
    except DataError:
        return
    # Float rounding at a frame's very edge may move a bound by one frame.
    assert abs(by_number[0] - by_time[0]) <= 1
    assert abs(by_number[1] - by_time[1]) <= 1


@given(st.integers(0, 2**31), st.text(max_size=8), st.text(max_size=8), st.integers(0, 9))
def test_a_view_draws_the_same_again_and_differs_from_its_neighbours(
    seed: int, video: str, clip: str, view: int
) -> None:
    first, second = (view_rng(seed, video, clip, view).random(4).tolist() for _ in range(2))
    assert first == second
    others = (
        view_rng(seed + 1, video, clip, view),
        view_rng(seed, video + "x", clip, view),
        view_rng(seed, video, clip + "x", view),
        view_rng(seed, video, clip, view + 1),
    )
    assert all(other.random(4).tolist() != first for other in others)


def test_view_draws_do_not_change_between_versions() -> None:
    """Frozen numbers: stored views must be found again after an update of any library."""
    draws = random_indices(0, 1000, 8, view_rng(7, "video7010", "0", 1))
    assert draws.tolist() == FROZEN_DRAW


FROZEN_DRAW = [20, 139, 258, 384, 544, 666, 754, 979]


def test_random_draws_are_uniform_in_their_segment() -> None:
    draws = np.array([random_indices(0, 40, 4, view_rng(s, "v", "c", 0)) for s in range(4000)])
    counts = np.array([np.bincount(draws[:, i] - 10 * i, minlength=10) for i in range(4)])
    assert counts.sum() == 16000
    # 400 expected per cell; 5 standard deviations of a binomial are about 95.
    assert np.abs(counts - 400).max() < 95
