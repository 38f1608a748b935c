"""Golden case 7: from stored features to letters, with and without noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.mark.parametrize("noise", ["recorded_noise", "zero_noise"])
def test_inference_equals_the_reference(vlap_golden: Any, noise: str) -> None:
    data = vlap_golden.tensors(f"case07_inference_{noise}")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    student, text = vlap_golden.student().eval(), vlap_golden.text(data, "eval")
    backbone = student.backbone
    with torch.no_grad():
        frames = backbone.normalise(features)
        selection = student.frame_prompter(frames, noise=data["noise"], tau=0.01)
        kept = selection.gather(frames)
        outputs = backbone.query_outputs(kept, text)
        visual = backbone.project(outputs)
        encoded = backbone.encode(visual, text)
        greedy = backbone.greedy_letters(encoded)
        forced = backbone.letter_logits(encoded)
        prefix = data["generated_first_tokens"][:, :2]
        raw = backbone.decoder_logits(encoded, prefix)[:, 1]
    vlap_golden.close(selection.logits, data["selector_logits"], "selector_logits")
    assert torch.equal(selection.indices, data["selected_index"])
    vlap_golden.close(kept, data["gathered"], "gathered")
    vlap_golden.close(outputs, data["qformer_out"], "qformer_out")
    vlap_golden.close(visual, data["visual_embeds"], "visual_embeds")
    vlap_golden.close(encoded.hidden, data["encoder_out"], "encoder_out")
    assert torch.equal(encoded.mask, data["encoder_attention_mask"])
    vlap_golden.close(greedy.scores_step0, data["scores_step0"], "scores_step0")
    vlap_golden.close(greedy.scores_step1, data["scores_step1"], "scores_step1")
    vlap_golden.close(raw, data["raw_logits_step1"], "raw_logits_step1")
    assert torch.equal(greedy.tokens, data["generated_first_tokens"])
    vlap_golden.close(forced, data["letter_logits"], "forced prefix")
    assert torch.equal(forced.argmax(-1), data["predicted_index"])


def test_whole_answer_without_noise_equals_the_reference(vlap_golden: Any) -> None:
    data = vlap_golden.tensors("case07_inference_zero_noise")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    student, text = vlap_golden.student().eval(), vlap_golden.text(data, "eval")
    letters = data["letter_logits"].shape[1]
    answer = student.answer(features, text, mode="letter", num_options=[letters] * len(features))
    vlap_golden.close(answer.scores, data["letter_logits"], "letter_logits")
    assert torch.equal(answer.indices, data["selected_index"])
    assert torch.equal(answer.prediction, data["predicted_index"])


def test_free_first_token_that_is_a_letter_is_followed_like_the_reference(
    vlap_golden: Any,
) -> None:
    data = vlap_golden.tensors("case07_inference_first_token_is_letter")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    student = vlap_golden.student(answer="generate", restrict_options=False).eval()
    text, tokens = vlap_golden.text(data, "eval"), student.backbone.answer_tokens
    option_row, letter_row = data["override_lm_head_rows"]
    first_token = int(data["generated_first_tokens"][0, 1])
    assert first_token in tokens.letters
    with torch.no_grad():
        student.backbone.language_model.lm_head.weight[tokens.option] = option_row
        student.backbone.language_model.lm_head.weight[first_token] = letter_row
        selection = student.select(features, text)
        kept = student.backbone.normalise(selection.gather(features))
        visual = student.backbone.visual_tokens(kept, text)
        greedy = student.backbone.greedy_letters(student.backbone.encode(visual, text))
    assert torch.equal(selection.indices, data["selected_index"])
    vlap_golden.close(greedy.scores_step0, data["scores_step0"], "scores_step0")
    vlap_golden.close(greedy.scores_step1, data["scores_step1"], "scores_step1")
    assert torch.equal(greedy.tokens, data["generated_first_tokens"])
    answer = student.answer(features, text, mode="letter")
    vlap_golden.close(answer.scores, data["letter_logits"], "letter_logits")
    assert torch.equal(answer.prediction, data["predicted_index"])
