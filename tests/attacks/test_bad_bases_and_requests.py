"""Bases that describe no network, and requests that mean nothing: one sentence, nothing written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from stages.checkpoints.choices import ImportChoices, vlap_frames
from stages.checkpoints.writing import copy_companions
from stages.core.errors import DataError, UsageError
from stages.models.backbones.catalog import backbone_path
from stages.models.backbones.folder import BackboneFolder

Run = Callable[..., Any]
SYSTEMS = {"vlap": "tiny", "sevila": "tiny-blip2"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A LAVIS file of one tensor."""
    torch.save({"model": {"Qformer.bert.a": torch.ones(2, 3)}}, tmp_path / "some.pth")
    return tmp_path / "some.pth"


def base_with(folder: Path, name: str, change: dict[str, Any]) -> Path:
    """A base without weights; `change` is laid over the config, section by section."""
    folder.mkdir()
    config = json.loads((backbone_path(name) / "config.json").read_text())
    for key, value in change.items():
        inner = isinstance(value, dict) and isinstance(config.get(key), dict)
        config[key] = config[key] | value if inner else value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def refusal(vqa: Run, code: int, *command: Any) -> str:
    outcome = vqa("checkpoint", *command)
    assert outcome.code == code, outcome.json
    return str(outcome.json["error"]["message"]) + str(outcome.json["error"]["hint"])


@pytest.mark.parametrize("system", ["vlap", "sevila"])
@pytest.mark.parametrize(
    "change",
    [
        {"vision_config": []},
        {"text_config": None},
        {"qformer_config": 7},
        {"num_query_tokens": "many"},
        {"num_query_tokens": -3},
        {"vision_config": {"hidden_size": "x"}},
        {"qformer_config": {"hidden_size": 130}},
        {"qformer_config": {"num_attention_heads": 0}},
        {"text_config": {"d_model": 1.5}},
    ],
)
def test_a_base_whose_config_makes_no_network_is_refused(
    vqa: Run, tmp_path: Path, weights: Path, system: str, change: dict[str, Any]
) -> None:
    base = base_with(tmp_path / "base", SYSTEMS[system], change)
    command = ("import", weights, "--as", system, "--base", base, "-b", "shapes", "--frames", 4)
    told = refusal(vqa, 3, *command, "-w", tmp_path / "workspace")
    assert f"{base}/config.json" in told
    assert next(iter(change)) in told
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize(
    "change", [{"qformer_config": {"hidden_act": 7}}, {"text_config": {"feed_forward_proj": "x-y"}}]
)
def test_what_a_library_says_of_a_config_is_told_as_the_files_fault(
    vqa: Run, tmp_path: Path, weights: Path, change: dict[str, Any]
) -> None:
    base = base_with(tmp_path / "base", "tiny", change)
    out = tmp_path / "new"
    told = refusal(vqa, 3, "import", weights, "--as", "backbone", "--base", base, "--out", out)
    assert f"{base}/config.json: these values make no network" in told
    assert not out.exists()


def test_a_config_that_is_a_folder_is_refused(vqa: Run, tmp_path: Path, weights: Path) -> None:
    (tmp_path / "base" / "config.json").mkdir(parents=True)
    base = tmp_path / "base"
    command = ("import", weights, "--as", "vlap", "--base", base, "-b", "shapes", "--frames", 4)
    assert "config.json cannot be read" in refusal(vqa, 3, *command)
    with pytest.raises(DataError, match="is a directory"):
        BackboneFolder(base)


