"""Selectors keep the right number of frames, in time order, and know what they claim to know."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.artifacts.clips import ClipRows
from stages.benchmarks.questions import Question
from stages.core.errors import DataError, UsageError
from stages.systems.face import FrameSource
from stages.systems.seen import SeenFrames
from stages.systems.selectors import PLAIN_SELECTORS, plain_selector


def question(name: str, spans: tuple[tuple[float, float], ...] = ((2.0, 3.0),)) -> Question:
    return Question(
        question_id=name, videos=("v",), question="what ?", options=("a", "b"), answer=0,
        answer_text=None, start=None, end=None, type=None, spans=spans, split="test", source_row=1,
    )  # fmt: skip


class NoFeatures:
    """These selectors look at no feature."""

    tokens = width = 1

    def read(self, rows: np.ndarray) -> np.ndarray:
        raise AssertionError("features were read")


def batch(questions: list[Question], frames: int) -> SeenFrames:
    numbers = np.arange(frames)
    clip = ClipRows(numbers, numbers, numbers.astype(np.float64))
    return SeenFrames(NoFeatures(), questions, [clip] * len(questions), torch.device("cpu"))


def select(name: str, asked: SeenFrames, keep: int, seed: int = 0) -> torch.Tensor:
    return plain_selector(name, seed).select(asked, keep).indices


@given(st.sampled_from(["uniform", "random", "oracle"]), st.integers(1, 32), st.data())
def test_selectors_keep_distinct_frames_in_time_order(
    name: str, frames: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, frames))

    indices = select(name, batch([question("a"), question("b")], frames), keep)

    assert indices.shape == (2, keep)
    assert (indices.diff(dim=1) > 0).all()
    assert (indices >= 0).all()
    assert (indices < frames).all()


def test_uniform_is_the_midpoint_rule() -> None:
    assert select("uniform", batch([question("a")], 32), 4).tolist() == [[4, 12, 20, 28]]


def test_more_frames_than_there_are_is_an_error() -> None:
    with pytest.raises(DataError, match="only 4 are stored"):
        select("uniform", batch([question("a")], 4), 5)


def test_random_depends_on_seed_and_question_alone() -> None:
    first, second = question("a"), question("b")
    together = select("random", batch([first, second], 32), 4)

    alone = select("random", batch([second], 32), 4)

    assert torch.equal(together[1:], alone)
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(alone, select("random", batch([second], 32), 4, seed=1))


@given(st.lists(st.tuples(st.integers(0, 31), st.integers(0, 5)), min_size=1, max_size=3))
def test_the_oracle_takes_frames_inside_a_span_first(pairs: list[tuple[int, int]]) -> None:
    spans = tuple((float(low), float(low + length)) for low, length in pairs)
    inside = {t for t in range(32) if any(low <= t <= high for low, high in spans)}

    kept = set(select("oracle", batch([question("a", spans)], 32), 4)[0].tolist())

    assert len(kept & inside) == min(4, len(inside))


def test_the_oracle_needs_spans() -> None:
    with pytest.raises(UsageError, match="true spans"):
        select("oracle", batch([question("a", ())], 8), 2)
    assert "true spans" in plain_selector("oracle", 0).problem(question("a", ()))
    assert plain_selector("oracle", 0).problem(question("a")) == ""


@pytest.mark.parametrize("name", PLAIN_SELECTORS)
def test_a_selector_names_its_rule(name: str) -> None:
    assert plain_selector(name, 0).rule == ("midpoint" if name == "uniform" else name)


def test_uniform_has_frames_of_its_own_where_they_are_stored() -> None:
    stored = plain_selector("uniform", 0, stored=True)
    assert isinstance(stored, FrameSource)
    assert stored.rule == "stored"
    assert not isinstance(plain_selector("uniform", 0), FrameSource)


def test_unknown_selectors_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        plain_selector("best", 0)
    assert all(name in caught.value.hint for name in PLAIN_SELECTORS)
