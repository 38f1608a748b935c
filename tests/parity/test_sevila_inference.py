"""Golden cases 3, 4 and 5: frame scores, answers in every layout, and the whole forward chain."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.models.backbones.text import FramePrefixes, PromptIds
from stages.models.selectors import first_argmax
from stages.models.sevila import Sevila
from stages.models.sevila_rows import Rows


def first_step(model: Sevila, encoded: Any) -> Tensor:
    start = torch.zeros(len(encoded), 1, dtype=torch.long)
    return model.backbone.decoder_logits(encoded, start)[:, 0]


def second_step(model: Sevila, encoded: Any, first: Tensor) -> Tensor:
    ids = torch.stack([torch.zeros_like(first), first], dim=1)
    return model.backbone.decoder_logits(encoded, ids)[:, 1]


# --- case 3 --------------------------------------------------------------------------------------


@torch.no_grad()
def test_localizer_equals_the_reference_step_by_step(sevila_golden: Any) -> None:
    case, data = "case 03", sevila_golden.tensors("case03_localizer")
    model = sevila_golden.sevila()
    features = sevila_golden.features(sevila_golden.tensors("case05_chain")["video"])
    outputs = model.localizer.query_outputs(features).flatten(0, 1)
    sevila_golden.close(case, outputs, data["qformer_loc_output"], "qformer_loc_output")
    tokens = model.localizer_tokens(features)
    sevila_golden.close(case, tokens.flatten(0, 1), data["proj_loc_output"], "proj_loc_output")

    rows = Rows.of(model.backbone, tokens, sevila_golden.prompts(data, "loc"), single=True)
    assert torch.equal(rows.prefixes().ids, data["prefix_ids"])
    text = rows.text.rows(rows.owners)
    embeds, mask = model.backbone.encoder_input(
        tokens.flatten(0, 1)[:, None], text, rows.prefixes()
    )
    assert torch.equal(mask, data["encoder_attention_mask"])
    sevila_golden.close(case, embeds[0], data["inputs_embeds_row0"], "inputs_embeds")
    encoded = rows.encode()
    hidden = encoded.hidden[:: tokens.shape[1]]
    sevila_golden.close(case, hidden, data["encoder_last_hidden_rows"], "encoder")
    logits = first_step(model, encoded)
    sevila_golden.close(case, logits, data["step0_logits"], "step0_logits")
    assert torch.equal(first_argmax(logits), data["step0_argmax"])


@pytest.mark.parametrize("budget", [1, 5, 256])
def test_frame_scores_and_keyframes_equal_the_reference(sevila_golden: Any, budget: int) -> None:
    data, note = sevila_golden.tensors("case03_localizer"), sevila_golden.json("case03_localizer")
    model = sevila_golden.sevila(row_budget=budget)
    features = sevila_golden.features(sevila_golden.tensors("case05_chain")["video"])
    scores = model.score_frames(
        model.localizer_tokens(features), sevila_golden.prompts(data, "loc")
    )
    sevila_golden.close("case 03", scores.yes, data["yes_logits"], "yes_logits")
    no = data["step0_logits"][:, sevila_golden.config["no_id"]].view_as(scores.no)
    sevila_golden.close("case 03", scores.no, no, "no logits")
    chosen = model.select(scores, note["K"])
    assert torch.equal(chosen.indices, data["frame_idx"])
    assert torch.equal(chosen.by_score, data["topk_indices_unsorted"])
    sevila_golden.close("case 03", chosen.values, data["topk_values"], "topk_values")
    assert chosen.ties.tolist() == [0] * len(features)


# --- case 4 --------------------------------------------------------------------------------------

SINGLE = ("single", "best_frame")


def ends_at_once(golden: Any) -> int:
    """The sample that the sub-cases with an early `</s>` are about."""
    notes = golden.json("case04_answerer")["sub_cases"]["eos_all"]["notes"]
    found = re.search(r"batch = sample (\d+)", notes)
    assert found, notes
    return int(found.group(1))


def situation(golden: Any, name: str) -> tuple[Sevila, Tensor, PromptIds, FramePrefixes]:
    """Model, rows of frames' features [R, F, N, C], prompts and prefixes of a sub-case."""
    data = golden.tensors("case04_answerer")
    model = golden.sevila()
    if name.startswith("eos"):
        with torch.no_grad():
            head = model.backbone.language_model.lm_head.weight
            head[golden.config["eos_id"]] = data["eos_first.lm_head_row_1"]
    prompts = golden.prompts(data, "qa")
    if name == "best_frame":
        features = golden.features(golden.tensors("case05_chain")["video"])
        features = features[torch.arange(len(features)), data["best_frame.frame"]][:, None]
    else:
        features = golden.features(data["video_K"])
    if name == "eos_all":
        only = ends_at_once(golden)
        features, prompts = features[only : only + 1], prompts.rows(torch.tensor([only]))
    if name in SINGLE:
        owners = torch.arange(len(features)).repeat_interleave(features.shape[1])
        kind = "single"
        features, prompts = features.flatten(0, 1)[:, None], prompts.rows(owners)
    else:
        kind = "padded" if name == "padded_prefix" else "multi"
    prefixes = FramePrefixes(data[f"prefix_{kind}_ids"], data.get(f"prefix_{kind}_mask"))
    if prefixes.mask is None:
        prefixes = FramePrefixes(prefixes.ids, torch.ones_like(prefixes.ids))
    return model, features, prompts, prefixes


