"""`import --as backbone`: towers and a Q-Former of several files become one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.checkpoints.backbone_import import plan_backbone, write_backbone
from stages.core.errors import DataError, MissingInput, UsageError
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.vision import VisionTower

VISION = ("vision_model.embeddings.", "vision_model.encoder.")


def bare(folder: Path, out: Path) -> Path:
    """The folder without its weights: config and tokenizers."""
    shutil.copytree(folder, out)
    (out / "model.safetensors").unlink()
    return out


def same_files(one: Path, other: Path) -> None:
    ours, theirs = (load_file(path / "model.safetensors") for path in (one, other))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("layout", "kind"), [("vlap-whole", "instructblip"), ("blip2-whole", "blip2")]
)
def test_a_whole_reference_file_becomes_the_folder_it_was_made_of(
    published: Any, tmp_path: Path, layout: str, kind: str
) -> None:
    folder: Path = getattr(published, kind)
    base = bare(folder, tmp_path / "base")
    write_backbone(plan_backbone([str(published.file(layout))], str(base)), tmp_path / "out")
    same_files(tmp_path / "out", folder)
    loaded = BackboneFolder(tmp_path / "out")
    model = InstructBlip if kind == "instructblip" else Blip2
    model.load(loaded)
    VisionTower.load(loaded)


def test_a_bare_tower_goes_before_what_the_base_has(published: Any, tmp_path: Path) -> None:
    rest = ["qformer", "query_tokens", "language_projection", "ln_vision"]
    item = plan_backbone([f"vision={published.file('eva')}"], str(published.blip2), rest)
    write_backbone(item, tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    base = load_file(published.blip2 / "model.safetensors")
    changed = {name for name in base if not torch.equal(found[name], base[name])}
    assert changed == {name for name in base if name.startswith(VISION)}
    state = published.states["eva"]
    for layer in (0, 1):
        q_bias, v_bias = (state[f"blocks.{layer}.attn.{part}_bias"] for part in "qv")
        bias = found[f"vision_model.encoder.layers.{layer}.self_attn.qkv.bias"]
        assert torch.equal(bias, torch.cat([q_bias, torch.zeros(16), v_bias]))
        fc2 = found[f"vision_model.encoder.layers.{layer}.mlp.fc2.weight"]
        assert torch.equal(fc2, state[f"blocks.{layer}.mlp.fc2.weight"])
    report = item.plan.as_json()
    # EVA's last block, its norm and its head are no part of BLIP-2's tower.
    assert len(report["unused"]["vision"]) == 13
    assert report["files"][0]["dropped"] == ["head.bias", "norm.weight"]


def test_what_neither_file_nor_base_has_is_left_out_only_when_asked(
    published: Any, tmp_path: Path
) -> None:
    base = bare(published.blip2, tmp_path / "base")
    state = {n: t for n, t in published.states["blip2-whole"].items() if "visual_encoder" not in n}
    torch.save({"model": state}, tmp_path / "no-vit.pth")
    plan = plan_backbone([str(tmp_path / "no-vit.pth")], str(base))
    with pytest.raises(MissingInput, match=r"vision \(28 of 28 tensors\)"):
        write_backbone(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    plan = plan_backbone([str(tmp_path / "no-vit.pth")], str(base), ["vision"])
    write_backbone(plan, tmp_path / "out")
    Blip2.load(BackboneFolder(tmp_path / "out"))
    with pytest.raises(DataError, match="vision_model"):
        VisionTower.load(BackboneFolder(tmp_path / "out"))


def test_half_precision_towers_stay_half(published: Any, tmp_path: Path) -> None:
    state = published.states["eva"]
    halved = {n: t.half() if t.ndim > 1 else t for n, t in state.items()}
    torch.save(halved, tmp_path / "eva.pth")
    rest = ["qformer", "query_tokens", "language_projection", "ln_vision"]
    item = plan_backbone([f"vision={tmp_path / 'eva.pth'}"], str(published.blip2), rest)
    write_backbone(item, tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    assert found["vision_model.encoder.layers.0.mlp.fc1.weight"].dtype == torch.float16
    bias = found["vision_model.encoder.layers.0.self_attn.qkv.bias"]
    assert bias.dtype == torch.float32
    assert not bias.chunk(3)[1].any()


# --- around a Flan-T5 folder ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(published: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A T5 folder, an EVA file and a LAVIS Q-Former whose heads have the published widths."""
    spec = pytest.importorskip("importlib.util")
    path = Path(__file__).parents[1] / "models/conftest.py"
    loaded = spec.spec_from_file_location("models_conftest_for_parts", path)
    module = spec.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    root = tmp_path_factory.mktemp("parts")
    config = module.CONFIG
    whole = module.write_folder(
        root / "whole",
        seed=3,
        model_type="blip-2",
        vision_config=config["vision_config"] | {"hidden_size": 88, "num_attention_heads": 1},
        qformer_config=config["qformer_config"]
        | {"hidden_size": 64, "num_attention_heads": 1, "encoder_hidden_size": 88},
    )
    from stages.models.reference_names import reference_from_ours, sevila_from_huggingface_name

    weights = load_file(whole / "model.safetensors")
    state = reference_from_ours({sevila_from_huggingface_name(n): t for n, t in weights.items()})
    tower = {n.removeprefix("visual_encoder."): t for n, t in state.items() if "visual" in n}
    torch.save(tower, root / "eva.pth")
    side = {n: t for n, t in state.items() if not n.startswith(("visual_encoder", "t5_model"))}
    torch.save({"model": side}, root / "lavis.pth")
    flan = root / "flan-t5"
    flan.mkdir()
    text = {
        n.removeprefix("language_model."): t for n, t in weights.items() if "language_model" in n
    }
    save_file(text, flan / "model.safetensors")
    published_t5 = config["text_config"] | {"dense_act_fn": "gelu_new", "model_type": "t5"}
    (flan / "config.json").write_text(json.dumps(published_t5))
    shutil.copyfile(whole / "tokenizer.json", flan / "tokenizer.json")
    return {"whole": whole, "eva": root / "eva.pth", "lavis": root / "lavis.pth", "t5": flan}


