"""The drop without the video: by type, paired, relative as the paper prints it."""

from __future__ import annotations

import pytest

from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.shortcuts import language_drop


def question(number: int, kind: str, categories: tuple[str, ...] = ()) -> Question:
    return Question(
        question_id=str(number),
        videos=(f"v{number % 3}",),
        question="?",
        options=("a", "b"),
        answer=0,
        answer_text=None,
        start=None,
        end=None,
        type=kind,
        spans=(),
        split="test",
        source_row=number + 1,
        categories=categories,
    )


def test_the_drop_is_seeing_minus_blind_per_type() -> None:
    asked = [question(number, "x" if number < 4 else "y") for number in range(8)]
    seeing = [True, True, True, False, True, True, True, True]
    blind = [True, False, False, False, True, True, True, True]
    whole, parts = language_drop(asked, seeing, blind, load_manifest("shapes"))
    assert whole is not None
    assert (whole.seeing, whole.blind, whole.points) == (87.5, 62.5, 25.0)
    assert whole.change == pytest.approx(-100 * 25 / 87.5)
    assert (parts["x"].points, parts["y"].points) == (50.0, 0.0)
    assert whole.ci95 is not None
    assert whole.ci95[0] <= 25.0 <= whole.ci95[1]


def test_only_questions_that_both_runs_answered_count() -> None:
    asked = [question(number, "x") for number in range(3)]
    whole, _ = language_drop(
        asked, [True, None, True], [False, True, None], load_manifest("shapes")
    )
    assert whole is not None
    assert whole.questions == 1
    assert language_drop(asked, [None] * 3, [True] * 3, load_manifest("shapes")) == (None, {})


def test_overlapping_categories_each_count() -> None:
    asked = [question(0, "x", ("one", "two")), question(1, "x", ("two",))]
    _, parts = language_drop(asked, [True, True], [False, True], load_manifest("agqa"))
    assert {name: part.points for name, part in parts.items()} == {"one": 100.0, "two": 50.0}


def test_nothing_right_has_no_relative_change() -> None:
    whole, _ = language_drop([question(0, "x")], [False], [True], load_manifest("shapes"))
    assert whole is not None
    assert whole.change is None
