"""Retrieval ranks and what ties do to them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.scorers.retrieval import (
    RECALLS,
    TIE_RULES,
    Place,
    Places,
    best_caption_scores,
    found_within,
    places_of_texts,
    places_of_videos,
    ranks,
    retrieval_metrics,
)

places = st.builds(
    lambda better, tied, right: Place(better, tied, min(right, tied)),
    st.integers(0, 6),
    st.integers(1, 6),
    st.integers(1, 3),
)


@given(places, st.integers(1, 12))
def test_the_expected_rule_is_the_average_over_all_orders_of_the_tied(place: Place, k: int) -> None:
    block = [number < place.right for number in range(place.tied)]
    firsts = [place.better + order.index(True) for order in itertools.permutations(block)]
    some = Places.of([place])
    assert ranks(some, "expected")[0] == pytest.approx(np.mean(firsts))
    within = np.mean([first < k for first in firsts])
    assert found_within(some, k, "expected")[0] == pytest.approx(within)


@given(st.lists(places, min_size=1, max_size=8))
def test_recall_grows_with_k_and_figures_stay_in_range(some: list[Place]) -> None:
    for rule in TIE_RULES:
        metrics = retrieval_metrics(Places.of(some), rule)
        recalls = [metrics[f"R@{k}"] for k in RECALLS]
        assert recalls == sorted(recalls)
        assert 0 <= recalls[0] <= recalls[-1] <= 100
        assert metrics["MedR"] >= 1
        assert metrics["MeanR"] >= 1


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8))
def test_without_ties_all_rules_agree(better: list[int]) -> None:
    some = Places.of([Place(number) for number in better])
    tables = [retrieval_metrics(some, rule) for rule in TIE_RULES]
    assert all(table == pytest.approx(tables[0]) for table in tables[1:])


def test_equal_scores_throughout_give_chance() -> None:
    found = places_of_texts(np.zeros((20, 20)), np.arange(20))
    metrics = retrieval_metrics(found)
    assert (metrics["R@1"], metrics["R@10"]) == pytest.approx((5.0, 50.0))
    assert metrics["MeanR"] == pytest.approx(10.5)
    assert retrieval_metrics(found, "optimistic")["R@1"] == 100.0
    assert retrieval_metrics(found, "average")["R@1"] == 0.0


def test_every_position_of_a_tie_is_a_rank_of_its_own() -> None:
    some = Places.of([Place(0, tied=3), Place(1)])
    assert ranks(some, "every").tolist() == [0, 1, 2, 1]
    metrics = retrieval_metrics(some, "every")
    assert (metrics["R@1"], metrics["MedR"], metrics["MeanR"]) == (25.0, 2.0, 2.0)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.data())
def test_places_are_those_of_sorting_by_hand(
    videos: int, captions: int, data: st.DataObject
) -> None:
    scores = np.array(
        data.draw(
            st.lists(
                st.lists(st.integers(0, 3), min_size=videos, max_size=videos),
                min_size=videos * captions,
                max_size=videos * captions,
            )
        ),
        dtype=float,
    )
    columns = np.arange(videos * captions) // captions
    texts = places_of_texts(scores, columns)
    for row, column in enumerate(columns):
        own = scores[row, column]
        better = sum(value > own for value in scores[row])
        tied = sum(value == own for value in scores[row])
        assert texts[row] == Place(better, tied, 1)
    found = places_of_videos(scores, columns)
    for video in range(videos):
        own_captions = [scores[row, video] for row in range(len(columns)) if columns[row] == video]
        best = max(own_captions)
        column = scores[:, video]
        expected = Place(
            int((column > best).sum()), int((column == best).sum()), own_captions.count(best)
        )
        assert found[video] == expected


def test_a_video_is_found_by_its_best_caption() -> None:
    scores = np.array([[0.1, 0.5], [0.9, 0.2], [0.3, 0.4], [0.2, 0.6]])
    columns = np.array([0, 0, 1, 1])
    assert retrieval_metrics(places_of_videos(scores, columns))["R@1"] == 100.0
    assert best_caption_scores(scores, columns).tolist() == [[0.9, 0.3], [0.5, 0.6]]
