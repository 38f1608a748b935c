"""CLIP folders: what the towers give is what the library's whole model gives, or an error."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPVisionModel

from stages.core.errors import DataError, UsageError
from stages.models.backbones.catalog import (
    PUBLISHED,
    PUBLISHED_LAYOUTS,
    backbone_fingerprint,
    backbone_frames,
    frame_rule,
    image_size,
)
from stages.models.backbones.clip import (
    ClipMatcher,
    ClipText,
    ClipTower,
    clip_config,
    clip_similarity,
    clip_spec,
)
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.towers import load_tower, tower_spec
from stages.models.backbones.vision import VisionTower, fixed_size_crop

TEXTS = ["What color is the circle?", "a red square on the left"]


def random_clip() -> Any:
    path = Path(__file__).parent / "random_clip.py"
    spec = importlib.util.spec_from_file_location("random_clip", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = random_clip().write_clip_folder(tmp_path_factory.mktemp("clip") / "toy")
    return path


@pytest.fixture(scope="module")
def whole(clip_folder: Path) -> CLIPModel:
    """The folder as the library reads it."""
    return CLIPModel.from_pretrained(clip_folder).eval()


def some_pixels(tower: ClipTower, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = tower.spec.image_size
    frames = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return tower.preprocess(frames)


def edit_state(folder: Path, target: Path, change: Any) -> Path:
    """A copy of the folder with changed weights."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    state = load_file(target / "model.safetensors")
    change(state)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


def edit_config(folder: Path, target: Path, **text: Any) -> Path:
    edited = edit_state(folder, target, lambda state: None)
    config = json.loads((edited / "config.json").read_text())
    config["text_config"] |= text
    (edited / "config.json").write_text(json.dumps(config))
    return edited


# --- vision --------------------------------------------------------------------------------------


def test_patches_come_before_the_last_norm_and_cls_after_it(
    clip_folder: Path, whole: CLIPModel
) -> None:
    tower = ClipTower.load(BackboneFolder(clip_folder))
    pixels = some_pixels(tower)
    with torch.no_grad():
        wanted = whole.vision_model(pixel_values=pixels)

    found = tower.encode(pixels)

    assert found.cls is not None
    assert torch.equal(found.tokens, wanted.last_hidden_state[:, 1:])
    assert torch.equal(found.cls, wanted.pooler_output)
    again = whole.vision_model.post_layernorm(wanted.last_hidden_state[:, 0])
    assert torch.allclose(found.cls, again, atol=1e-6)
    assert not torch.allclose(found.cls, wanted.last_hidden_state[:, 0], atol=1e-2)
    assert (found.cls[0] - found.cls[1]).abs().max() > 1e-3


def test_every_layout_loads_its_own_tower_and_says_its_sizes(clip_folder: Path) -> None:
    folder = BackboneFolder(clip_folder)
    tower = load_tower(folder)
    assert isinstance(tower, ClipTower)
    assert tower.spec == tower_spec(folder)
    sizes = (tower.spec.image_size, tower.spec.tokens, tower.spec.width, tower.spec.cls_width)
    assert sizes == (16, 4, 16, 16)
    assert not any(p.requires_grad for p in tower.train().parameters())
    assert not tower.model.training


def test_half_precision_is_close_and_keeps_the_residual_stream(clip_folder: Path) -> None:
    folder = BackboneFolder(clip_folder)
    exact, half = ClipTower.load(folder), ClipTower.load(folder, precision="bfloat16")
    seen: list[torch.dtype] = []
    for layer in half.model.encoder.layers:
        layer.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    pixels = some_pixels(exact)
    wanted, found = exact.encode(pixels), half.encode(pixels)
    assert set(seen) == {torch.float32}
    assert found.cls is not None
    assert wanted.cls is not None
    assert 0 < (found.cls - wanted.cls).abs().max() < 0.1


def test_only_the_vision_tensors_are_read(clip_folder: Path) -> None:
    folder = BackboneFolder(clip_folder)
    asked: list[str] = []
    original = folder.tensors

    def record(names: set[str], **options: object) -> dict[str, Tensor]:
        asked.extend(names)
        return original(names, **options)  # type: ignore[arg-type]

    folder.tensors = record  # type: ignore[method-assign, assignment]
    load_tower(folder)
    assert asked
    assert all(name.startswith("vision_model.") for name in asked)


def test_a_missing_tensor_is_an_error_and_never_a_random_tower(
    clip_folder: Path, tmp_path: Path
) -> None:
    def rename(state: dict[str, Tensor]) -> None:
        """As in the layout of a vision tower alone, whose names have no prefix."""
        for name in [n for n in state if n.startswith("vision_model.")]:
            state[name.removeprefix("vision_model.")] = state.pop(name)

    bare = edit_state(clip_folder, tmp_path / "bare", rename)
    with pytest.raises(DataError, match=r"missing vision_model\.") as caught:
        load_tower(BackboneFolder(bare))
    assert "config.json" in caught.value.hint
    lost = edit_state(clip_folder, tmp_path / "lost", lambda s: s.pop("text_projection.weight"))
    with pytest.raises(DataError, match=r"missing text_projection\.weight"):
        ClipText.load(BackboneFolder(lost))


