"""Answer keys: what scorers read where there are no questions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.answer_keys import key_layout, read_key
from stages.benchmarks.layouts.keys import KeyRow
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.readers import read_questions
from stages.core.errors import DataError

SOLUTION = {"split": "tvqa_val", "solution": {"Castle": {"3": 4, "5": 0}, "Friends": {"9": 1}}}
EGOTASK = [
    {"question_id": 0, "reasoning_type": "prediction$multi-agent$state", "answer": "cup"},
    {"question_id": 1, "reasoning_type": "descriptive$direct", "answer": "no", "prediction": "x"},
]
EGOMCQ = [{"id": "0", "answer": 2, "types": 1}, {"id": "1", "answer": 0, "types": 2, "scores": [1]}]


def write(tmp_path: Path, value: Any, indent: int | None = None) -> Path:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(value, indent=indent))
    return path


@pytest.mark.parametrize("indent", [None, 2])
def test_tvqa_answers_are_grouped_by_show(tmp_path: Path, indent: int | None) -> None:
    path = write(tmp_path, SOLUTION, indent)
    assert key_layout(path) == "tvqa-solution"
    assert read_key(load_manifest("tvqa"), "dev", path) == [
        KeyRow("3", 4, type="Castle"),
        KeyRow("5", 0, type="Castle"),
        KeyRow("9", 1, type="Friends"),
    ]


def test_egotaskqa_categories_have_the_names_that_are_reported(tmp_path: Path) -> None:
    rows = read_key(load_manifest("egotaskqa"), "test", write(tmp_path, EGOTASK))
    assert rows[0].categories == ("predictive", "multi-agent", "state")
    assert [(row.question_id, row.answer) for row in rows] == [("0", "cup"), ("1", "no")]


def test_egomcq_one_is_inter_and_two_is_intra(tmp_path: Path) -> None:
    rows = read_key(load_manifest("egomcq"), "val", write(tmp_path, EGOMCQ))
    assert [(row.type, row.answer, row.num_options) for row in rows] == [
        ("inter", 2, 5),
        ("intra", 0, 5),
    ]


@pytest.mark.parametrize("value", [SOLUTION, EGOTASK, EGOMCQ])
def test_a_key_given_in_place_of_the_questions_is_recognised(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path, value)
    for name in ("tvqa", "egotaskqa", "egomcq"):
        manifest = load_manifest(name)
        with pytest.raises(DataError, match="answers and no questions") as caught:
            read_questions(manifest, manifest.report_split, path)
        assert "vqa score" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (EGOMCQ, "egomcq-key"),
        ([{"a": 1}], "no answer key"),
        ({"split": "tvqa_val", "solution": {"Castle": {"3": "four"}}}, "row 1: 3:"),
        ({"split": "tvqa_val", "solution": {"Castle": {"3": None}}}, "row 1: 3: missing"),
        ({"split": "x", "solution": {"Castle": {"3": 1}, "Friends": {"3": 1}}}, "second time"),
        ({"split": "x", "solution": {"Castle": 3}}, "row 1: Castle"),
    ],
)
def test_a_wrong_key_is_an_error_that_says_where(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_key(load_manifest("tvqa"), "val", write(tmp_path, value))


def test_the_real_keys_have_the_recorded_sizes(shared: Path) -> None:
    tvqa = read_key(load_manifest("tvqa"), "val", shared / "data/tvqa/tvqa_val_solution.json")
    assert len(tvqa) == 15253
    assert Counter(row.type for row in tvqa) == {
        **{"Friends": 3920, "Castle": 3311, "House M.D.": 3234, "The Big Bang Theory": 3017},
        **{"How I Met You Mother": 1043, "Grey's Anatomy": 728},
    }
    assert (min(int(r.question_id) for r in tvqa), max(int(r.question_id) for r in tvqa)) == (
        122039,
        137291,
    )
    folder = shared / "data/egotaskqa/scorer_samples"
    rows = read_key(load_manifest("egotaskqa"), "test", folder / "synthetic_0.json")
    counts = json.loads((folder / "synthetic_0.metrics.json").read_text())["counts"]
    assert Counter(code for row in rows for code in row.categories) == counts
    egomcq = shared / "data/egomcq/scorer_samples/synthetic_0.json"
    assert {row.type for row in read_key(load_manifest("egomcq"), "val", egomcq)} == {
        "inter",
        "intra",
    }
