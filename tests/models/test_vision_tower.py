"""The frozen vision tower: what it reads, what it gives, and in which precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import InstructBlipVisionModel

from stages.core.errors import ConfigError, DataError
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.vision import (
    CLIP_MEAN,
    VisionTower,
    crop_box,
    training_crop,
    vision_config,
)


def some_frames(count: int = 3, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def test_features_before_the_last_norm_then_ln_vision_equal_the_whole_tower(
    tiny_folder: BackboneFolder,
) -> None:
    tower, backbone = VisionTower.load(tiny_folder), InstructBlip.load(tiny_folder)
    whole = InstructBlipVisionModel(vision_config(tiny_folder.config, "here")).eval()
    tiny_folder.load_into(whole, "vision_model.")
    whole.post_layernorm.eps = 1e-5
    pixels = tower.preprocess(some_frames())
    direct = whole(pixels).last_hidden_state
    cached = backbone.normalise(tower.features(pixels))
    assert torch.allclose(cached, direct, atol=1e-5)
    assert direct.std() > 0.1  # a tower that gives nothing would pass the line above


def test_features_of_a_random_tower_are_not_degenerate(tiny_folder: BackboneFolder) -> None:
    tower = VisionTower.load(tiny_folder)
    features = tower.features(tower.preprocess(some_frames()))
    assert features.shape == (3, tower.spec.tokens, tower.spec.width) == (3, 5, 16)
    assert features.std() > 1e-3
    assert (features[0] - features[1]).abs().max() > 1e-3


def test_only_the_vision_tower_is_read(make_folder: Callable[..., Path]) -> None:
    folder = BackboneFolder(make_folder())
    asked: list[str] = []
    original = folder.tensors

    def record(names: set[str], **options: object) -> dict[str, torch.Tensor]:
        asked.extend(names)
        return original(names, **options)  # type: ignore[arg-type]

    folder.tensors = record  # type: ignore[method-assign, assignment]
    VisionTower.load(folder)
    assert asked
    assert all(name.startswith("vision_model.") for name in asked)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_keeps_a_float32_residual_stream(
    tiny_folder: BackboneFolder, precision: str
) -> None:
    exact = VisionTower.load(tiny_folder)
    half = VisionTower.load(tiny_folder, precision=precision)  # type: ignore[arg-type]
    seen: list[torch.dtype] = []
    for layer in half.model.encoder.layers:
        layer.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    pixels = exact.preprocess(some_frames())
    features = half.features(pixels)
    assert set(seen) == {torch.float32}
    assert features.dtype == torch.float32
    difference = (features - exact.features(pixels)).abs().max()
    assert 0 < difference < 0.05


def test_tower_stays_frozen_and_in_eval_mode(tiny_folder: BackboneFolder) -> None:
    tower = VisionTower.load(tiny_folder).train()
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_preprocessing_scales_then_normalises(tiny_folder: BackboneFolder) -> None:
    tower = VisionTower.load(tiny_folder)
    white = torch.full((1, 16, 16, 3), 255, dtype=torch.uint8)
    pixels = tower.preprocess(white)
    assert pixels.shape == (1, 3, 16, 16)
    for channel in range(3):
        expected = (1 - tower.spec.mean[channel]) / tower.spec.std[channel]
        assert pixels[0, channel].unique().item() == pytest.approx(expected, rel=1e-6)
    assert tower.spec.mean == CLIP_MEAN


def test_preprocessor_config_overrides_mean_and_std(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}'
    )
    assert VisionTower.load(BackboneFolder(folder)).spec.std == (0.25, 0.25, 0.25)


def test_wrong_inputs_are_refused(tiny_folder: BackboneFolder) -> None:
    tower = VisionTower.load(tiny_folder)
    with pytest.raises(DataError):
        tower.preprocess(torch.zeros(1, 16, 16, 3))
    with pytest.raises(DataError):
        tower.features(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError):
        VisionTower.load(tiny_folder, precision="int4")  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_crop_box_lies_inside_the_frame(height: int, width: int, seed: int) -> None:
    top, left, h, w = crop_box(height, width, np.random.default_rng(seed))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h >= 1
    assert w >= 1


def test_crop_box_has_the_promised_area_and_aspect() -> None:
    rng = np.random.default_rng(0)
    boxes = [crop_box(224, 224, rng) for _ in range(500)]
    areas = [h * w / 224**2 for _, _, h, w in boxes]
    assert 0.48 < min(areas) < 0.55
    assert max(areas) <= 1
    assert all(0.74 < w / h < 1.35 for _, _, h, w in boxes)


def test_training_crop_is_one_crop_for_the_whole_clip() -> None:
    clip = some_frames(1).expand(4, -1, -1, -1)
    cropped = training_crop(clip, np.random.default_rng(3))
    assert cropped.shape == (4, 16, 16, 3)
    assert cropped.dtype == torch.uint8
    assert all(torch.equal(cropped[0], frame) for frame in cropped)
    again = training_crop(clip, np.random.default_rng(3))
    assert torch.equal(cropped, again)


def test_overshoot_is_clamped_by_default_and_wraps_on_request() -> None:
    edge = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    edge[:, :, 8:] = 255
    clamped = training_crop(edge, np.random.default_rng(1), size=24).int()
    wrapped = training_crop(edge, np.random.default_rng(1), size=24, wrap=True).int()
    steps = clamped[0, :, 1:, 0] - clamped[0, :, :-1, 0]
    assert steps.min() >= 0  # monotone across the edge: nothing wrapped
    assert (wrapped - clamped).abs().max() > 200
