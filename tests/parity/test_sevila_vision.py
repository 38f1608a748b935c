"""Golden cases 1, 2 and 12: tower, both sides' Q-Formers, and the eps of every normalisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn


def outputs_of(modules: list[nn.Module], run: Any) -> list[Tensor]:
    """What each of `modules` gave while `run()` went on."""
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hooks = [module.register_forward_hook(keep) for module in modules]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def test_tower_equals_the_reference_block_by_block(sevila_golden: Any) -> None:
    case, data = "case 01", sevila_golden.tensors("case01_vit")
    tower = sevila_golden.tower()
    blocks = list(tower.model.encoder.layers)
    results: list[Tensor] = []
    seen = outputs_of(blocks, lambda: results.append(tower.features(data["pixels"])))
    sevila_golden.close(case, tower.model.embeddings(data["pixels"]), data["embeddings"], "embed")
    recorded = sorted(name for name in data if name.startswith("block_"))
    assert recorded
    for name in recorded:
        sevila_golden.close(case, seen[int(name.removeprefix("block_"))], data[name], name)
    sevila_golden.close(case, results[0], data["vit_tokens"], "vit_tokens")


@pytest.mark.parametrize(("side", "mark"), [("answerer", ""), ("localizer", "_loc")])
def test_side_equals_the_reference_layer_by_layer(sevila_golden: Any, side: str, mark: str) -> None:
    data, image = sevila_golden.tensors("case02_qformer"), sevila_golden.tensors("case01_vit")
    model = sevila_golden.sevila()
    module = model.side(side)
    normalised = module.ln_vision(image["vit_tokens"])
    sevila_golden.close("case 01", normalised, image[f"ln_vision{mark}_tokens"], "ln_vision")
    sevila_golden.close("case 02", normalised, data[f"image_tokens{mark}"], "image_tokens")

    features = image["vit_tokens"][None]
    watched = [module.qformer.layernorm, *module.qformer.encoder.layer]
    tokens: list[Tensor] = []
    tokens_of = model.answerer_tokens if side == "answerer" else model.localizer_tokens
    seen = outputs_of(watched, lambda: tokens.append(tokens_of(features)))
    for number, hidden in enumerate(seen):
        golden = data[f"qformer{mark}_hidden_{number}"]
        shown = hidden.expand_as(golden)  # queries are normalised once for all frames
        sevila_golden.close("case 02", shown, golden, f"hidden {number}")
    outputs = module.query_outputs(features)[0]
    sevila_golden.close("case 02", outputs, data[f"qformer{mark}_output"], "output")
    sevila_golden.close("case 02", tokens[0][0], data[f"proj{mark}_output"], "projection")


def test_every_normalisation_has_the_references_eps(sevila_golden: Any) -> None:
    note, data = (
        sevila_golden.json("case12_norm_probes"),
        sevila_golden.tensors("case12_norm_probes"),
    )
    model, tower = sevila_golden.sevila(), sevila_golden.tower()
    qformer = model.backbone.answerer.qformer
    modules = {
        "vit_block0_norm1": tower.model.encoder.layers[0].layer_norm1,
        "ln_vision": model.backbone.answerer.ln_vision,
        "ln_vision_loc": model.localizer.ln_vision,
        "qformer_embeddings_LayerNorm": qformer.layernorm,
        "qformer_layer0_output_query_LayerNorm": qformer.encoder.layer[0].output_query.LayerNorm,
        "t5_encoder_final_layer_norm": model.backbone.language_model.encoder.final_layer_norm,
    }
    assert set(modules) == set(note["modules"])
    for name, module in modules.items():
        with torch.no_grad():
            output = module(data[f"{name}.input"])
        sevila_golden.close("case 12", output, data[f"{name}.output"], name)