@pytest.mark.parametrize(
    "name", ["multi", "single", "padded_prefix", "best_frame", "eos_first", "eos_all"]
)
@torch.no_grad()
def test_answerer_equals_the_reference_in_every_layout(sevila_golden: Any, name: str) -> None:
    case, data = "case 04", sevila_golden.tensors("case04_answerer")
    model, features, prompts, prefixes = situation(sevila_golden, name)
    golden = {
        key.removeprefix(f"{name}."): value
        for key, value in data.items()
        if key.startswith(f"{name}.")
    }
    tokens = model.answerer_tokens(features)
    sevila_golden.close(case, tokens.flatten(0, 1), golden["proj_output"], "proj_output")
    embeds, mask = model.backbone.encoder_input(tokens, prompts, prefixes)
    assert torch.equal(mask, golden["encoder_attention_mask"])
    sevila_golden.close(case, embeds[0], golden["inputs_embeds_row0"], "inputs_embeds")

    encoded = model.backbone.encode(tokens, prompts, prefixes)
    steps = model.backbone.greedy_letters(encoded)
    sevila_golden.close(case, steps.first_logits, golden["step0_logits"], "step0_logits")
    assert torch.equal(steps.first_token, golden["step0_argmax"])
    assert torch.equal(steps.first_token, golden["sequences"][:, 1])
    if name == "eos_all":  # the reference stops there and reads the letters of the first step
        letters = steps.first_logits[:, list(model.backbone.answer_tokens.letters)]
    else:
        second = second_step(model, encoded, steps.first_token)
        sevila_golden.close(case, second, golden["step1_logits"], "step1_logits")
        letters = steps.letters
    sevila_golden.close(case, letters, golden["letter_logits"], "letter_logits")
    assert torch.equal(first_argmax(letters), golden["prediction"])


def test_letters_from_the_public_answers_are_the_recorded_ones(sevila_golden: Any) -> None:
    data, note = sevila_golden.tensors("case04_answerer"), sevila_golden.json("case04_answerer")
    model, prompts = sevila_golden.sevila(), sevila_golden.prompts(data, "qa")
    tokens = model.answerer_tokens(sevila_golden.features(data["video_K"]))
    options = [len(note["answer_id"])] * len(tokens)
    joint = model.answer_letters(tokens, prompts, options)
    sevila_golden.close("case 04", joint, data["multi.letter_logits"], "multi")
    alone = model.frame_letters(tokens, prompts, options).flatten(0, 1)
    sevila_golden.close("case 04", alone, data["single.letter_logits"], "single")


