"""Files and names made by somebody else cannot reach outside, and are refused with a sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def external_storage(path: Path, shape: tuple[int, ...], secret: Path) -> None:
    size = int(np.prod(shape)) * 2
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", shape, "f2", external=[(str(secret), 0, size)])


def external_link(path: Path, shape: tuple[int, ...], secret: Path) -> None:
    with h5py.File(secret, "w") as file:
        file.create_dataset("rows", shape, "f2", chunks=(1, *shape[1:]))
    with h5py.File(path, "w") as file:
        file["rows"] = h5py.ExternalLink(str(secret), "/rows")


def soft_link(path: Path, shape: tuple[int, ...], secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("other", shape, "f2", chunks=(1, *shape[1:]))
        file["rows"] = h5py.SoftLink("/other")


def virtual(path: Path, shape: tuple[int, ...], secret: Path) -> None:
    layout = h5py.VirtualLayout(shape=shape, dtype="f2")
    layout[:] = h5py.VirtualSource(str(secret), "rows", shape=shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("rows", layout)


def absurd_shape(path: Path, shape: tuple[int, ...], secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", (2**40, *shape[1:]), "f2", chunks=(1, *shape[1:]))


def zip_bomb(path: Path, shape: tuple[int, ...], secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "rows", (200_000, *shape[1:]), "f2", chunks=(1000, *shape[1:]), compression="gzip"
        )


def a_group(path: Path, shape: tuple[int, ...], secret: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("rows")


def objects(path: Path, shape: tuple[int, ...], secret: Path) -> None:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("rows", (3,), h5py.string_dtype(), chunks=(1,))
        dataset[0] = "text"


def text(path: Path, shape: tuple[int, ...], secret: Path) -> None:
    path.write_text("not HDF5")


HOSTILE = (
    external_storage, external_link, soft_link, virtual, absurd_shape, zip_bomb, a_group, objects,
    text,
)  # fmt: skip


@pytest.fixture(scope="session")
def world_folder(trained_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace: Path = trained_world.copy(tmp_path_factory.mktemp("hostile"))
    return workspace


def features_shards(workspace: Path, split: str) -> list[Path]:
    return sorted((workspace / "features").glob(f"shapes-{split}-*/features-*.h5"))


def assert_refused(outcome: Any, name: str) -> None:
    assert outcome.code == 3, outcome.stdout
    assert "internal error" not in outcome.json["error"]["message"]
    assert name in outcome.json["error"]["message"]


@pytest.mark.parametrize("make", HOSTILE)
def test_a_hostile_features_shard_is_refused_by_evaluation(
    make: Callable[..., None], world_folder: Path, forked_vqa: Any, tmp_path: Path
) -> None:
    shard = features_shards(world_folder, "test")[0]
    before = shard.read_bytes()
    with h5py.File(shard) as file:
        shape = file["rows"].shape
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 4_000_000)
    make(shard, shape, secret)

    outcome = forked_vqa("eval", "--benchmark", "shapes", "-w", world_folder)
    shard.write_bytes(before)

    assert_refused(outcome, shard.name)
    assert not list((world_folder / "predictions").glob("*/manifest.json"))


@pytest.mark.parametrize("make", [external_storage, external_link, absurd_shape])
def test_a_hostile_features_shard_is_refused_by_training(
    make: Callable[..., None], world_folder: Path, forked_vqa: Any, tmp_path: Path
) -> None:
    shard = features_shards(world_folder, "train")[0]
    before = shard.read_bytes()
    with h5py.File(shard) as file:
        shape = file["rows"].shape
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 4_000_000)
    make(shard, shape, secret)

    outcome = forked_vqa(
        "train-teacher", "--benchmark", "shapes", "--seed", 99, "--set", "training.epochs=1",
        "-w", world_folder,
    )  # fmt: skip
    shard.write_bytes(before)

    assert_refused(outcome, shard.name)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("rows.parquet", "shard", 10**6),
        ("rows.parquet", "shard", -1),
        ("rows.parquet", "offset", 2**60),
        ("rows.parquet", "offset", -8),
        ("clips.parquet", "rows", [10**9]),
        ("clips.parquet", "rows", [-5]),
        ("rows.parquet", "time", None),
    ],
)
def test_an_index_that_points_anywhere_else_is_refused(
    table: str, column: str, value: Any, world_folder: Path, forked_vqa: Any
) -> None:
    """`None` takes the column away."""
    file = features_shards(world_folder, "test")[0].with_name(table)
    before = file.read_bytes()
    content = pq.read_table(file)
    place = content.column_names.index(column)
    changed = content.remove_column(place)
    if value is not None:
        field = content.schema.field(column)
        values = content[column].to_pylist()
        values = [value * len(v) if isinstance(v, list) else value for v in values]
        changed = changed.add_column(place, field, pa.chunked_array([pa.array(values, field.type)]))
    pq.write_table(changed, file)

    outcome = forked_vqa("eval", "--benchmark", "shapes", "-w", world_folder)
    file.write_bytes(before)

    assert_refused(outcome, table if column != "offset" else "features-")


@pytest.mark.parametrize("name", ["../../victim", "/{root}/victim", "a/../../../victim"])
def test_a_manifest_cannot_make_repair_delete_files_outside(
    name: str, forked_vqa: Any, prepared: Any, tmp_path: Path
) -> None:
    stage = prepared.stages["frames"]
    workspace = prepared.copy(stage, tmp_path / "w")
    folder = Path(forked_vqa(*stage.arguments, "-w", workspace).json["artifact"]["path"])
    victims = [tmp_path / "victim", workspace / "victim", workspace / "frames" / "victim"]
    for victim in victims:
        victim.write_text("mine")
    manifest = json.loads((folder / "manifest.json").read_text())
    named = name.replace("/{root}", str(tmp_path))
    manifest["files"][named] = {"size": 1, "sha256": "0" * 64, "rows": None}
    (folder / "manifest.json").write_text(json.dumps(manifest))

    outcome = forked_vqa("artifacts", "verify", "--repair", "-w", workspace)

    assert outcome.code in (3, 6), outcome.stdout
    assert "refused" in outcome.json["error"]["message"]
    assert all(victim.read_text() == "mine" for victim in victims)


def test_video_names_that_leave_the_folder_cost_one_row_each(
    forked_vqa: Any, prepared: Any, tmp_path: Path
) -> None:
    videos, outside = tmp_path / "videos", tmp_path / "outside.mp4"
    videos.mkdir()
    source = min((prepared.root / "questions").rglob("*.mp4"))
    shutil.copy(source, outside)
    shutil.copy(source, videos / "good.mp4")
    shutil.copy(source, videos / "also good.mp4")
    (videos / "link.mp4").symlink_to(outside)
    (videos / "inner.mp4").symlink_to("good.mp4")
    (videos / "folder").symlink_to(tmp_path)
    bad = [
        "../outside.mp4", "../../x", str(outside), "nul\0.mp4", "link.mp4", "folder/outside.mp4",
        "good.mp4/../../outside.mp4", "C:\\x.mp4",
    ]  # fmt: skip
    good = ["good.mp4", "also good.mp4", "inner.mp4"]
    asked = {"question": "what?", "options": ["a", "b"], "answer": 0}
    lines = [
        {"question_id": f"q{i}", "video": name, **asked} for i, name in enumerate([*bad, *good])
    ]
    annotations = tmp_path / "custom.jsonl"
    annotations.write_text("".join(json.dumps(line) + "\n" for line in lines))

    made = forked_vqa(
        "prepare", "--benchmark", "custom", "--split", "test", "--annotations", annotations,
        "--videos", videos, "-w", tmp_path / "w", "--max-failures", 1,
    )  # fmt: skip

    assert made.code == 0, made.stdout + made.stderr
    folder = Path(made.json["artifact"]["path"])
    failures = pq.read_table(folder / "failures.parquet").to_pylist()
    assert sorted(row["id"] for row in failures) == sorted(bad)
    assert {row["reason"] for row in failures} == {"refused"}
    assert all(row["words"] for row in failures)
    statuses = {
        row["video"]: row["status"] for row in pq.read_table(folder / "videos.parquet").to_pylist()
    }
    assert {name: statuses[name] for name in good} == dict.fromkeys(good, "found")
    assert made.json["counts"] == {"total": 11, "done": 3, "failed": 8}
    after = forked_vqa(
        "extract-frames", "--benchmark", "custom", "--for", "tiny", "--frames", 2,
        "-w", tmp_path / "w", "--max-failures", 1,
    )  # fmt: skip
    assert after.code == 0, after.stdout
    assert after.json["counts"]["done"] == 3
    assert after.json["counts"]["failed"] == 8


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_weights_are_refused_and_never_run(
    name: str, forked_vqa: Any, prepared: Any, tiny_backbone_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_backbone_folder, tmp_path / "pickled"))
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    stage = prepared.stages["features"]
    workspace = prepared.copy(stage, tmp_path / "w")

    outcome = forked_vqa(
        "extract-features", "--benchmark", "shapes", "--backbone", folder, "-w", workspace
    )

    assert outcome.code in (3, 4), outcome.stdout
    message = outcome.json["error"]["message"] + outcome.json["error"]["hint"]
    assert "internal error" not in message
    assert name in message
    assert not (tmp_path / "ran").exists()
    assert not (workspace / "features").exists()
