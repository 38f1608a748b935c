"""`tools/full_size_backbones.py` at its small size: real layout, random weights, real features."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.core.errors import DataError
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.clip import ClipText
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.sizes import backbone_config, backbone_size
from stages.models.backbones.towers import load_tower

LAYOUTS = ("instructblip", "blip-2", "clip")


@pytest.fixture(scope="module")
def tool() -> Any:
    path = Path(__file__).parents[2] / "tools/full_size_backbones.py"
    spec = importlib.util.spec_from_file_location("full_size_backbones", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def folders(tool: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder a layout, in several shards."""
    root = tmp_path_factory.mktemp("random")
    for layout in LAYOUTS:
        tool.write_folder(root / layout, layout, "small", limit=4_000_000)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_sharded_with_an_index_and_complete(layout: str, folders: Path) -> None:
    folder = folders / layout
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert len(shards) > 1
    assert shards == {path.name for path in folder.glob("*.safetensors")}
    entries = BackboneFolder(folder).keys_and_shapes()
    assert set(entries) == set(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(e.end - e.begin for e in entries.values())
    assert {entry.dtype for entry in entries.values()} == {"F16"}


def test_folders_load_by_the_code_that_loads_real_ones(folders: Path) -> None:
    instructblip = InstructBlip.load(BackboneFolder(folders / "instructblip"))
    blip2 = Blip2.load(BackboneFolder(folders / "blip-2"))
    # the published ids, which real weights are refused without
    for model in (instructblip, blip2):
        assert model.answer_tokens.letters == (71, 272, 205, 309, 262)
        assert (model.answer_tokens.yes, model.answer_tokens.no) == (4273, 150)
    text = ClipText.load(BackboneFolder(folders / "clip"))
    assert text(text.encode(["a dog runs"])).sentence.isfinite().all()


def test_a_question_is_answered(folders: Path) -> None:
    model = InstructBlip.load(BackboneFolder(folders / "instructblip")).eval()
    text = model.read_text(["Question: what is it? Option A: a dog Option B: a cat"])
    features = torch.randn(1, 2, 257, 88)
    with torch.no_grad():
        visual = model.visual_tokens(model.normalise(features), text)
        letters = model.letter_logits(model.encode(visual, text))
    assert letters.isfinite().all()
    assert letters.std() > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_are_neither_zero_nor_beyond_half_precision(
    layout: str, folders: Path, tool: Any
) -> None:
    found = tool.check_features(folders / layout)
    assert 0.01 <= found["std"] <= 100
    assert found["std_between_two_frames"] > 0.01


def test_a_tower_of_transformers_own_initial_values_is_refused(
    tool: Any, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its standard deviation of 1e-10 is nothing in float16."""
    monkeypatch.setattr(tool, "STD", 1e-10)
    tool.write_folder(tmp_path / "zero", "instructblip", "small")
    with pytest.raises((DataError, SystemExit), match=r"degenerate|std"):
        tool.check_features(tmp_path / "zero")


def test_features_read_the_tower_alone(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = BackboneFolder.tensors

    def noted(self: BackboneFolder, names: Any, **values: Any) -> Any:
        wanted = list(names)
        asked.extend(wanted)
        return read(self, wanted, **values)

    monkeypatch.setattr(BackboneFolder, "tensors", noted)
    load_tower(BackboneFolder(folders / "blip-2"))
    assert asked
    assert all(name.startswith("vision_model.") for name in asked)


def test_the_config_asks_for_features_and_for_an_untied_head() -> None:
    for layout in ("instructblip", "blip-2"):
        config = backbone_config(layout, "full")
        assert config["vision_config"]["initializer_range"] == 0.02
        assert config["text_config"]["tie_word_embeddings"] is False
        assert config["text_config"]["dense_act_fn"] == "gelu"
        assert backbone_size(config).tower.layers == 39
