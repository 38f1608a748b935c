"""The K best frames, with a rule for ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.errors import ConfigError
from stages.models.selectors import first_argmax, stable_top_k

SCORES = st.lists(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 7.0, -torch.inf]), min_size=6, max_size=6),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(SCORES, st.integers(1, 6))
def test_best_frames_with_the_earlier_one_first_on_a_tie(
    scores: list[list[float]], keep: int
) -> None:
    chosen = stable_top_k(torch.tensor(scores), keep)
    for row, by_score, indices, ties in zip(
        scores,
        chosen.by_score.tolist(),
        chosen.indices.tolist(),
        chosen.ties.tolist(),
        strict=True,
    ):
        expected = sorted(range(6), key=lambda i: (-row[i], i))[:keep]
        assert by_score == expected
        assert indices == sorted(expected)
        left_out = [row[i] for i in range(6) if i not in expected]
        assert ties == left_out.count(row[expected[-1]])


def test_a_tie_inside_the_kept_frames_is_no_tie() -> None:
    chosen = stable_top_k(torch.tensor([[3.0, 3.0, 1.0, 0.0], [3.0, 1.0, 1.0, 1.0]]), 2)
    assert chosen.indices.tolist() == [[0, 1], [0, 1]]
    assert chosen.ties.tolist() == [0, 2]
    assert chosen.values.tolist() == [[3, 3], [3, 1]]


def test_scores_in_bfloat16_tie_where_float32_does_not() -> None:
    scores = torch.tensor([[4.0, 4.01, 4.002, 1.0]])
    exact = stable_top_k(scores, 1)
    assert (exact.indices.tolist(), exact.ties.tolist()) == ([[1]], [0])
    rounded = stable_top_k(scores.to(torch.bfloat16), 1)
    assert (rounded.indices.tolist(), rounded.ties.tolist()) == ([[0]], [2])


def test_a_score_that_is_no_number_is_never_preferred() -> None:
    chosen = stable_top_k(torch.tensor([[torch.nan, -5.0, 2.0, torch.nan]]), 2)
    assert chosen.indices.tolist() == [[1, 2]]


@pytest.mark.parametrize("keep", [0, 5])
def test_impossible_numbers_of_frames_are_refused(keep: int) -> None:
    with pytest.raises(ConfigError, match="of 4 frames"):
        stable_top_k(torch.zeros(1, 4), keep)


@settings(deadline=None)
@given(st.lists(st.sampled_from([-2.0, 0.0, 1.0]), min_size=1, max_size=8))
def test_first_of_the_largest(values: list[float]) -> None:
    assert first_argmax(torch.tensor([values])).tolist() == [values.index(max(values))]
