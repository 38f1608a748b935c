"""blip2-flan-t5-xl and SeViLA in full size on the meta device: every name, shape and count."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2VisionModel

from stages.core.errors import DataError
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.vision import vision_config
from stages.models.parameters import parameter_counts
from stages.models.reference_names import (
    huggingface_from_sevila_name,
    reference_from_ours,
    reference_from_ours_name,
    sevila_from_huggingface_name,
    sevila_from_reference,
    sevila_from_reference_name,
)
from stages.models.sevila import Sevila, side_state

CONFIG: dict[str, Any] = {
    "model_type": "blip-2",
    "num_query_tokens": 32,
    # The library's default of 1e-10 would make a random tower's features zero.
    "vision_config": {"initializer_range": 0.02},
    "qformer_config": {},
    "text_config": {
        "model_type": "t5",
        "vocab_size": 32_128,
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "tie_word_embeddings": False,
        "decoder_start_token_id": 0,
    },
}
SIDE = 105_137_664 + 24_576 + 1_574_912
"""Q-Former, queries and projection (specs/sevila.md 1.1)."""


@cache
def whole_layout() -> dict[str, torch.Size]:
    """Names and shapes of the checkpoint as transformers lays it out."""
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(Blip2Config(**CONFIG))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def on_meta() -> Sevila:
    with torch.device("meta"):
        return Sevila(Blip2.from_config(CONFIG))


def own_shapes(model: Sevila) -> dict[str, torch.Size]:
    return {name.removeprefix("backbone."): t.shape for name, t in model.state_dict().items()}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_the_published_ones() -> None:
    model = on_meta()
    for name in ("answerer", "localizer"):
        side = model.side(name)  # type: ignore[arg-type]
        assert count(side.qformer) == 105_137_664
        assert side.query_tokens.numel() == 24_576
        assert count(side.language_projection) == 1_574_912
        assert count(side.ln_vision) == 2_816
        assert len(side.qformer.state_dict()) == 254
    counts = parameter_counts(model.train_side("localizer"))
    assert counts["answerer"] == counts["localizer"] == counts["trainable"] == SIDE + 2_816
    assert counts["language_model"] == pytest.approx(2.85e9, rel=0.01)
    with torch.device("meta"):
        tower = Blip2VisionModel(vision_config(CONFIG, "here"))
    total = counts["total"] + count(tower) - 2_816  # its last norm is `ln_vision`
    assert total == pytest.approx(4.05e9, rel=0.003)
    assert counts["trainable"] / total == pytest.approx(0.027, rel=0.05)


def test_every_tensor_of_the_answerers_side_is_in_the_layout() -> None:
    layout = whole_layout()
    asked = {}
    for name, shape in own_shapes(on_meta()).items():
        stored = huggingface_from_sevila_name(name)
        assert (stored is None) == name.startswith("localizer."), name
        if stored is not None:
            assert layout[stored] == shape, name
            assert sevila_from_huggingface_name(stored) == name
            asked[stored] = shape
    assert all(name.startswith("vision_model.") for name in set(layout) - set(asked))


def test_every_name_maps_to_the_reference_and_back() -> None:
    names = list(own_shapes(on_meta()))
    names += [sevila_from_huggingface_name(name) for name in whole_layout()]
    for name in names:
        if name.endswith(".qkv.bias"):
            continue  # q and v biases are one tensor here and are mapped by value
        assert sevila_from_reference_name(reference_from_ours_name(name)) == name


def test_the_released_checkpoint_has_518_tensors_that_fill_both_sides() -> None:
    state = side_state(on_meta(), "answerer", "localizer")
    reference = {reference_from_ours_name(name): tensor for name, tensor in state.items()}
    assert len(reference) == 518
    assert sum(tensor.numel() for tensor in reference.values()) == 213_479_936
    for name in ("ln_vision_loc.bias", "query_tokens_loc", "t5_proj_loc.weight", "t5_proj.bias"):
        assert name in reference
    assert "Qformer_loc.bert.embeddings.LayerNorm.weight" in reference
    layer = "Qformer.bert.encoder.layer.11"
    assert f"{layer}.attention.self.query.weight" in reference
    assert f"{layer}.crossattention.self.query.weight" not in reference  # even layers only
    ours, unknown = sevila_from_reference(reference)
    assert (set(ours), unknown) == (set(state), [])


def test_text_parts_of_a_stage_1_qformer_are_dropped() -> None:
    layer = "bert.encoder.layer.3"
    dropped = [
        "Qformer.cls.predictions.bias",
        "Qformer_loc.bert.embeddings.word_embeddings.weight",
        "Qformer.bert.embeddings.position_embeddings.weight",
        "Qformer.bert.embeddings.position_ids",
        f"Qformer.{layer}.intermediate.dense.weight",
        f"Qformer_loc.{layer}.output.LayerNorm.bias",
    ]
    kept = [
        f"Qformer.{layer}.intermediate_query.dense.weight",
        f"Qformer_loc.{layer}.output_query.LayerNorm.bias",
        f"Qformer_loc.{layer}.attention.output.dense.bias",
    ]
    ours, unknown = sevila_from_reference({name: torch.zeros(1) for name in [*dropped, *kept]})
    assert unknown == []
    assert set(ours) == {
        "answerer.qformer.encoder.layer.3.intermediate_query.dense.weight",
        "localizer.qformer.encoder.layer.3.output_query.LayerNorm.bias",
        "localizer.qformer.encoder.layer.3.attention.output.dense.bias",
    }


def test_strange_names_are_reported() -> None:
    for name in ("somebody.else", "Qformer_other.bert.x", "t5_proj_locale.weight"):
        assert sevila_from_reference({name: torch.zeros(1)}) == ({}, [name])
    with pytest.raises(KeyError):
        reference_from_ours_name("localizer.frame_prompter.fc1.weight")


def test_a_tower_with_a_key_bias_has_no_reference_names() -> None:
    name = "vision_model.encoder.layers.0.self_attn.qkv.bias"
    split = reference_from_ours({name: torch.tensor([1.0, 0.0, 2.0])})
    assert {key: value.tolist() for key, value in split.items()} == {
        "visual_encoder.blocks.0.attn.q_bias": [1],
        "visual_encoder.blocks.0.attn.v_bias": [2],
    }
    with pytest.raises(DataError, match="key bias"):
        reference_from_ours({name: torch.tensor([1.0, 0.5, 2.0])})
