"""Golden case 6: the distillation decoder alone, K != T."""

from __future__ import annotations

from typing import Any

import torch

from stages.models.losses import distillation_mse
from stages.models.qformer_distiller import DistillDecoder


def test_distillation_decoder_equals_the_reference(vlap_golden: Any) -> None:
    data, note = vlap_golden.tensors("case06_distiller"), vlap_golden.json("case06_distiller")
    for variant in note["variants"]:
        prefix = variant["prefix"]
        value = {k.removeprefix(f"{prefix}."): v for k, v in data.items() if k.startswith(prefix)}
        own = {name: tensor for name, tensor in value.items() if name.startswith("dist_fc_bn.")}
        sizes = (variant["T"], variant["K"], variant["queries"])
        decoder = vlap_golden.decoder(own, *sizes)
        names = {"0": "fc", "1": "norm"}
        tokens = value["input"].clone().requires_grad_()
        output = decoder(tokens)
        vlap_golden.close(output, value["output"], f"{prefix}.output")
        loss = distillation_mse(output, value["target"])
        vlap_golden.close(loss, value["mse"], f"{prefix}.mse")
        loss.backward()
        vlap_golden.gradient_close(tokens.grad, value["grad.input"], f"{prefix}.grad.input")
        for theirs, ours in names.items():
            for kind in ("weight", "bias"):
                grad = getattr(getattr(decoder, ours), kind).grad
                key = f"grad.dist_fc_bn.{theirs}.{kind}"
                vlap_golden.gradient_close(grad, value[key], f"{prefix}.{key}")


def test_fc_variant_gives_the_values_before_the_norm(vlap_golden: Any) -> None:
    data, note = vlap_golden.tensors("case06_distiller"), vlap_golden.json("case06_distiller")
    for variant in note["variants"]:
        prefix = variant["prefix"]
        decoder = DistillDecoder(variant["in_tokens"], variant["out_tokens"], "fc")
        weight, bias = (data[f"{prefix}.dist_fc_bn.0.{kind}"] for kind in ("weight", "bias"))
        decoder.load_state_dict({"fc.weight": weight, "fc.bias": bias})
        with torch.no_grad():
            output = decoder(data[f"{prefix}.input"])
        vlap_golden.close(output.transpose(1, 2), data[f"{prefix}.linear_out"], prefix)
