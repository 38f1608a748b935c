"""Imported weights answer questions through `vqa eval`, as the trained ones do."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.reference_names import reference_from_ours, sevila_from_huggingface_name
from stages.models.vlap import VlapConfig, VlapStudent, trained_state


def scores(artifact: dict[str, Any]) -> list[Any]:
    """Every question's scores and kept frames."""
    table = pq.read_table(Path(artifact["path"]) / "predictions.parquet")
    return [table[name].to_pylist() for name in ("question_id", "scores", "frames")]


def test_an_imported_student_answers(
    tiny_world: Any, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    workspace = tiny_world.copy(tmp_path)
    torch.manual_seed(3)
    student = VlapStudent(
        InstructBlip.load(BackboneFolder(tiny_world.backbone)),
        VlapConfig(frames=8, keep=2),
        tokens=5,
    )
    torch.save({"model": reference_from_ours(trained_state(student))}, tmp_path / "student.pth")
    imported = vqa(
        "checkpoint", "import", tmp_path / "student.pth", "--as", "vlap", "--base",
        tiny_world.backbone, "-b", "shapes", "-w", workspace, "--name", "published",
    )  # fmt: skip
    assert imported.code == 0
    outcome = vqa("eval", "-b", "shapes", "-w", workspace, "--weights", "published")
    assert outcome.code == 0
    assert outcome.json["n_scored"] == outcome.json["n_questions"] == 24
    chosen = vqa("eval", "-b", "shapes", "-w", workspace, "--split", "val", "--select", "prompter",
                 "--selector", "published", "--weights", "published")  # fmt: skip
    assert chosen.code == 0

    # What was imported cannot be made again from the workspace: nothing is deleted.
    (weights,) = (workspace / "weights").glob("published-*/weights.safetensors")
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    repaired = vqa("artifacts", "verify", "published", "--repair", "-w", workspace)
    assert repaired.code == 4
    assert "vqa checkpoint import" in repaired.json["error"]["hint"]
    assert weights.read_bytes() == damaged


def test_the_backbones_own_sides_brought_in_are_the_zero_shot_system(
    sevila_world: Any, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    workspace = sevila_world.copy(tmp_path)
    asked = ("-b", "shapes", "--system", "sevila", "-w", workspace)
    zero_shot = vqa("eval", *asked, "--answer", "letter")
    assert zero_shot.code == 0
    base = load_file(sevila_world.backbone / "model.safetensors")
    ours = {sevila_from_huggingface_name(name): tensor for name, tensor in base.items()}
    side = {name: tensor for name, tensor in ours.items() if name.startswith("answerer.")}
    both = side | {name.replace("answerer", "localizer", 1): t for name, t in side.items()}
    torch.save({"model": reference_from_ours(both)}, tmp_path / "sevila.pth")
    imported = vqa(
        "checkpoint", "import", tmp_path / "sevila.pth", "--as", "sevila", "--base",
        sevila_world.backbone, "-b", "shapes", "-w", workspace,
    )  # fmt: skip
    assert imported.code == 0
    (following,) = imported.json["next"]
    outcome = vqa(*shlex.split(following)[1:], "-w", workspace)
    assert outcome.code == 0
    assert outcome.json["artifact"]["id"] != zero_shot.json["artifact"]["id"]
    assert scores(outcome.json["artifact"]) == scores(zero_shot.json["artifact"])
