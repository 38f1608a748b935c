"""instructblip-flan-t5-xl in full size on the meta device: every name, shape and count."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipVisionModel,
)

from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.vision import VisionTower, vision_config, vision_spec
from stages.models.parameters import parameter_counts
from stages.models.reference_names import (
    huggingface_name,
    ours_from_huggingface_name,
    ours_from_reference,
    ours_from_reference_name,
    reference_from_ours,
    reference_from_ours_name,
)
from stages.models.vlap import (
    LoraConfig,
    VlapConfig,
    VlapStudent,
    VlapTeacher,
    trainable_parameters,
)

CONFIG: dict[str, Any] = {
    "model_type": "instructblip",
    "num_query_tokens": 32,
    # The library's default of 1e-10 would make a random tower's features zero.
    "vision_config": {"initializer_range": 0.02},
    "qformer_config": {"vocab_size": 30_523},
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


@cache
def whole_layout() -> dict[str, torch.Size]:
    """Names and shapes of the checkpoint as transformers lays it out."""
    with torch.device("meta"):
        model = InstructBlipForConditionalGeneration(InstructBlipConfig(**CONFIG))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def on_meta() -> InstructBlip:
    with torch.device("meta"):
        return InstructBlip.from_config(CONFIG)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_tensor_that_the_answering_side_asks_for_is_there() -> None:
    layout = whole_layout()
    state = on_meta().state_dict()
    for name, tensor in state.items():
        assert layout[huggingface_name(name)] == tensor.shape, name
    asked = {huggingface_name(name) for name in state}
    left = {name for name in layout if name not in asked}
    assert all(name.startswith("vision_model.") for name in left)


def test_every_tensor_that_the_vision_tower_asks_for_is_there() -> None:
    layout = whole_layout()
    config = vision_config(CONFIG, "here")
    with torch.device("meta"):
        tower = InstructBlipVisionModel(config)
    state = {f"vision_model.{name}": t.shape for name, t in tower.state_dict().items()}
    assert state == {n: s for n, s in layout.items() if n.startswith("vision_model.")}
    spec = vision_spec(config)
    assert (spec.image_size, spec.tokens, spec.width) == (224, 257, 1408)
    assert count(tower) == 985_952_256  # with its last norm, `ln_vision` in the reference
    assert VisionTower(tower, spec, "float32").spec == spec


def test_parameter_counts_are_the_published_ones() -> None:
    model = on_meta()
    assert count(model.qformer) == 185_660_160
    projection = count(model.language_projection)
    assert (model.query_tokens.numel(), projection) == (24_576, 1_574_912)
    assert count(model.qformer) + 24_576 + projection == 187_259_648
    assert count(model.ln_vision) == 2_816
    assert count(model.language_model) == pytest.approx(2.85e9, rel=0.01)
    assert model.language_model.lm_head.weight is not model.language_model.shared.weight


def test_student_32_to_4_has_the_specified_size_and_trains_it() -> None:
    config = VlapConfig(frames=32, keep=4)
    with torch.device("meta"):
        student = VlapStudent(on_meta(), config, tokens=257)
    counts = parameter_counts(student)
    assert counts["trainable"] == 187_413_152
    assert (counts["frame_prompter"], counts["distill_decoder"]) == (16_544, 134_144)
    assert counts["teacher"] == 187_259_648
    with torch.device("meta"):
        teacher = VlapTeacher(on_meta(), VlapConfig(frames=32, keep=32))
    assert parameter_counts(teacher)["trainable"] == 187_259_648 + 2_816


def test_master_weights_are_float32() -> None:
    assert {p.dtype for p in on_meta().parameters()} == {torch.float32}


def test_lora_has_the_published_size() -> None:
    pytest.importorskip("peft")
    config = VlapConfig(frames=32, keep=4, lora=LoraConfig())
    with torch.device("meta"):
        student = VlapStudent(on_meta(), config, tokens=257)
    adapters = [(n, p) for n, p in trainable_parameters(student) if "lora_" in n]
    assert len({name.rsplit(".lora_")[0] for name, _ in adapters}) == 144
    assert sum(p.numel() for _, p in adapters) == 9_437_184
    name = "language_model.encoder.block.0.layer.0.SelfAttention.q.lora_A.default.weight"
    assert name in dict(adapters)
    reference = "t5_model.base_model.model." + name.removeprefix("language_model.")
    assert reference_from_ours_name(name) == reference
    assert ours_from_reference_name(reference) == name


def test_every_name_of_the_layout_maps_to_the_reference_and_back() -> None:
    """q and v biases of the tower are one tensor here and are mapped by value, not by name."""
    for name in whole_layout():
        if name.endswith(".qkv.bias"):
            continue
        ours = ours_from_huggingface_name(name)
        reference = reference_from_ours_name(ours)
        assert ours_from_reference_name(reference) == ours
        assert huggingface_name(ours) == name


def test_vit_biases_are_merged_with_a_zero_key_bias_and_split_again() -> None:
    stem = "visual_encoder.blocks.3.attn."
    reference = {f"{stem}q_bias": torch.arange(4.0), f"{stem}v_bias": torch.arange(4.0) + 10}
    ours, unknown = ours_from_reference(reference)
    assert unknown == []
    merged = ours["vision_model.encoder.layers.3.self_attn.qkv.bias"]
    assert merged.tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 10, 11, 12, 13]
    back = reference_from_ours(ours)
    assert all(torch.equal(back[name], reference[name]) for name in reference)
    assert set(back) == set(reference)
