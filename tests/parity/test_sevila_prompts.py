"""Golden case 11 and the recorded ids: every string character by character, cut at 77 ids."""

from __future__ import annotations

from typing import Any

import pytest

from stages.benchmarks.manifest import PromptRule, benchmark_names, load_manifest
from stages.benchmarks.prompts import letter_prompt, target
from stages.benchmarks.questions import Question
from stages.benchmarks.sevila_prompts import (
    LocalizerForm,
    localizer_form,
    localizer_prompt,
    moment_labels,
)

NEXT = "Upon observing the provided frames, what is the most probable subsequent event?"
RULES: dict[str, tuple[PromptRule, LocalizerForm]] = {
    "vlep": (PromptRule(question="{question}", instruction=""), "event"),
    "qvh": (PromptRule(), "moments"),
}
MANIFESTS = {"vlep": "vlep", "qvh": "qvhighlights"}


def question_of(item: dict[str, Any]) -> Question:
    """The annotation row, in the form that the reference's preparation gave it."""
    row, style = item["row"], item["style"]
    text = {"vlep": NEXT, "qvh": row.get("query", "")}.get(style) or row["question"]
    options = tuple(row[f"a{i}"] for i in range(row.get("num_option", 0)))
    answer = int(row["answer"]) if options else None
    spans = tuple((float(s), float(e)) for s, e in row.get("relevant_windows", ()))
    return Question(
        row["qid"], (row["video"],), text, options, answer, None, None, None, None, spans, "val", 1
    )


def items(golden: Any) -> list[dict[str, Any]]:
    found = [i for i in golden.json("case11_prompts")["items"] if "error" not in i["result"]]
    assert len(found) > 10
    return found


def test_prompts_and_targets_equal_the_reference(sevila_golden: Any) -> None:
    for item in items(sevila_golden):
        question, result = question_of(item), item["result"]
        rule, form = RULES.get(item["style"], (PromptRule(), "question"))
        assert localizer_prompt(question, rule, form) == result["loc_input"]
        if form == "moments":  # not used there; the answerer has nothing to answer
            assert rule.instruction == result["qa_input"]
        else:
            assert letter_prompt(question, rule) == result["qa_input"]
            assert target(question, "letter") == result["qa_output"]


def test_labels_by_time_equal_the_reference(sevila_golden: Any) -> None:
    moments = [item for item in items(sevila_golden) if item["style"] == "qvh"]
    assert moments
    for item in moments:
        times = [index / item["stub"]["fps"] for index in item["stub"]["idx"]]
        labels = moment_labels(times, question_of(item).spans)
        assert "_".join("yes" if label else "no" for label in labels) == item["result"]["qa_output"]


@pytest.mark.parametrize("style", sorted(MANIFESTS))
def test_the_benchmarks_own_manifest_gives_the_same_wording(style: str) -> None:
    if MANIFESTS[style] not in benchmark_names():
        pytest.skip(f"no manifest called {MANIFESTS[style]}")
    manifest = load_manifest(MANIFESTS[style])
    assert localizer_form(manifest) == RULES[style][1]
    if style == "vlep":
        assert manifest.default_question == NEXT
        assert manifest.prompt == RULES[style][0]


def recorded_prompts(golden: Any) -> list[tuple[str, list[int]]]:
    found = []
    for case in ("case03_localizer", "case04_answerer", "case05_chain"):
        note = golden.json(case)
        for key in ("loc_input", "qa_input"):
            found += [(item["text"], item["ids_as_fed"]) for item in note.get(key, [])]
    return found


def test_prompts_are_cut_to_the_recorded_ids(sevila_golden: Any) -> None:
    limit = sevila_golden.config["max_text_tokens"]
    recorded = recorded_prompts(sevila_golden)
    assert max(len(ids) for _, ids in recorded) == limit
    for text, ids in recorded:
        assert sevila_golden.text.encode_plain([text]).ids[0].tolist() == ids


def test_prompts_are_padded_on_the_right(sevila_golden: Any) -> None:
    data, note = sevila_golden.tensors("case05_chain"), sevila_golden.json("case05_chain")
    for kind in ("loc", "qa"):
        texts = [item["text"] for item in note[f"{kind}_input"]]
        ours = sevila_golden.text.encode_plain(texts)
        assert ours.ids.tolist() == data[f"{kind}_input_ids"].tolist()
        assert ours.mask.tolist() == data[f"{kind}_attention_mask"].tolist()


def test_frame_prefixes_end_in_a_space_piece(sevila_golden: Any) -> None:
    note, text = sevila_golden.json("case05_chain"), sevila_golden.text
    single = [item["ids_as_fed"] for item in note["prefix_single"]]
    numbered = [item["ids_as_fed"] for item in note["prefix_multi"]]
    assert text.frame_prefix().ids.tolist() == single
    assert text.numbered_prefixes(len(numbered)).ids.tolist() == numbered
    assert single[0][-1] == 3
