"""Golden case 5: student losses and gradients, with either Q-Former in the teacher branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

REFERENCE = "case05_student_loss_REFERENCE_teacher_branch_uses_student_qformer"
PATCHED = "case05_student_loss_PATCHED_teacher_branch_uses_qformer_T"
OPTIONS = {
    REFERENCE: {"teacher": "shared", "teacher_mode": "train"},
    PATCHED: {"teacher": "frozen", "teacher_mode": "eval"},
}


@pytest.mark.parametrize("name", [REFERENCE, PATCHED])
def test_student_losses_and_gradients_equal_the_reference(vlap_golden: Any, name: str) -> None:
    data, inputs = vlap_golden.tensors(name), vlap_golden.tensors(REFERENCE)
    student = vlap_golden.student(**OPTIONS[name])
    text = vlap_golden.text(inputs, "train")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"].requires_grad_()
    tau = vlap_golden.json(name)["temperature"]

    output = student(features, text, inputs["labels"], noise=inputs["noise"], tau=tau)
    assert torch.equal(output.indices, data["selected_index"])
    vlap_golden.close(output.task_loss, data["task_loss"], "task_loss")
    vlap_golden.close(output.distill_loss, data["dist_loss"], "dist_loss")
    vlap_golden.close(output.loss, data["total_loss"], "total_loss")
    targets = student.teacher_targets(features, text)
    vlap_golden.close(targets, data["teacher_target"], "teacher_target")

    output.distill_loss.backward(retain_graph=True)
    small = sum(key.startswith("grad_dist_only.") for key in data)
    assert vlap_golden.gradients_close(student, data, "grad_dist_only.") == small > 10
    student.zero_grad(set_to_none=True)
    features.grad = None
    output.loss.backward()
    recorded = sum(key.startswith("grad.") for key in data)
    assert vlap_golden.gradients_close(student, data, "grad.") == recorded > 100
    if "grad_vit_tokens" in data:
        vlap_golden.gradient_close(features.grad, data["grad_vit_tokens"], "grad_vit_tokens")
    assert student.teacher is not None
    assert all(parameter.grad is None for parameter in student.teacher.parameters())


def test_student_intermediates_equal_the_reference(vlap_golden: Any) -> None:
    data = vlap_golden.tensors(REFERENCE)
    student, text = vlap_golden.student(**OPTIONS[REFERENCE]), vlap_golden.text(data, "train")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    tau = vlap_golden.json(REFERENCE)["temperature"]
    output = student(features, text, data["labels"], noise=data["noise"], tau=tau)
    vlap_golden.close(output.selection.logits, data["selector_logits"], "selector_logits")
    vlap_golden.close(output.selection.soft, data["selector_soft"], "selector_soft")
    vlap_golden.close(output.logits, data["logits"], "logits")

    backbone = student.backbone
    kept = output.selection.gather(backbone.normalise(features))
    outputs = backbone.query_outputs(kept, text)
    vlap_golden.close(outputs, data["student_qformer_out"], "student_qformer_out")
    visual = backbone.project(outputs)
    vlap_golden.close(visual, data["student_visual_embeds"], "student_visual_embeds")
    decoded = student.distill_decoder(visual)
    vlap_golden.close(decoded, data["distiller_out_tokens_first"], "distiller_out")


def test_kept_teacher_targets_give_the_same_loss(vlap_golden: Any) -> None:
    data, inputs = vlap_golden.tensors(PATCHED), vlap_golden.tensors(REFERENCE)
    student, text = vlap_golden.student(**OPTIONS[PATCHED]), vlap_golden.text(inputs, "train")
    features = vlap_golden.tensors("inputs_main")["vit_tokens"]
    targets = student.teacher_targets(features, text)
    output = student(
        features, text, inputs["labels"], noise=inputs["noise"], teacher_targets=targets
    )
    vlap_golden.close(output.loss, data["total_loss"], "total_loss")
