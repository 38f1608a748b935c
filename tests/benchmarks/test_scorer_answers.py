"""Answers by overlapping categories, by candidate videos, and under the public scorers' names."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.judge import Judged, judge
from stages.benchmarks.scorers.moments import Moments
from stages.benchmarks.scorers.retrieval import Place, Places
from stages.benchmarks.scorers.rows import ScoredRow, row_of
from stages.benchmarks.scorers.rules import DIFFERENCES, Rules, rule_sentences

PUBLISHED = Rules(as_published=True)


def row(number: int, **values: Any) -> ScoredRow:
    defaults: dict[str, Any] = {
        "question_id": f"q{number}",
        "video": f"v{number // 2}",
        "type": None,
        "answer": "yes",
        "prediction": "yes",
        "status": "ok",
    }
    return ScoredRow(**(defaults | values))


def judged(benchmark: str, rows: list[ScoredRow], **values: Any) -> Judged:
    return judge(rows, load_manifest(benchmark), **values)


# --- categories ------------------------------------------------------------------------------


def test_a_question_counts_in_each_of_its_categories_and_once_in_accuracy() -> None:
    rows = [
        row(0, categories=("Object-relation", "Exists")),
        row(1, categories=("Exists",), prediction="no"),
        row(2, categories=("Sequencing", "Sequencing"), prediction=" Yes "),
        row(3, categories=("Exists",), status="failed", prediction=None),
    ]
    metrics = judged("agqa", rows).metrics
    assert metrics["by_type"] == {"Exists": 50.0, "Object-relation": 100.0, "Sequencing": 100.0}
    assert metrics["accuracy"] == pytest.approx(200 / 3)
    assert metrics["accuracy_all"] == 50.0


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["yes", "no"]), st.sets(st.sampled_from("abcd"), max_size=4)),
        min_size=1,
        max_size=25,
    ),
    st.randoms(use_true_random=False),
)
def test_categories_add_up_and_the_order_of_rows_changes_nothing(
    answers: list[tuple[str, set[str]]], shuffler: random.Random
) -> None:
    rows = [
        row(n, prediction=text, categories=tuple(sorted(names)))
        for n, (text, names) in enumerate(answers)
    ]
    found = judged("egotaskqa", rows)
    for name, value in found.metrics.get("by_type", {}).items():
        inside = [item for item in rows if name in item.categories]
        assert value == pytest.approx(100 * sum(bool(i.correct) for i in inside) / len(inside))
    shares = [value for value in found.values if value is not None]
    assert sum(shares) / len(shares) == pytest.approx(found.metrics["accuracy"])
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert judged("egotaskqa", shuffled).metrics == found.metrics


# --- inter and intra -------------------------------------------------------------------------


def candidates(kinds: dict[str, list[bool]]) -> list[ScoredRow]:
    pairs = [(kind, right) for kind, rights in kinds.items() for right in rights]
    return [
        row(n, type=kind, answer=1, prediction=1 if right else 3)
        for n, (kind, right) in enumerate(pairs)
    ]


def test_inter_and_intra_are_named_the_right_way_round() -> None:
    rows = candidates({"inter": [True, True, True, False], "intra": [True, False]})
    metrics = judged("egomcq", rows).metrics
    assert (metrics["inter"], metrics["intra"]) == (75.0, 50.0)
    assert metrics["accuracy"] == pytest.approx(400 / 6)


def test_as_published_their_names_are_exchanged() -> None:
    rows = candidates({"inter": [True, True, True, False], "intra": [True, False]})
    metrics = judged("egomcq", rows, rules=PUBLISHED).metrics
    assert (metrics["inter"], metrics["intra"]) == (50.0, 75.0)


def test_as_published_a_type_that_is_alone_is_called_intra() -> None:
    rows = candidates({"inter": [True, False]})
    assert judged("egomcq", rows).metrics["inter"] == 50.0
    published = judged("egomcq", rows, rules=PUBLISHED).metrics
    assert published["intra"] == 50.0
    assert "inter" not in published


def test_of_several_videos_the_right_one_is_what_intervals_are_clustered_by() -> None:
    question = Question(
        "0", ("a", "b"), "#C C opens it", ("video 1", "video 2"), 1, None, None, None,
        "inter", (), "val", 1, clips=((0.0, 1.0), (0.0, 1.0)),
    )  # fmt: skip
    assert row_of(question, 0, "ok").video == "b"


# --- STAR ------------------------------------------------------------------------------------

STAR = ("Interaction", "Sequence", "Prediction", "Feasibility")


def star_rows(kinds: tuple[str, ...], wrong: tuple[str, ...] = ()) -> list[ScoredRow]:
    return [
        row(2 * n + half, type=kind, answer=0, prediction=1 if kind in wrong or half else 0)
        for n, kind in enumerate(kinds)
        for half in (0, 1)
    ]


def test_the_aggregate_is_the_mean_of_the_types_and_a_fraction_without_all_of_them() -> None:
    whole = judged("star", star_rows(STAR), rules=PUBLISHED).metrics
    assert whole["agg_metrics"] == whole["accuracy_macro"] == 50.0
    part = judged("star", star_rows(STAR[:2]), rules=PUBLISHED)
    assert part.metrics["agg_metrics"] == 0.5
    ours = judged("star", star_rows(STAR[:2]))
    assert "agg_metrics" not in ours.metrics
    assert "accuracy_macro" not in ours.metrics
    assert "Prediction, Feasibility" in ours.notes[0]


def test_as_published_there_is_no_aggregate_when_a_type_has_no_right_answer() -> None:
    found = judged("star", star_rows(STAR, wrong=("Sequence",)), rules=PUBLISHED)
    assert "agg_metrics" not in found.metrics
    assert found.metrics["by_type"]["Sequence"] == 0.0
    assert any("no agg_metrics" in note for note in found.notes)


# --- the door --------------------------------------------------------------------------------


def test_rows_whose_video_is_not_known_give_no_interval() -> None:
    rows = [row(n, video=None) for n in range(4)]
    found = judged("agqa", rows)
    assert "ci95" not in found.metrics
    assert found.notes == ["no interval: the questions' videos are not known"]


def test_moments_are_judged_over_the_rows_that_are_ok() -> None:
    def query(number: int, **values: Any) -> ScoredRow:
        made = {"answer": None, "spans": ((0.0, 10.0),), "duration": 20.0} | values
        return row(number, **made)

    hit, miss = Moments(((0.0, 10.0, 0.9),)), Moments(((12.0, 20.0, 0.9),))
    rows = [
        query(0, prediction=hit),
        query(1, prediction=None, status="failed"),
        query(2, prediction=miss),
    ]
    found = judged("qvhighlights", rows)
    assert found.ci95_of == "R1@0.5"
    assert found.metrics["R1@0.5"] == 50.0
    assert found.values == [100.0, None, 0.0]
    assert len(found.metrics["ci95"]) == 2
    empty = judged("qvhighlights", [query(0, prediction=Moments(()))], rules=PUBLISHED)
    assert empty.metrics.keys().isdisjoint({"R1@0.5", "mAP"})
    assert empty.values == [None]


def test_as_published_moments_without_windows_have_no_share() -> None:
    rows = [
        row(0, answer=None, spans=((0.0, 10.0),), prediction=Moments(((0.0, 10.0, 1.0),))),
        row(2, answer=None, spans=((0.0, 10.0),), prediction=Moments(())),
    ]
    found = judged("qvhighlights", rows, rules=PUBLISHED)
    assert found.ci95_of == "mAP"
    assert found.values == [pytest.approx(100.0), None]


def test_retrieval_has_an_interval_of_the_first_recall() -> None:
    rows = [row(n, answer=None, prediction=Place(n % 2)) for n in range(6)]
    found = judged("didemo", rows, videos=Places.of([Place(0), Place(3)]))
    assert (found.ci95_of, found.metrics["R@1"]) == ("R@1", 50.0)
    assert found.metrics["video_to_text"]["R@1"] == 50.0
    every = judged("didemo", rows, rules=Rules(ties="every"))
    assert every.ci95_of is None
    assert set(every.values) == {None}


def test_nothing_scored_gives_no_metrics() -> None:
    failed = [row(0, prediction=None, status="failed", answer=None)]
    assert judged("qvhighlights", failed).metrics == {}
    assert judged("didemo", failed).metrics == {}
    assert judged("agqa", [row(0, answer=None, status="unlabelled")]).metrics == {}


@pytest.mark.parametrize("benchmark", sorted(DIFFERENCES))
def test_every_difference_is_said_both_ways(benchmark: str) -> None:
    manifest = load_manifest(benchmark)
    ours = rule_sentences(manifest, Rules())
    published = rule_sentences(manifest, Rules(True, "every"))
    assert ours
    assert len(ours) == len(published)
    assert not set(ours) & set(published)
