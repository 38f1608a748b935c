"""Counts and published figures on the real files, where they are at hand; skipped elsewhere."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.readers import ReadResult, read_questions
from stages.benchmarks.scorers.accuracy import ScoredRow, row_of, score

SHARED = Path(os.environ.get("VQA_SHARED", str(Path(__file__).resolve().parents[2] / "../shared")))
DATA = SHARED / "data"

NEXTQA_VAL = {
    "CW": 1924,
    "CH": 683,
    "TN": 895,
    "TC": 663,
    "TP": 54,
    "DO": 305,
    "DL": 295,
    "DC": 177,
}
NEXTQA_TEST = {
    **{"CW": 3329, "CH": 1173, "TN": 1399, "TC": 1165},
    **{"TP": 93, "DO": 600, "DL": 483, "DC": 322},
}
STAR_VAL = {"Interaction": 2398, "Sequence": 3586, "Prediction": 624, "Feasibility": 490}
STAR_TEST = {"Interaction": 2572, "Sequence": 3514, "Prediction": 716, "Feasibility": 575}
MSRVTT_VAL = {"what": 8337, "who": 3439, "how": 344, "when": 106, "where": 52}
MSRVTT_TEST = {"what": 49869, "who": 20385, "how": 1640, "when": 677, "where": 250}


def at_hand(relative: str) -> Path:
    path = DATA / relative
    if not path.exists():
        pytest.skip(f"{relative} is not at hand")
    return path


def read(benchmark: str, split: str, relative: str) -> ReadResult:
    return read_questions(load_manifest(benchmark), split, at_hand(relative))


def predictions_by_id(chosen: dict[str, int], questions: list[Question]) -> list[ScoredRow]:
    return [
        row_of(q, chosen.get(q.question_id), "ok" if q.question_id in chosen else "failed")
        for q in questions
    ]


@pytest.mark.parametrize(
    ("benchmark", "split", "relative", "layout", "types"),
    [
        ("nextqa", "val", "nextqa/val.csv.gz", "nextqa-csv", NEXTQA_VAL),
        ("nextqa", "test", "nextqa/test.csv.gz", "nextqa-csv", NEXTQA_TEST),
        ("nextqa", "val", "nextqa/variant_textanswer_val.csv.gz", "nextqa-text-csv", NEXTQA_VAL),
        ("nextqa", "test", "nextqa/variant_textanswer_test.csv.gz", "nextqa-text-csv", NEXTQA_TEST),
        ("star", "val", "star/val_sevila_format.json.gz", "sevila-json", STAR_VAL),
        ("star", "test", "star/test_sevila_format.json.gz", "sevila-json", STAR_TEST),
        ("msrvtt-qa", "val", "msrvtt_qa/val_qa.json.gz", "open-json", MSRVTT_VAL),
        ("msrvtt-qa", "val", "msrvtt_qa/val_hqga.csv.gz", "hqga-csv", MSRVTT_VAL),
        ("msrvtt-qa", "test", "msrvtt_qa/test_hqga.csv.gz", "hqga-csv", MSRVTT_TEST),
    ],
)
def test_counts_are_the_published_ones(
    benchmark: str, split: str, relative: str, layout: str, types: dict[str, int]
) -> None:
    result = read(benchmark, split, relative)
    expected = load_manifest(benchmark).splits[split]
    assert result.layout == layout
    assert not result.bad_rows
    assert len(result.questions) == expected.questions
    assert len({question.video for question in result.questions}) == expected.videos
    assert all(question.labelled is expected.labelled for question in result.questions)
    assert Counter(question.type for question in result.questions) == types


def test_the_two_nextqa_dialects_differ_where_the_specification_says() -> None:
    def by_id(relative: str, split: str) -> dict[str, Question]:
        return {q.question_id: q for q in read("nextqa", split, relative).questions}

    for split, options, answers in (
        ("val", {"7987845241_6"}, set()),
        ("test", set(), {"3842638015_4"}),
    ):
        index = by_id(f"nextqa/{split}.csv.gz", split)
        text = by_id(f"nextqa/variant_textanswer_{split}.csv.gz", split)
        assert list(index) == list(text)
        assert {i for i in index if index[i].options != text[i].options} == options
        assert {i for i in index if index[i].answer != text[i].answer} == answers


def test_the_two_text_answers_that_fit_twice_are_warned_about() -> None:
    assert "2 rows" in read("nextqa", "test", "nextqa/variant_textanswer_test.csv.gz").warnings[0]


def test_both_msrvtt_layouts_give_the_same_questions() -> None:
    a = read("msrvtt-qa", "val", "msrvtt_qa/val_qa.json.gz").questions
    b = read("msrvtt-qa", "val", "msrvtt_qa/val_hqga.csv.gz").questions
    assert [(q.question_id, q.video, q.answer_text, q.type) for q in a] == [
        (q.question_id, q.video, q.answer_text, q.type) for q in b
    ]
    assert [q.question for q in a] == [f"{q.question}?" for q in b]


def test_star_official_record_equals_its_reduced_form(tmp_path: Path) -> None:
    record = json.loads(at_hand("star/sample_question_official_schema.json").read_text())
    path = tmp_path / "STAR_val.json"
    path.write_text(json.dumps([record]))
    (official,) = read_questions(load_manifest("star"), "val", path).questions
    reduced = read("star", "val", "star/val_sevila_format.json.gz").questions
    (same,) = [q for q in reduced if q.question_id == official.question_id]
    assert replace(official, source_row=same.source_row) == same


def test_questions_with_nan_like_words_are_kept() -> None:
    result = read("nextqa", "test", "nextqa/test.csv.gz")
    assert all(isinstance(text, str) for q in result.questions for text in q.options)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("HGA-bert-ft-h256-val-example", "val"),
        ("HQGA-test", "test"),
        ("TranSTR-test-61.97", "test"),
    ],
)
def test_nextqa_figures_equal_the_official_scorers(name: str, split: str) -> None:
    folder = "nextqa/scorer_samples"
    golden = json.loads(at_hand(f"{folder}/golden_metrics.json").read_text())[name]["metrics"]
    table = json.loads(gzip.decompress(at_hand(f"{folder}/{name}.json.gz").read_bytes()))
    questions = read("nextqa", split, f"nextqa/{split}.csv.gz").questions
    chosen = {question_id: item["prediction"] for question_id, item in table.items()}
    metrics = score(predictions_by_id(chosen, questions), load_manifest("nextqa"))
    by_type, by_group = metrics["by_type"], metrics["by_group"]
    ours = {
        "Why": by_type["CW"],
        "How": by_type["CH"],
        "Bef&Aft": by_group["TN+TP"],
        "When": by_type["TC"],
        "Cnt": by_type["DC"],
        "Loc": by_type["DL"],
        "Other": by_type["DO"],
        "Acc_C": by_group["C"],
        "Acc_T": by_group["T"],
        "Acc_D": by_group["D"],
        "Acc": metrics["accuracy"],
    }
    assert {key: float(f"{value:.2f}") for key, value in ours.items()} == golden


def test_sevila_predictions_on_temporal_questions_give_the_recorded_accuracy() -> None:
    path = at_hand("nextqa/scorer_samples/SeViLA_test_predictions_telicity.csv.gz")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        chosen = {
            row["id"].partition("_")[2]: int(row["prediction"]) for row in csv.DictReader(stream)
        }
    # The file's ids are TYPE_qid_video.
    chosen = {"_".join(reversed(name.split("_"))): value for name, value in chosen.items()}
    questions = [
        q for q in read("nextqa", "test", "nextqa/test.csv.gz").questions if q.question_id in chosen
    ]
    assert len(questions) == len(chosen) == 2060
    metrics = score(predictions_by_id(chosen, questions), load_manifest("nextqa"))
    assert f"{metrics['accuracy']:.2f}" == "58.01"


def star_predictions(name: str) -> dict[str, int]:
    path = at_hand(f"star/scorer_samples/{name}.jsonl.gz")
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return {row["question_id"]: row["pred_ans_idx"] for row in rows}


@pytest.mark.parametrize(
    "name", ["videotf_4f", "videotf_16f", "videotf_64f", "video_llava_vot_results"]
)
def test_star_figures_equal_the_official_scorers(name: str) -> None:
    golden = json.loads(at_hand("star/scorer_samples/golden_metrics.json").read_text())
    expected = golden["metrics"][name]
    chosen = star_predictions(name)
    questions = read("star", "val", "star/val_sevila_format.json.gz").questions
    asked = [question for question in questions if question.question_id in chosen]
    assert len(asked) == expected["total"]
    metrics = score(predictions_by_id(chosen, asked), load_manifest("star"))
    assert metrics["accuracy"] == pytest.approx(expected["micro_accuracy_percent"], abs=1e-9)
    for kind, value in metrics["by_type"].items():
        assert value == pytest.approx(expected[kind], abs=1e-9)
    if len(metrics["by_type"]) == 4:
        assert metrics["accuracy_macro"] == pytest.approx(expected["agg_metrics"], abs=1e-9)
    else:
        # The reference falls back to micro accuracy as a fraction.
        assert "accuracy_macro" not in metrics
        assert metrics["accuracy"] / 100 == pytest.approx(expected["agg_metrics"], abs=1e-11)
