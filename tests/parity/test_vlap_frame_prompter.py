"""Golden cases 1 and 2: the frame prompter's numbers, gradients and gathered features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stages.models.frame_prompter import FramePrompter
from stages.models.selectors import FrameSelection


def losses(
    selection: FrameSelection, x: Tensor, data: dict[str, Tensor], tau: float
) -> dict[str, Tensor]:
    return {
        "mask": tau * (selection.mask * data["loss_weight_mask"]).sum(),
        "gather": tau * (selection.gather(x) * data["loss_weight_gather"]).sum(),
    }


@pytest.mark.parametrize("training", [True, False])
def test_frame_prompter_equals_the_reference(vlap_golden: Any, training: bool) -> None:
    for name in vlap_golden.cases("case01_frame_selector_"):
        data = vlap_golden.tensors(name)
        settings = [key.split(".", 2)[1:] for key in data if key.startswith("soft.")]
        assert len(settings) == 6  # three kinds of noise, two temperatures
        for noise, tau in settings:
            compare_prompter(vlap_golden, name, noise, tau, training=training)


def compare_prompter(golden: Any, name: str, noise: str, tau_name: str, *, training: bool) -> None:
    data, note = golden.tensors(name), golden.json(name)
    frames, keep, tau = note["T"], note["K"], float(tau_name.removeprefix("tau"))
    prompter = golden.prompter(data, frames, keep).train(training)
    x = data["x"].clone().requires_grad_()
    selection = prompter(x, noise=data[f"noise.{noise}"], tau=tau)

    mode = "train" if training else "eval"
    golden.close(selection.logits, data["logits"], "logits")
    golden.close(selection.soft, data[f"soft.{noise}.{tau_name}"], "soft")
    golden_mask = data[f"mask.{noise}.{tau_name}.{mode}"].flatten(1)
    golden.close(selection.mask, golden_mask, "mask")
    assert torch.equal(selection.mask == 0, golden_mask == 0)
    assert torch.equal(selection.indices, data[f"selected_index.{noise}.{tau_name}"])

    # S = 2: LayerNorm over two numbers leaves first-layer gradients of about 1e-5.
    limits = {"absolute": 1e-7, "share": 1e-3} if frames // keep == 2 else {}
    for kind, loss in losses(selection, x, data, tau).items():
        golden.close(loss, data[f"loss_{kind}.{noise}.{tau_name}"], f"loss_{kind}")
        compare_gradients(golden, data, prompter, x, loss, f"{kind}.{noise}.{tau_name}", limits)


def compare_gradients(
    golden: Any,
    data: dict[str, Tensor],
    prompter: FramePrompter,
    x: Tensor,
    loss: Tensor,
    setting: str,
    limits: dict[str, float],
) -> None:
    if ".zero." in setting:
        return  # the set records no gradients for it
    grads = torch.autograd.grad(loss, [x, *prompter.parameters()], retain_graph=True)
    theirs = {"fc1": "fs.conv_pool", "norm": "fs.ln", "fc2": "fs.conv_gs"}
    for (own, _), grad in zip(prompter.named_parameters(), grads[1:], strict=True):
        layer, kind = own.split(".")
        key = f"grad_{setting}.{theirs[layer]}.{kind}"
        golden.gradient_close(grad, data[key], key, **limits)
    if f"grad_{setting}.x" in data:
        golden.gradient_close(grads[0], data[f"grad_{setting}.x"], f"grad_{setting}.x")


@pytest.mark.parametrize("noise", ["gumbel", "zero"])
def test_gathered_frames_equal_what_the_reference_gave_its_qformer(
    vlap_golden: Any, noise: str
) -> None:
    weights = vlap_golden.tensors("weights_student")
    ln_vision = vlap_golden.backbone().ln_vision
    ln_vision.load_state_dict({k: weights[f"ln_vision.{k}"] for k in ("weight", "bias")})
    for name in vlap_golden.cases("case02_gather_"):
        data, note = vlap_golden.tensors(name), vlap_golden.json(name)
        x = ln_vision(data["vit_tokens"])
        prompter = vlap_golden.prompter(data, note["T"], note["K"])
        selection = prompter(x, noise=data[f"noise.{noise}"], tau=0.01)
        assert torch.equal(selection.indices, data[f"selected_index.{noise}"])
        vlap_golden.close(selection.gather(x), data[f"gathered.{noise}"], name)