def test_tower_qformer_and_t5_become_a_blip2(parts: dict[str, Path], tmp_path: Path) -> None:
    files = [f"vision={parts['eva']}", str(parts["lavis"])]
    write_backbone(plan_backbone(files, str(parts["t5"])), tmp_path / "out")
    same_files(tmp_path / "out", parts["whole"])
    made = json.loads((tmp_path / "out/config.json").read_text())
    wanted = json.loads((parts["whole"] / "config.json").read_text())
    for part, names in {
        "vision_config": ("hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "image_size", "patch_size"),
        "qformer_config": ("hidden_size", "num_hidden_layers", "num_attention_heads",
                           "intermediate_size"),
    }.items():  # fmt: skip
        assert {n: made[part][n] for n in names} == {n: wanted[part][n] for n in names}
    # BLIP-2's T5 has exact GELU where Flan-T5's own config has the approximation.
    assert made["text_config"]["dense_act_fn"] == "gelu"
    folder = BackboneFolder(tmp_path / "out")
    Blip2.load(folder)
    VisionTower.load(folder)


def test_a_t5_folder_alone_is_not_enough(parts: dict[str, Path]) -> None:
    with pytest.raises(MissingInput, match="no file has the vision tower"):
        plan_backbone([str(parts["lavis"])], str(parts["t5"]))


def test_a_text_reading_qformer_makes_no_blip2(published: Any, parts: dict[str, Path]) -> None:
    files = [f"vision={parts['eva']}", str(published.file("instructblip"))]
    with pytest.raises(DataError, match="reads the question"):
        plan_backbone(files, str(parts["t5"]))


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_a_folder_and_its_provenance(
    published: Any, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    base = bare(published.instructblip, tmp_path / "base")
    file = published.file("vlap-whole")
    command = ("checkpoint", "import", file, "--as", "backbone", "--base", base)
    assert vqa(*command).code == 2
    dry = vqa(*command, "--out", tmp_path / "out", "--dry-run")
    assert dry.code == 0
    assert not (tmp_path / "out").exists()
    done = vqa(*command, "--out", tmp_path / "out")
    assert done.code == 0
    assert done.json["tensors"] == 129
    note = json.loads((tmp_path / "out/vqa_import.json").read_text())
    assert note["files"][0]["path"] == file.name
    assert len(note["files"][0]["sha256"][file.name]) == 64
    assert vqa(*command, "--out", tmp_path / "out").code == 2
    assert vqa("checkpoint", "inspect", tmp_path / "out").json["kind"] == "huggingface-instructblip"


def test_two_files_for_the_tower_are_a_question(published: Any) -> None:
    files = [str(published.file("blip2-whole")), str(published.file("eva"))]
    with pytest.raises(UsageError, match="both fill vision"):
        plan_backbone(files, str(published.blip2))