def test_a_single_tower_is_not_taken_for_a_whole_clip(whole: CLIPModel, tmp_path: Path) -> None:
    whole.vision_model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="clip_vision_model"):
        load_tower(BackboneFolder(tmp_path))
    with pytest.raises(DataError, match="clip_vision_model"):
        ClipText.load(BackboneFolder(tmp_path))


def test_a_folder_saved_by_the_library_gives_the_same(
    clip_folder: Path, whole: CLIPModel, tmp_path: Path
) -> None:
    whole.save_pretrained(tmp_path)
    ours, saved = ClipTower.load(BackboneFolder(clip_folder)), BackboneFolder(tmp_path)
    pixels = some_pixels(ours)
    assert torch.equal(ClipTower.load(saved).encode(pixels).tokens, ours.encode(pixels).tokens)
    assert image_size(str(tmp_path)) == 16


def test_older_configs_override_and_defaults_may_be_left_out() -> None:
    older = {"model_type": "clip", "vision_config": {}, "vision_config_dict": {"patch_size": 16}}
    spec = clip_spec(clip_config(older, "here"))
    assert (spec.image_size, spec.tokens, spec.width) == (224, 196, 768)


@pytest.mark.parametrize(
    "changed", [{"image_size": [16, 8]}, {"hidden_size": "many"}, {"num_attention_heads": 5}]
)
def test_a_config_that_describes_no_clip_is_refused(changed: dict[str, Any]) -> None:
    config = {"model_type": "clip", "vision_config": changed}
    with pytest.raises(DataError):
        clip_config(config, "here")


# --- frames --------------------------------------------------------------------------------------


def test_frames_are_stored_with_an_even_margin_as_the_specification_says() -> None:
    rule = backbone_frames("clip-vit-base-patch16")
    assert (rule.kind, rule.stored, rule.size) == ("crop", 256, 224)
    assert backbone_frames("instructblip-flan-t5-xl").format_values() == {
        "kind": "squash", "width": 224, "height": 224,
    }  # fmt: skip
    assert PUBLISHED_LAYOUTS.keys() == PUBLISHED.keys()


@given(st.integers(1, 1000))
def test_any_size_has_an_even_margin_of_about_a_seventh(size: int) -> None:
    margin = frame_rule("clip", size).stored - size
    assert margin % 2 == 0
    assert abs(margin - size / 7) <= 1


@pytest.mark.parametrize("wrong", [10, "wide", 20.0])
def test_a_short_side_that_cannot_be_cropped_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="short_side"):
        frame_rule("clip", 16, wrong)
    with pytest.raises(UsageError, match="not cropped"):
        frame_rule("blip-2", 16, 18)
    assert frame_rule("clip", 16, 16).stored == 16


@given(st.integers(1, 9), st.integers(0, 6), st.integers(0, 6), st.integers(0, 99))
def test_a_crop_is_a_part_of_every_frame(size: int, down: int, right: int, seed: int) -> None:
    area = (size + down) * (size + right)
    one = torch.arange(area, dtype=torch.int32).remainder(251).to(torch.uint8)
    frames = one.view(1, size + down, size + right, 1).expand(2, -1, -1, 3)
    rng = np.random.default_rng(seed)
    cut = fixed_size_crop(frames, size, rng)
    assert cut.shape == (2, size, size, 3)
    assert torch.equal(cut[0], cut[1])
    places = [
        (y, x)
        for y in range(down + 1)
        for x in range(right + 1)
        if torch.equal(frames[:, y : y + size, x : x + size], cut)
    ]
    assert places
    middle = frames[:, down // 2 : down // 2 + size, right // 2 : right // 2 + size]
    assert torch.equal(fixed_size_crop(frames, size), middle)


def test_a_frame_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(DataError, match="smaller than the crop"):
        fixed_size_crop(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), 9)


# --- text and the common space -------------------------------------------------------------------


def test_text_states_and_cosines_are_the_librarys(clip_folder: Path, whole: CLIPModel) -> None:
    folder = BackboneFolder(clip_folder)
    matcher, tower = ClipMatcher.load(folder), ClipTower.load(folder)
    pixels = some_pixels(tower)
    batch = matcher.text.encode(TEXTS)
    with torch.no_grad():
        wanted = whole(input_ids=batch.ids, attention_mask=batch.mask, pixel_values=pixels)
        direct = whole.text_model(input_ids=batch.ids, attention_mask=batch.mask)
        states = matcher.text(batch)
    cls = tower.encode(pixels).cls
    assert cls is not None

    frames, texts = matcher.project_cls(cls), matcher.project_texts(TEXTS)
    cosines = clip_similarity(frames[:, None], texts[None])

    assert torch.equal(states.sentence, direct.pooler_output)
    assert torch.equal(states.words, direct.last_hidden_state)
    scale = whole.logit_scale.exp()
    assert torch.allclose(cosines, wanted.logits_per_image / scale, atol=1e-5)
    paired = matcher.similarity(cls.expand(2, -1, -1), TEXTS)
    assert torch.allclose(paired, cosines.T, atol=1e-6)
    assert not any(p.requires_grad for p in matcher.parameters())


