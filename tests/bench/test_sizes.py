"""Counts of parameters and operations, from a config alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

from stages.bench.networks import Source, load_instructblip, load_tower
from stages.models.backbones.sizes import (
    SIZES,
    backbone_config,
    backbone_size,
    clip_config,
    tower_size,
)
from stages.models.backbones.text import TextBatch

NETWORKS: dict[str, tuple[Any, Any]] = {
    "instructblip": (InstructBlipForConditionalGeneration, InstructBlipConfig),
    "blip-2": (Blip2ForConditionalGeneration, Blip2Config),
}


def count(model: Any, *prefixes: str) -> int:
    return sum(
        tensor.numel()
        for name, tensor in model.state_dict().items()
        if name.startswith(prefixes) and "embed_tokens" not in name
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", list(NETWORKS))
def test_every_part_has_as_many_parameters_as_transformers_makes(layout: str, size: str) -> None:
    config = backbone_config(layout, size)
    network, kind = NETWORKS[layout]
    with torch.device("meta"):
        model = network(kind(**config))
    found = backbone_size(config)
    assert found.tower.parameters == count(model, "vision_model.")
    assert found.qformer.parameters == count(
        model, "qformer.", "query_tokens", "language_projection."
    )
    assert found.language.parameters == count(model, "language_model.")


@pytest.mark.parametrize("size", SIZES)
def test_a_clip_tower_has_as_many_parameters_as_transformers_makes(size: str) -> None:
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**clip_config(size)))
    assert tower_size(clip_config(size)).parameters == count(model, "vision_model.")


def test_the_published_sizes_are_those_of_the_papers_networks() -> None:
    """specs/vlap.md 4 and 9.2: counted and estimated there by hand."""
    size = backbone_size(backbone_config("instructblip", "full"))
    assert size.tower.parameters == 985_952_256
    assert size.qformer.parameters == 187_259_648
    assert size.tower.flops / 1e9 == pytest.approx(520.7, abs=0.05)
    assert size.qformer.flops(257, 75) / 1e9 == pytest.approx(26.0, abs=0.05)
    assert size.qformer.flops(257, 128) / 1e9 == pytest.approx(35.5, abs=0.05)
    assert size.language.encoder_flops(208) / 1e9 == pytest.approx(490, abs=0.5)
    assert size.language.encoder_flops(1104) / 1e9 == pytest.approx(2796, abs=1)
    assert size.published
    assert not backbone_size(backbone_config("instructblip", "small")).published


def test_operations_are_those_that_torch_counts() -> None:
    source = Source("small", torch.device("cpu"), "float32")
    size = source.size("instructblip")
    tower, model = load_tower(source, "instructblip"), load_instructblip(source).eval()
    # attention as plain products: fused kernels are not counted on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        features = tower.features(torch.zeros(1, 3, 224, 224))
    assert counted.get_total_flops() == size.tower.flops
    words = torch.ones(1, 20, dtype=torch.long)
    text = TextBatch(words, words, words, words)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counted:
            visual = model.visual_tokens(model.normalise(features[:, None]), text)
        assert counted.get_total_flops() == size.qformer.flops(257, 20)
        with FlopCounterMode(display=False) as counted:
            model.encode(visual, text)
        assert counted.get_total_flops() == size.language.encoder_flops(32 + 20)