def test_a_row_that_ends_at_once_is_answered_as_in_a_batch_that_goes_on(
    sevila_golden: Any,
) -> None:
    """The reference's fallback depends on the other rows of the batch; ours answers each alone."""
    data = sevila_golden.tensors("case04_answerer")
    model, features, prompts, _ = situation(sevila_golden, "eos_all")
    options = [len(model.backbone.answer_tokens.letters)]
    letters = model.answer_letters(model.answerer_tokens(features), prompts, options)
    only = ends_at_once(sevila_golden)
    golden = data["eos_first.letter_logits"][only : only + 1]
    sevila_golden.close("case 04", letters, golden, "eos alone")


# --- case 5 --------------------------------------------------------------------------------------


@torch.no_grad()
def test_forward_chain_from_pixels_to_answer_equals_the_reference(sevila_golden: Any) -> None:
    case, data = "case 05", sevila_golden.tensors("case05_chain")
    note = sevila_golden.json("case05_chain")
    model, keep = sevila_golden.sevila(), note["K"]
    features = sevila_golden.features(data["video"])
    loc, qa = (sevila_golden.prompts(data, kind) for kind in ("loc", "qa"))
    scores = model.score_frames(model.localizer_tokens(features), loc)
    sevila_golden.close(case, scores.yes, data["yes_logits"], "yes_logits")
    chosen = model.select(scores, keep).indices
    assert torch.equal(chosen, data["frame_idx"])
    assert chosen.tolist() == note["result"]["frame_idx"]
    assert torch.equal(model.keyframes(features, loc, keep).indices, chosen)

    kept = features[torch.arange(len(features))[:, None], chosen]
    outputs = model.backbone.answerer.query_outputs(kept)
    sevila_golden.close(case, outputs, data["qformer_output"], "qformer_output")
    tokens = model.answerer_tokens(kept)
    sevila_golden.close(case, tokens, data["proj_output"], "proj_output")
    rows = Rows.of(model.backbone, tokens, qa, single=False)
    assert torch.equal(rows.prefixes().ids, data["prefix_multi_ids"])
    assert torch.equal(rows.prefixes().mask, data["prefix_multi_mask"])
    embeds, mask = model.backbone.encoder_input(tokens, rows.text, rows.prefixes())
    assert torch.equal(mask, data["encoder_attention_mask"])
    sevila_golden.close(case, embeds, data["inputs_embeds"], "inputs_embeds")
    encoded = rows.encode()
    sevila_golden.close(case, encoded.hidden, data["encoder_last_hidden"], "encoder")
    steps = model.backbone.greedy_letters(encoded)
    sevila_golden.close(case, steps.first_logits, data["step0_logits"], "step0_logits")
    assert torch.equal(steps.first_token, data["step0_argmax"])
    second = second_step(model, encoded, steps.first_token)
    sevila_golden.close(case, second, data["step1_logits"], "step1_logits")
    letters = model.answer_letters(tokens, qa, [len(note["answer_id"])] * len(tokens))
    sevila_golden.close(case, letters, data["letter_logits"], "letter_logits")
    assert torch.equal(first_argmax(letters), data["prediction"])
    assert first_argmax(letters).tolist() == note["result"]["output_text"]


def test_forward_chain_from_strings_gives_the_same_answers(sevila_golden: Any) -> None:
    data, note = sevila_golden.tensors("case05_chain"), sevila_golden.json("case05_chain")
    model = sevila_golden.sevila()
    features = sevila_golden.features(data["video"])
    localizer, answerer = (
        [item["text"] for item in note[key]] for key in ("loc_input", "qa_input")
    )
    scores = model.score_frames(model.localizer_tokens(features), localizer)
    sevila_golden.close("case 05", scores.yes, data["yes_logits"], "yes_logits")
    chosen = model.select(scores, note["K"]).indices
    tokens = model.answerer_tokens(features)[torch.arange(len(features))[:, None], chosen]
    letters = model.answer_letters(tokens, answerer, [len(note["answer_id"])] * len(tokens))
    sevila_golden.close("case 05", letters, data["letter_logits"], "letter_logits")