def test_a_shorter_text_beside_a_longer_one_reads_the_same(clip_folder: Path) -> None:
    text = ClipText.load(BackboneFolder(clip_folder))
    together, alone = text.encode(TEXTS), text.encode(TEXTS[1:])
    with torch.no_grad():
        assert torch.allclose(text(together).sentence[1:], text(alone).sentence, atol=1e-6)
    assert together.mask.sum(1).tolist() == [8, 8]
    assert len(text.encode(["red", *TEXTS])) == 3


def test_long_texts_keep_their_end_token(clip_folder: Path) -> None:
    text = ClipText.load(BackboneFolder(clip_folder))
    batch = text.encode(["red " * 200, "red"])
    end = text.tokenizer.eos_token_id
    assert batch.ids.shape == (2, text.max_tokens) == (2, 77)
    assert batch.ids[0, -1] == end
    assert batch.mask[1].sum() == 3
    with torch.no_grad():
        states = text(batch)
    assert torch.equal(states.sentence[1], states.words[1, 2])


def test_the_text_tower_can_be_trained(clip_folder: Path) -> None:
    text = ClipText.load(BackboneFolder(clip_folder)).train()
    text.project(text(text.encode(TEXTS)).sentence).pow(2).sum().backward()
    without = [name for name, p in text.named_parameters() if p.grad is None]
    assert without == []
    assert text.width == 24
    assert not any(p.is_meta for p in [*text.parameters(), *text.buffers()])


def test_the_mistaken_end_id_of_old_configs_reads_the_largest_id(
    clip_folder: Path, tmp_path: Path
) -> None:
    old = ClipText.load(BackboneFolder(edit_config(clip_folder, tmp_path / "old", eos_token_id=2)))
    new = ClipText.load(BackboneFolder(clip_folder))
    texts = [*TEXTS, "red"]
    with torch.no_grad():
        assert torch.equal(old(old.encode(texts)).sentence, new(new.encode(texts)).sentence)


def test_a_tokenizer_of_other_weights_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    other = edit_config(clip_folder, tmp_path / "other", eos_token_id=5)
    with pytest.raises(DataError, match="ends texts with"):
        ClipText.load(BackboneFolder(other))
    tokenizer = random_clip().clip_tokenizer()
    tokenizer.add_tokens(["purple", "cyan"])
    grown = edit_state(clip_folder, tmp_path / "grown", lambda state: None)
    tokenizer.save(str(grown / "tokenizer.json"))
    with pytest.raises(DataError, match="pieces"):
        ClipText.load(BackboneFolder(grown))


def test_the_fingerprint_covers_both_towers(clip_folder: Path, tmp_path: Path) -> None:
    base = backbone_fingerprint(BackboneFolder(clip_folder))
    for number, name in enumerate(("text_projection.weight", "vision_model.post_layernorm.bias")):
        changed = edit_state(clip_folder, tmp_path / str(number), lambda s, n=name: s[n].add_(1))
        assert backbone_fingerprint(BackboneFolder(changed)) != base


# --- full size -----------------------------------------------------------------------------------

BASE_16: dict[str, Any] = {"model_type": "clip", "vision_config": {"patch_size": 16}}


def test_clip_vit_base_patch16_has_the_published_names_shapes_and_counts() -> None:
    config = clip_config(BASE_16, "here")
    with torch.device("meta"):
        layout = {n: t.shape for n, t in CLIPModel(CLIPConfig(**BASE_16)).state_dict().items()}
        vision, text = CLIPVisionModel(config.vision_config), CLIPTextModel(config.text_config)
    ours = {f"vision_model.{n}": t.shape for n, t in vision.state_dict().items()}
    ours |= {f"text_model.{n}": t.shape for n, t in text.state_dict().items()}
    rest = {"visual_projection.weight", "text_projection.weight", "logit_scale"}
    assert ours == {n: shape for n, shape in layout.items() if n not in rest}
    assert layout["visual_projection.weight"] == (512, 768)
    assert layout["text_projection.weight"] == (512, 512)
    assert layout["vision_model.pre_layrnorm.weight"] == (768,)
    assert layout["vision_model.embeddings.position_embedding.weight"] == (197, 768)
    assert layout["text_model.embeddings.token_embedding.weight"] == (49_408, 512)
    assert sum(p.numel() for p in vision.parameters()) == 85_799_424
    assert sum(p.numel() for p in text.parameters()) == 63_165_952
    assert sum(shape.numel() for shape in layout.values()) == 149_620_737
    spec = clip_spec(config)
    assert (spec.image_size, spec.tokens, spec.width, spec.cls_width) == (224, 196, 768, 768)
    assert ClipTower(vision, spec, "float32").spec == spec


def test_other_backbones_keep_cls_among_their_tokens(tiny_folder: BackboneFolder) -> None:
    tower = load_tower(tiny_folder)
    assert isinstance(tower, VisionTower)
    pixels = tower.preprocess(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))
    encoded = tower.encode(pixels)
    assert encoded.cls is None
    assert torch.equal(encoded.tokens, tower.features(pixels))
