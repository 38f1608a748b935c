"""Golden case 12: frame numbers read in evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.core.midpoints import midpoint_indices
from stages.video.sampling import clip_bounds


def indices_of(row: dict[str, Any]) -> list[int]:
    count, fps = row["video_frames"], row["fps"]
    times = np.arange(count) / fps
    start, end = row["clip_seconds"] or (None, None)
    lo, hi = clip_bounds(times, count / fps, fps, True, start, end)
    return midpoint_indices(lo, hi, row["n_frms"]).tolist()


def test_frame_indices_equal_the_reference(vlap_golden: Any) -> None:
    rows = [r for r in vlap_golden.json("case12_frame_indices")["rows"] if r["accepted_by_dataset"]]
    assert rows
    for row in rows:
        assert indices_of(row) == row["indices"], row


def test_videos_that_the_reference_replaces_repeat_frames_here(vlap_golden: Any) -> None:
    rows = vlap_golden.json("case12_frame_indices")["rows"]
    for row in (row for row in rows if not row["accepted_by_dataset"]):
        ours = indices_of(row)
        assert len(ours) == row["n_frms"] > row["frames_returned"]
        assert set(ours) <= set(range(row["video_frames"]))
        assert ours == sorted(ours)
