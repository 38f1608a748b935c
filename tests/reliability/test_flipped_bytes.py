"""A flipped byte in any data file of any artifact is named by `verify`, healed by `--repair`."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Content = Callable[[Path], dict[str, str]]
KINDS = (
    "questions",
    "frames",
    "features",
    "weights",
    "pseudo-labels",
    "predictions",
    "metrics",
    "report",
)


@pytest.fixture(scope="session")
def whole(
    trained_world: Any,
    sevila_world: Any,
    forked_vqa: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A workspace with artifacts of every kind."""
    workspace: Path = trained_world.copy(tmp_path_factory.mktemp("whole"))
    for seen in (sevila_world.workspace / "features").glob("shapes-train-*"):
        shutil.copytree(seen, workspace / "features" / seen.name)
    size = ("--for", trained_world.backbone, "--frames", "8,4", "--split", "test")
    for arguments in (
        ("extract-frames", "--benchmark", "shapes", *size, "--set", "videos_per_shard=3"),
        ("pseudo-label", "--benchmark", "shapes", "--backbone", sevila_world.backbone),
        ("eval", "--benchmark", "shapes", "--role", "student", "--name", "mine"),
        ("score", "--benchmark", "shapes", "--predictions", "mine"),
        ("report", "--questions", "5"),  # not the default: repair must make the same one
    ):
        done = forked_vqa(*arguments, "-w", workspace)
        assert done.code == 0, done.stdout + done.stderr
    yield workspace
    shutil.rmtree(workspace)


def data_files(workspace: Path, kind: str) -> list[Path]:
    """One artifact's data files, those of a kind that differ in shape or name."""
    folder = min((workspace / kind).iterdir())
    names = json.loads((folder / "manifest.json").read_text())["files"]
    return [folder / name for name in names]


def flip(file: Path, draw: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def is_log(file: Path) -> bool:
    return file.suffix == ".jsonl" and "metrics" in file.name


@pytest.mark.parametrize("most", [2, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_verify_names_each_flipped_file(kind: str, most: int, whole: Path, forked_vqa: Any) -> None:
    """One at a time, and put back again; the slow part takes every file of an artifact."""
    draw = random.Random(kind)
    files = [file for file in data_files(whole, kind) if file.stat().st_size]
    assert files
    for file in draw.sample(files, min(len(files), most)):
        before = file.read_bytes()
        flip(file, draw)

        found = forked_vqa("artifacts", "verify", "-w", whole)
        file.write_bytes(before)

        assert found.code == 6, file
        message = found.json["error"]["message"]
        assert file.parent.name in message or file.parents[1].name in message
        assert f"{file.name}: checksum differs" in message
        assert "--repair" in found.json["error"]["hint"]


@pytest.mark.parametrize("kind", KINDS)
def test_repair_rebuilds_flipped_files_to_the_same_bytes(
    kind: str, whole: Path, forked_vqa: Any, content: Content
) -> None:
    draw = random.Random(kind)
    files = [file for file in data_files(whole, kind) if file.stat().st_size and not is_log(file)]
    folder = min((whole / kind).iterdir())
    before = content(folder)
    victims = draw.sample(files, min(len(files), 2))
    for file in victims:
        flip(file, draw)

    repaired = forked_vqa("artifacts", "verify", folder.name, "--repair", "-w", whole)

    assert repaired.code == 0, (victims, repaired.stdout)
    after = content(folder)
    assert {name for name in before if before[name] != after.get(name)} <= {
        name for name in before if is_log(folder / name) or name == "manifest.json"
    }
    assert before.keys() == after.keys()
    assert forked_vqa("artifacts", "verify", folder.name, "-w", whole).code == 0
    (row,) = [
        row
        for row in forked_vqa("status", "-w", whole).json["artifacts"]
        if row["id"] == folder.name
    ]
    assert row["state"] == "finished"


def test_repair_of_everything_starts_with_what_others_are_made_from(
    whole: Path, forked_vqa: Any, content: Content
) -> None:
    draw = random.Random("all")
    folders = sorted(
        folder for kind in ("features", "weights") for folder in (whole / kind).iterdir()
    )
    before = {folder: content(folder) for folder in folders}
    for folder in folders:
        name = "weights.safetensors" if folder.parent.name == "weights" else "rows.parquet"
        flip(folder / name, draw)

    repaired = forked_vqa("artifacts", "verify", "--repair", "-w", whole)

    assert repaired.code == 0, repaired.stdout
    for folder in folders:
        after = content(folder)
        for name in before[folder]:
            if name != "manifest.json" and not is_log(folder / name):
                assert after[name] == before[folder][name], (folder, name)


def test_a_repair_that_is_killed_never_passes_damage_for_sound(
    whole: Path, forked_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    stage = prepared.stages["frames"]
    workspace = prepared.copy(stage, tmp_path / "w")
    folder = Path(forked_vqa(*stage.arguments, "-w", workspace).json["artifact"]["path"])
    for number in (1, 8):
        flip(folder / "frames-00001.h5", random.Random(number))
        flip(folder / "clips.parquet", random.Random(number))
        forked_vqa("artifacts", "verify", "--repair", "-w", workspace, kill_at=number)

        assert not (folder / "manifest.json").exists()
        assert forked_vqa(*stage.arguments, "-w", workspace).code == 0
        assert content(folder) == prepared.expected["frames"]


def test_a_shard_damaged_before_the_artifact_is_finished_is_made_again(
    forked_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    stage = prepared.stages["frames"]
    workspace = prepared.copy(stage, tmp_path / "w")
    forked_vqa(*stage.arguments, "-w", workspace, "--shard", "0/2")
    (folder,) = (workspace / "frames").iterdir()
    flip(folder / "frames-00000.h5", random.Random(0))

    refused = forked_vqa(*stage.arguments, "-w", workspace)
    again = forked_vqa(*stage.arguments, "-w", workspace)

    assert refused.code == 6
    assert "frames-00000.h5" in refused.json["error"]["message"]
    assert again.code == 0
    assert content(folder) == prepared.expected["frames"]
