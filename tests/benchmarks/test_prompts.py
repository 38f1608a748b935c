"""The strings that enter the language model; the reference's where its cases are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.manifest import PromptRule, load_manifest
from stages.benchmarks.prompts import (
    candidates,
    letter_prompt,
    letter_target,
    prompt,
    rank_prompt,
    target,
)
from stages.benchmarks.questions import Question
from stages.benchmarks.readers import read_questions
from stages.core.errors import UsageError

PLAIN = PromptRule()
NEXTQA = load_manifest("nextqa").prompt


def make(
    question: str, *options: str, answer: int | None = None, text: str | None = None
) -> Question:
    return Question("q", ("v",), question, options, answer, text, None, None, None, (), "val", 1)


def test_the_letter_prompt_lists_the_options() -> None:
    question = make("Who sings?", "A robot.", "A stone.", answer=1)
    assert prompt(question, "letter", PLAIN) == (
        "Question: Who sings? Option A: A robot. Option B: A stone. Considering the information "
        "presented in the frame, select the correct answer from the options."
    )
    assert target(question, "letter") == "Option B"
    assert candidates(question, "letter") == ("Option A", "Option B")


def test_the_rank_prompt_has_no_list_and_ranks_the_texts() -> None:
    question = make("who sings", "a robot ", "a stone", answer=0)
    assert prompt(question, "rank", NEXTQA) == "Question: who sings?"
    assert candidates(question, "rank") == ("a robot", "a stone")
    assert target(question, "rank") == "a robot"


def test_nextqa_gets_its_endings_and_the_others_none() -> None:
    question = make("who sings", "a robot", "a stone")
    text = letter_prompt(question, NEXTQA)
    assert text.startswith("Question: who sings? Option A: a robot. Option B: a stone. Consid")
    assert letter_prompt(question, load_manifest("star").prompt).startswith(
        "Question: who sings Option A: a robot Option B: a stone Consid"
    )


def test_both_msrvtt_layouts_give_one_prompt() -> None:
    rule = load_manifest("msrvtt-qa").prompt
    asked, bare = make("who digs?", text="robot"), make("who digs", text="robot")
    assert rank_prompt(asked, rule) == rank_prompt(bare, rule) == "Question: who digs?"
    assert target(bare, "rank") == "robot"
    assert candidates(bare, "rank") == ()


def test_an_open_ended_question_has_no_letters() -> None:
    with pytest.raises(UsageError, match="no options"):
        letter_prompt(make("who digs?", text="robot"), PLAIN)


def test_an_unlabelled_question_has_no_target() -> None:
    assert target(make("Who?", "x", "y"), "letter") is None
    assert target(make("Who?"), "rank") is None


def test_letters_go_to_twenty_six() -> None:
    options = tuple(f"o{number}" for number in range(26))
    assert letter_target(25) == "Option Z"
    assert "Option Z: o25" in letter_prompt(make("Who?", *options), PLAIN)


def golden_cases() -> dict[str, Any]:
    shared = os.environ.get("VQA_SHARED", str(Path(__file__).resolve().parents[2] / "../shared"))
    folder = Path(os.environ.get("VQA_GOLDEN_VLAP", str(Path(shared) / "golden" / "vlap")))
    path = folder / "case10_prompts.json"
    if not path.exists():
        pytest.skip("the reference's prompts are not at hand")
    return dict(json.loads(path.read_text(encoding="utf-8"))["datasets"])


def test_nextqa_prompts_equal_the_references(tmp_path: Path) -> None:
    cases = golden_cases()["nextqa"]
    rows = [case["raw_row"] for case in cases]
    path = tmp_path / "val.csv"
    quoted = [",".join(f'"{value}"' for value in row.values()) for row in rows]
    path.write_text("\n".join([",".join(rows[0]), *quoted]), encoding="utf-8")
    (tmp_path / "map_vid_vidorID.json").write_text(
        json.dumps({str(case["raw_row"]["video"]): case["prepared_row"]["video"] for case in cases})
    )
    check("nextqa", path, cases)


def test_star_prompts_equal_the_references_in_both_layouts(tmp_path: Path) -> None:
    cases = golden_cases()["star"]
    for name in ("raw_row", "prepared_row"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([case[name] for case in cases]), encoding="utf-8")
        check("star", path, cases)


def check(benchmark: str, path: Path, cases: list[dict[str, Any]]) -> None:
    manifest = load_manifest(benchmark)
    result = read_questions(manifest, "val", path)
    assert not result.bad_rows
    assert len(result.questions) == len(cases)
    for question, case in zip(result.questions, cases, strict=True):
        item = case["item"]
        assert letter_prompt(question, manifest.prompt) == item["qa_input"]
        assert target(question, "letter") == item["qa_output"]
        assert f"{question.video}.mp4" == case["video_path_below_root"]
        clip = None if question.start is None else [question.start, question.end]
        assert clip == case["clip_seconds"]
