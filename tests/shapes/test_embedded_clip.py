"""tiny-clip: a real CLIPModel folder whose frame CLS says which picture shows what is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import CLIPModel, PreTrainedTokenizerFast

from stages.benchmarks.shapes.questions import TEMPLATES, VALUES
from stages.benchmarks.shapes.scene import COLORS, PLACES, SHAPES, draw_frame, draw_look
from stages.benchmarks.shapes.timeline import video_rng
from stages.models.backbones.catalog import backbone_frames
from stages.models.backbones.clip import ClipMatcher, ClipTower
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.vision import fixed_size_crop
from stages.models.embedded import embedded_folder


@pytest.fixture(scope="module")
def folder() -> BackboneFolder:
    torch.set_num_threads(1)
    return BackboneFolder(embedded_folder("tiny-clip"))


def shrink(picture: np.ndarray, side: int) -> torch.Tensor:
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)


def test_transformers_opens_the_folder_and_gives_what_ours_gives(folder: BackboneFolder) -> None:
    model, info = CLIPModel.from_pretrained(folder.path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    tower = ClipTower.load(folder)
    pixels = tower.preprocess(torch.full((1, 48, 48, 3), 90, dtype=torch.uint8))
    with torch.no_grad():
        wanted = model.float().eval().vision_model(pixel_values=pixels).pooler_output
    cls = tower.encode(pixels).cls
    assert cls is not None
    assert torch.allclose(cls, wanted, atol=1e-5)


def test_sizes_are_those_of_the_other_embedded_backbones() -> None:
    rule = backbone_frames("tiny-clip")
    assert (rule.kind, rule.stored, rule.size) == ("crop", 54, 48)
    config = json.loads((embedded_folder("tiny-clip") / "config.json").read_text())
    assert config["text_config"]["eos_token_id"] != 2  # which the library reads differently
    with safe_open(embedded_folder("tiny-clip") / "model.safetensors", "pt") as file:
        assert sum(np.prod(file.get_slice(k).get_shape(), dtype=int) for k in file.keys()) < 1e6  # noqa: SIM118


def test_questions_of_the_benchmark_are_whole_words_and_fit(folder: BackboneFolder) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder.path)
    for template in TEMPLATES:
        for wording in (*template.wordings, *template.hard_wordings):
            text = wording.format(VALUES[template.named][0], when="after")
            ids = tokenizer(text).input_ids
            assert len(ids) == len(text.split()) + 3, text  # the question mark, start and end
            assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_a_named_object_is_found_among_other_pictures(folder: BackboneFolder) -> None:
    """Of 7 pictures, one of them empty, the one that fits the sentence; chance is 1 in 7."""
    tower, matcher = ClipTower.load(folder), ClipMatcher.load(folder)
    rng = video_rng(0, "pictures", 0, "clip")
    hits = []
    for _ in range(12):
        shapes, colors = rng.permutation(SHAPES), rng.permutation(COLORS)
        looks = [
            draw_look(rng, str(shapes[i % 6]), str(colors[i % 6]), str(rng.choice(PLACES)))
            for i in range(6)
        ]
        pictures = torch.stack([shrink(draw_frame(rng, look), 54) for look in [*looks, None]])
        cls = tower.encode(tower.preprocess(fixed_size_crop(pictures, 48))).cls
        assert cls is not None
        wanted = int(rng.integers(6))
        texts = [f"a {shapes[wanted]}", f"the {colors[wanted]} object"]
        cosines = matcher.similarity(cls.half().expand(2, -1, -1), texts)
        hits += (cosines.argmax(1) == wanted).tolist()
    assert np.mean(hits) > 0.75
