"""Figures and what belongs to them: bookkeeping, intervals, groups, keyframes."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.accuracy import (
    ScoredRow,
    is_correct,
    keyframe_metrics,
    random_recall,
    row_of,
    score,
)
from stages.benchmarks.statistics import (
    cluster_interval,
    macro,
    mcnemar,
    paired_difference,
    percent_by,
    tally,
)

NEXTQA, STAR, OPEN = load_manifest("nextqa"), load_manifest("star"), load_manifest("msrvtt-qa")
STAR_TYPES = ["Interaction", "Sequence", "Prediction", "Feasibility"]


def row(number: int, **values: Any) -> ScoredRow:
    defaults: dict[str, Any] = {
        "question_id": f"q{number}",
        "video": f"v{number // 3}",
        "type": "CW",
        "answer": 0,
        "prediction": 0,
        "status": "ok",
    }
    return ScoredRow(**(defaults | values))


@st.composite
def scored_rows(draw: st.DrawFn) -> list[ScoredRow]:
    count = draw(st.integers(0, 40))
    rows = []
    for number in range(count):
        status = draw(st.sampled_from(["ok", "ok", "ok", "failed", "unlabelled"]))
        rows.append(
            row(
                number,
                video=f"v{draw(st.integers(0, 6))}",
                type=draw(st.sampled_from([None, "CW", "CH", "TN", "DL"])),
                answer=None if status == "unlabelled" else draw(st.integers(0, 3)),
                prediction=draw(st.none() | st.integers(0, 3)),
                status=status,
                spans=draw(st.sampled_from([(), ((1.0, 2.0),), ((0.0, 0.5), (3.0, 9.0))])),
                kept_times=(0.25, 1.5),
                candidate_times=(0.0, 0.25, 1.5, 2.5, 4.0),
            )
        )
    return rows


@settings(deadline=None)
@given(scored_rows(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_no_bit(
    rows: list[ScoredRow], shuffler: random.Random
) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert score(rows, NEXTQA) == score(shuffled, NEXTQA)


@settings(deadline=None)
@given(scored_rows())
def test_every_question_is_counted_once_and_figures_are_percentages(rows: list[ScoredRow]) -> None:
    counts = tally([item.status for item in rows])
    assert counts.n_scored + counts.n_failed + counts.n_unlabelled == len(rows)
    assert counts.as_json()["n_questions"] == len(rows)
    metrics = score(rows, NEXTQA)
    if counts.n_scored == counts.n_failed == 0:
        assert metrics == {}
        return
    assert 0 <= metrics["accuracy_all"] <= metrics.get("accuracy", 0.0) <= 100
    if "ci95" in metrics:
        low, high = metrics["ci95"]
        assert 0 <= low <= high <= 100
    if counts.n_scored:
        right = metrics["accuracy"] / 100 * counts.n_scored
        assert math.isclose(right, round(right), abs_tol=1e-9)
        assert math.isclose(
            metrics["accuracy_all"] / 100 * (counts.n_scored + counts.n_failed), right
        )


@settings(deadline=None)
@given(scored_rows())
def test_types_and_groups_add_up_to_their_questions(rows: list[ScoredRow]) -> None:
    metrics = score(rows, NEXTQA)
    scored = [item for item in rows if item.status == "ok" and item.type]
    for name, value in metrics.get("by_type", {}).items():
        of_type = [item for item in scored if item.type == name]
        assert math.isclose(value, 100 * sum(bool(i.correct) for i in of_type) / len(of_type))
    for name, value in metrics.get("by_group", {}).items():
        inside = [item for item in scored if item.type in NEXTQA.groups[name]]
        assert math.isclose(value, 100 * sum(bool(i.correct) for i in inside) / len(inside))


def test_failures_count_as_wrong_in_accuracy_all_only() -> None:
    rows = [row(0), row(1, prediction=1), row(2, status="failed", prediction=None)]
    metrics = score(rows, NEXTQA)
    assert metrics["accuracy"] == 50.0
    assert metrics["accuracy_all"] == pytest.approx(100 / 3)


def test_when_everything_failed_there_is_no_accuracy_but_zero_of_all() -> None:
    metrics = score([row(0, status="failed"), row(1, status="failed")], NEXTQA)
    assert metrics == {"accuracy_all": 0.0}


def test_nothing_labelled_gives_no_metrics() -> None:
    assert score([row(0, answer=None, status="unlabelled")], NEXTQA) == {}
    assert score([], NEXTQA) == {}


def test_star_reports_the_unweighted_mean_only_when_all_types_are_there() -> None:
    rows = [row(i, type=name, prediction=0) for i, name in enumerate(STAR_TYPES)]
    rows += [row(9 + i, type="Sequence", prediction=1) for i in range(3)]
    metrics = score(rows, STAR)
    assert metrics["accuracy_macro"] == pytest.approx((100 + 25 + 100 + 100) / 4)
    assert metrics["accuracy"] == pytest.approx(400 / 7)
    assert "accuracy_macro" not in score(rows[1:], STAR)
    assert macro({"a": 1.0}, []) is None


def test_a_type_without_a_right_answer_is_zero_and_no_error() -> None:
    assert percent_by(["a", "b"], [False, True]) == {"a": 0.0, "b": 100.0}


@pytest.mark.parametrize(
    ("prediction", "answer", "correct"),
    [
        (2, 2, True),
        (1, 2, False),
        ("2", 2, False),
        (None, 2, False),
        (" Couch ", "couch", True),
        ("sofa", "couch", False),
        (None, "couch", False),
        (3, "3", False),
        (2, None, None),
    ],
)
def test_what_counts_as_right(
    prediction: int | str | None, answer: int | str | None, correct: bool | None
) -> None:
    assert is_correct(prediction, answer) is correct


def test_an_answered_question_without_a_label_is_unlabelled() -> None:
    question = Question("a", ("v",), "Who?", (), None, None, None, None, "who", (), "test", 1)
    made = row_of(question, "nobody", "ok")
    assert (made.status, made.correct) == ("unlabelled", None)
    assert row_of(question, None, "failed").status == "failed"


def test_open_ended_answers_are_scored_by_first_word() -> None:
    rows = [
        row(0, type="what", answer="couch", prediction="Couch"),
        row(1, type="who", answer="man", prediction="woman"),
    ]
    assert score(rows, OPEN)["by_type"] == {"what": 100.0, "who": 0.0}


def test_one_video_gives_no_interval() -> None:
    assert cluster_interval([1.0, 0.0], ["v", "v"]) is None
    assert "ci95" not in score([row(0), row(1)], NEXTQA)


def test_the_interval_is_seeded_and_clustered() -> None:
    values = [100.0 * (number % 2) for number in range(400)]
    apart = list(range(400))
    together = [number % 2 + 2 * (number // 40) for number in range(400)]
    one = cluster_interval(values, apart, seed=1)
    assert one == cluster_interval(values, apart, seed=1)
    assert one != cluster_interval(values, apart, seed=2)
    wide = cluster_interval(values, together)
    assert one is not None
    assert wide is not None
    assert wide[1] - wide[0] > 2 * (one[1] - one[0])
    # Normal theory for 400 independent coin flips: 50 ± 4.9.
    assert one == pytest.approx((45.1, 54.9), abs=0.5)


def test_the_interval_weighs_a_video_by_its_questions() -> None:
    values = [100.0] * 100 + [0.0] * 900
    clusters = [*range(100), *(100 + number // 9 for number in range(900))]
    interval = cluster_interval(values, clusters)
    assert interval is not None
    assert 6 < interval[0] < 10 < interval[1] < 15


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 4)), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_rows_changes_no_bit_of_an_interval(
    rows: list[tuple[float, int]], shuffler: random.Random
) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    one, two = (
        cluster_interval([v for v, _ in some], [c for _, c in some], num_resamples=20)
        for some in (rows, shuffled)
    )
    assert one == two


def test_paired_systems_are_compared_on_their_disagreements() -> None:
    first = [True] * 30 + [False] * 10 + [True] * 60
    second = [False] * 30 + [True] * 10 + [True] * 60
    result = paired_difference(first, second, list(range(100)))
    assert (result.only_first, result.only_second) == (30, 10)
    assert result.difference == 20.0
    exact = 2 * sum(math.comb(40, k) for k in range(30, 41)) / 2**40
    assert result.p_value == pytest.approx(exact)
    assert result.ci95 is not None
    assert result.ci95[0] < 20 < result.ci95[1]
    opposite = paired_difference(second, first, list(range(100)))
    assert (opposite.difference, opposite.p_value) == (-20.0, result.p_value)
    assert mcnemar(0, 0) == 1.0
    with pytest.raises(ValueError, match="not aligned"):
        paired_difference(first, second[1:], list(range(100)))


@given(st.integers(1, 8), st.data())
def test_chance_recall_is_the_share_of_all_draws(num_candidates: int, data: st.DataObject) -> None:
    inside = data.draw(st.integers(0, num_candidates))
    kept = data.draw(st.integers(1, num_candidates))
    draws = list(itertools.combinations(range(num_candidates), kept))
    hits = sum(any(index < inside for index in draw) for draw in draws)
    assert random_recall(inside, num_candidates, kept) == pytest.approx(hits / len(draws))


def test_keyframes_are_judged_against_the_true_spans() -> None:
    candidates = tuple(float(second) for second in range(8))
    spans = ((2.0, 3.0),)
    rows = [
        row(0, spans=spans, kept_times=(2.0, 7.0), candidate_times=candidates),
        row(1, spans=spans, kept_times=(0.0, 1.0), candidate_times=candidates),
        row(2, spans=spans, kept_times=(), candidate_times=candidates),
        row(3, kept_times=(1.0,)),
        row(4, spans=spans, kept_times=(2.5,), status="failed"),
    ]
    metrics = keyframe_metrics(rows)
    assert metrics["keyframe_recall"] == 50.0
    assert metrics["keyframe_precision"] == 25.0
    assert metrics["keyframe_recall_random"] == pytest.approx(100 * (1 - 15 / 28))
    without = keyframe_metrics([row(0, spans=spans, kept_times=(2.0,))])
    assert set(without) == {"keyframe_recall", "keyframe_precision"}
    assert keyframe_metrics([row(3, kept_times=(1.0,))]) == {}
