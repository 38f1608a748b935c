"""Golden case 10: prompts and targets, from official annotation rows through our readers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.manifest import benchmark_names, load_manifest
from stages.benchmarks.prompts import letter_prompt, target
from stages.benchmarks.readers import read_questions


def write_csv(rows: list[dict[str, Any]], folder: Path) -> Path:
    file = folder / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_json(rows: list[dict[str, Any]], folder: Path) -> Path:
    file = folder / "rows.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    return file


def write_jsonl(rows: list[dict[str, Any]], folder: Path) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


WRITERS = {
    "nextqa": write_csv,
    "star": write_json,
    "how2qa": write_jsonl,
    "tvqa": write_jsonl,
    "vlep": write_jsonl,
}


@pytest.mark.parametrize("name", WRITERS)
def test_prompts_and_targets_equal_the_reference(
    vlap_golden: Any, tmp_path: Path, name: str
) -> None:
    cases = vlap_golden.json("case10_prompts")["datasets"][name]
    manifest = load_manifest(name)
    file = WRITERS[name]([case["raw_row"] for case in cases], tmp_path)
    questions = read_questions(manifest, "val", file).questions
    assert len(questions) == len(cases)
    for question, case in zip(questions, cases, strict=True):
        item = case["item"]
        assert letter_prompt(question, manifest.prompt) == item["qa_input"]
        assert target(question, "letter") == item["qa_output"]
        if case["clip_seconds"] is not None:
            assert [question.start, question.end] == case["clip_seconds"]


def test_every_benchmark_of_the_golden_set_that_we_know_is_compared(vlap_golden: Any) -> None:
    recorded = set(vlap_golden.json("case10_prompts")["datasets"])
    assert recorded & set(benchmark_names()) == set(WRITERS)
