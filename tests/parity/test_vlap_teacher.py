"""Golden case 4: the teacher on all frames, loss with gradients and answers."""

from __future__ import annotations

from typing import Any

import torch


def test_teacher_loss_and_gradients_equal_the_reference(vlap_golden: Any) -> None:
    data = vlap_golden.tensors("case04_teacher_loss")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    teacher, text = vlap_golden.teacher(), vlap_golden.text(data, "train")
    backbone = teacher.backbone

    visual = backbone.visual_tokens(backbone.normalise(features), text)
    encoded = backbone.encode(visual, text)
    vlap_golden.close(visual, data["visual_embeds"], "visual_embeds")
    vlap_golden.close(encoded.hidden, data["encoder_out"], "encoder_out")
    assert torch.equal(encoded.mask, data["encoder_attention_mask"])

    output = teacher(features, text, data["labels"])
    vlap_golden.close(output.logits, data["logits"], "logits")
    vlap_golden.close(output.loss, data["loss"], "loss")
    output.loss.backward()
    recorded = sum(name.startswith("grad.") for name in data)
    assert vlap_golden.gradients_close(teacher, data, "grad.") == recorded > 100
    assert all(p.grad is None for p in backbone.language_model.parameters())


def test_letter_loss_builds_the_recorded_labels(vlap_golden: Any) -> None:
    data, note = vlap_golden.tensors("case04_teacher_loss"), vlap_golden.json("case04_teacher_loss")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    backbone, text = vlap_golden.teacher().backbone, vlap_golden.text(data, "train")
    encoded = backbone.encode(backbone.visual_tokens(backbone.normalise(features), text), text)
    answers = ["ABCDE".index(answer.split()[-1]) for answer in note["answers"]]
    vlap_golden.close(backbone.letter_loss(encoded, answers), data["loss"], "loss")


def test_loss_over_padded_labels_equals_the_reference(vlap_golden: Any) -> None:
    data = vlap_golden.tensors("case04_teacher_loss")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    teacher, text = vlap_golden.teacher(), vlap_golden.text(data, "train")
    output = teacher(features, text, data["padded_labels.labels"])
    vlap_golden.close(output.loss, data["padded_labels.loss"], "padded_labels.loss")


def test_teacher_answers_equal_the_reference(vlap_golden: Any) -> None:
    data = vlap_golden.tensors("case04_teacher_answer")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    teacher, text = vlap_golden.teacher().eval(), vlap_golden.text(data, "eval")
    backbone = teacher.backbone
    with torch.no_grad():
        visual = backbone.visual_tokens(backbone.normalise(features), text)
        encoded = backbone.encode(visual, text)
        forced = backbone.letter_logits(encoded)
        greedy = backbone.greedy_letters(encoded)
    vlap_golden.close(visual, data["visual_embeds"], "visual_embeds")
    vlap_golden.close(encoded.hidden, data["encoder_out"], "encoder_out")
    vlap_golden.close(greedy.scores_step0, data["scores_step0"], "scores_step0")
    vlap_golden.close(greedy.scores_step1, data["scores_step1"], "scores_step1")
    assert torch.equal(greedy.tokens, data["generated_first_tokens"])
    vlap_golden.close(forced, data["letter_logits"], "forced letters")
    letters = data["letter_logits"].shape[1]
    answer = teacher.answer(features, text, mode="letter", num_options=[letters] * len(features))
    assert torch.equal(answer.prediction, data["predicted_index"])
