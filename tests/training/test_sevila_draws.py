"""Frames that SeViLA's training draws afresh in every epoch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.core.midpoints import segment_edges
from stages.training.draws import random_positions, random_view

names = st.text(max_size=12)


@given(st.integers(0, 99), st.integers(0, 99), names, st.integers(1, 80), st.integers(1, 12))
def test_one_frame_of_each_segment_is_drawn(
    seed: int, epoch: int, name: str, frames: int, keep: int
) -> None:
    drawn = random_positions(seed, epoch, name, frames, keep)
    edges = segment_edges(0, frames, keep)
    for position, low, high in zip(drawn, edges[:-1], edges[1:], strict=True):
        assert position == low if low == high else low <= position < high
    assert drawn.tolist() == sorted(drawn.tolist())
    assert random_positions(seed, epoch, name, frames, keep).tolist() == drawn.tolist()


def test_every_frame_of_a_segment_is_drawn_and_epochs_and_questions_differ() -> None:
    drawn = [random_positions(3, epoch, "q", 32, 4).tolist() for epoch in range(200)]
    for segment in range(4):
        assert {row[segment] for row in drawn} == set(range(8 * segment, 8 * segment + 8))
    assert drawn != [random_positions(4, epoch, "q", 32, 4).tolist() for epoch in range(200)]
    assert drawn != [random_positions(3, epoch, "p", 32, 4).tolist() for epoch in range(200)]


def test_all_frames_are_drawn_where_as_many_are_asked_for() -> None:
    assert random_positions(0, 0, "q", 8, 8).tolist() == list(range(8))


@given(st.integers(0, 99), st.integers(0, 99), names, st.integers(1, 5))
def test_a_view_is_one_of_those_stored(seed: int, epoch: int, name: str, views: int) -> None:
    assert 1 <= random_view(seed, epoch, name, views) <= views


def test_without_views_the_plain_frames_are_shown() -> None:
    assert random_view(1, 2, "q", 0) == 0
    assert {random_view(1, epoch, "q", 3) for epoch in range(50)} == {1, 2, 3}