def test_hidden_folders_are_no_companions(tmp_path: Path) -> None:
    source = tmp_path / ".hidden-parent" / "base"
    for name in (".git/config", ".cache/huggingface/x.json", "qformer_tokenizer/tokenizer.json"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("{}")
    assert copy_companions(source, tmp_path / "new") == ["qformer_tokenizer/tokenizer.json"]
    assert not (tmp_path / "new" / ".git").exists()


@pytest.mark.parametrize(
    ("system", "options", "about"),
    [
        ("sevila", ("--frames", 4, "--keep", 8), "more than the 4 frames"),
        ("sevila", ("--keep", 33), "more than the 32 frames"),
        ("vlap", ("--role", "start", "--frames", 4, "--keep", 8), "more than the 4 frames"),
        ("vlap", ("--role", "teacher", "--frames", 4, "--keep", 2), "--role start"),
    ],
)
def test_frames_that_cannot_be_kept_are_refused(
    vqa: Run, tmp_path: Path, weights: Path, system: str, options: tuple[Any, ...], about: str
) -> None:
    command = ("import", weights, "--as", system, "--base", "tiny", "-b", "shapes", *options)
    assert about in refusal(vqa, 2, *command, "-w", tmp_path / "workspace")


def test_a_teacher_that_keeps_all_its_frames_and_a_start_are_accepted() -> None:
    teacher = ImportChoices("vlap", "tiny", "shapes", roles=("teacher",), frames=4, keep=4)
    assert vlap_frames(teacher, "teacher", [], queries=4, tokens=37) == (4, 4)
    start = ImportChoices("vlap", "tiny", "shapes", roles=("start",), frames=4, keep=2)
    assert vlap_frames(start, "start", [], queries=4, tokens=37) == (4, 2)
    with pytest.raises(UsageError, match="looks at all of its 4 frames"):
        vlap_frames(start, "teacher", [], queries=4, tokens=37)


@pytest.mark.parametrize(
    "option",
    [
        ("--frames", 4), ("--keep", 4), ("--preset", "paper"), ("--answer", "letter"),
        ("--precision", "float32"), ("--force",), ("--benchmark", "shapes"), ("--name", "x"),
        ("--role", "teacher"), ("--set", "model.x=1"),
    ],
)  # fmt: skip
def test_a_folder_takes_no_option_of_weights(
    vqa: Run, tmp_path: Path, weights: Path, option: tuple[Any, ...]
) -> None:
    command = ("import", weights, "--as", "backbone", "--base", "tiny", "--out", tmp_path / "new")
    told = refusal(vqa, 2, *command, *option)
    assert option[0] in told
    assert "only --base, --out, --allow-missing" in told


def test_a_file_where_a_folder_is_needed_is_a_wrong_request(
    vqa: Run, tmp_path: Path, weights: Path
) -> None:
    told = f"{weights} is a file, not a folder"
    common = ("--as", "vlap", "--base", "tiny", "-b", "shapes", "--frames", 4)
    for workspace in (weights, weights / "below"):
        assert told in refusal(vqa, 2, "import", weights, *common, "-w", workspace)
    out = ("--out", weights / "x.pth", "-w", tmp_path / "workspace")
    assert told in refusal(vqa, 2, "export", "some-id", "--to", "lavis", *out)
    folder = ("--as", "backbone", "--base", "tiny", "--out", weights / "new")
    assert told in refusal(vqa, 2, "import", weights, *folder)


def test_a_suggested_command_can_be_pasted(vqa: Run, tmp_path: Path) -> None:
    path = tmp_path / "my weights; reboot.pth"
    torch.save({"model": {"Qformer_loc.bert.a": torch.ones(2)}}, path)
    found = vqa("checkpoint", "inspect", path).json
    assert str(path) in shlex.split(found["next"][0])


def test_a_model_type_that_would_command_a_terminal_is_refused(vqa: Run, tmp_path: Path) -> None:
    base = base_with(tmp_path / "base", "tiny", {"model_type": "\x1b[2Jx"})
    save_file({"a": torch.ones(2)}, base / "model.safetensors")
    assert "\x1b" not in refusal(vqa, 3, "inspect", base)
    common = ("--as", "vlap", "--base", base, "-b", "shapes", "--frames", 4)
    assert "\x1b" not in refusal(vqa, 3, "import", base, *common)


def test_a_first_stage_comes_with_a_word_about_its_projection(vqa: Run, tmp_path: Path) -> None:
    state = {name: torch.ones(2, 2) for name in STAGE_1}
    torch.save({"model": state}, tmp_path / "stage1.pth")
    found = vqa("checkpoint", "inspect", tmp_path / "stage1.pth").json
    assert found["kind"] == "blip2-stage1"
    assert "never trained together" in found["notes"][0]


STAGE_1 = (
    "query_tokens", "ln_vision.weight", "Qformer.bert.encoder.layer.0.attention.self.query.weight",
    "vision_proj.weight", "text_proj.weight", "itm_head.weight",
)  # fmt: skip
