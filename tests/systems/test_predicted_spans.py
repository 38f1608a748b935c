"""Frames inside another model's predicted spans: where they lie and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.artifacts.clips import ClipRows
from stages.benchmarks.questions import Question
from stages.core.errors import DataError
from stages.systems.predicted_spans import PredictedSpans, Windows, read_spans
from stages.systems.seen import SeenFrames


class NoFeatures:
    """Spans need no feature."""

    tokens = width = 1

    def read(self, rows: np.ndarray) -> np.ndarray:
        raise AssertionError("features were read")


def question(name: str) -> Question:
    return Question(
        question_id=name, videos=("v",), question="what ?", options=("a", "b"), answer=0,
        answer_text=None, start=None, end=None, type=None, spans=(), split="test", source_row=1,
    )  # fmt: skip


def chosen(windows: Windows, frames: int, keep: int) -> list[int]:
    numbers = np.arange(frames)
    clip = ClipRows(numbers, numbers, numbers.astype(np.float64))
    seen = SeenFrames(NoFeatures(), [question("a")], [clip], torch.device("cpu"))
    return PredictedSpans({"a": windows}).select(seen, keep).indices[0].tolist()


def test_frames_are_spread_over_the_best_window() -> None:
    assert chosen(((10.0, 17.0), (0.0, 3.0)), 32, 4) == [11, 13, 15, 17]


def test_a_short_window_is_filled_up_from_the_next_and_then_from_the_nearest() -> None:
    assert chosen(((10.0, 11.0), (20.0, 20.0)), 32, 3) == [10, 11, 20]
    assert chosen(((10.0, 11.0),), 32, 4) == [9, 10, 11, 12]


def test_a_window_between_two_frames_keeps_the_nearest() -> None:
    assert chosen(((5.2, 5.4),), 8, 1) == [5]


@given(
    st.lists(st.tuples(st.floats(0, 40), st.floats(0, 40)), min_size=1, max_size=4),
    st.integers(1, 32),
    st.data(),
)
def test_any_windows_keep_distinct_frames_in_time_order(
    pairs: list[tuple[float, float]], frames: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, frames))

    kept = chosen(tuple((min(pair), max(pair)) for pair in pairs), frames, keep)

    assert len(kept) == keep
    assert kept == sorted(set(kept))
    assert all(0 <= place < frames for place in kept)


def test_a_question_without_a_span_has_a_reason() -> None:
    selector = PredictedSpans({"a": ()})
    assert "no span" in selector.problem(question("a"))
    assert "no span" in selector.problem(question("b"))
    assert PredictedSpans({"b": ((0.0, 1.0),)}).problem(question("b")) == ""


def written(folder: Path, *rows: object) -> Path:
    file = folder / "spans.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_windows_with_scores_are_taken_best_first(tmp_path: Path) -> None:
    rows = [
        {"qid": 7, "pred_relevant_windows": [[0, 2, 0.1], [4, 6, 0.9]]},
        {"question_id": "x", "windows": [[3, 4], [1, 2]]},
    ]
    found = read_spans(written(tmp_path, *rows))
    assert found == {"7": ((4.0, 6.0), (0.0, 2.0)), "x": ((3.0, 4.0), (1.0, 2.0))}


@pytest.mark.parametrize(
    "row",
    [{"qid": 1}, {"windows": [[0, 1]]}, {"qid": 1, "windows": [[0]]}, {"qid": 1, "windows": ["a"]}],
)
def test_a_row_that_is_no_prediction_is_refused_with_its_number(
    tmp_path: Path, row: object
) -> None:
    good = {"qid": 3, "windows": [[0, 1]]}
    with pytest.raises(DataError, match="row 2"):
        read_spans(written(tmp_path, good, row))
