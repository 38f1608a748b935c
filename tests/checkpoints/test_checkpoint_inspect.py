"""`vqa checkpoint inspect`: what a file is and holds, without loading it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.checkpoints.inspection import inspect_checkpoint
from stages.checkpoints.layouts import DESCRIBED

GIGABYTE = 1 << 30
PEAK_MEGABYTES = 150
KINDS = {
    "sevila": "sevila",
    "localizer": "sevila-localizer",
    "stage1": "blip2-stage1",
    "stage2": "blip2-stage2",
    "eva": "eva-vit",
    "instructblip": "instructblip",
    "student": "vila-student",
    "merged": "vila-merged",
}


def groups_of(found: dict[str, Any]) -> dict[str, int]:
    return {group["group"]: group["parameters"] for group in found["groups"]}


@pytest.mark.parametrize(("layout", "kind"), KINDS.items())
def test_every_published_layout_is_recognised(published: Any, layout: str, kind: str) -> None:
    found = inspect_checkpoint(published.file(layout))
    assert (found["kind"], found["described"]) == (kind, DESCRIBED[kind])
    state = published.states[layout]
    assert found["tensors"] == len(state)
    assert found["parameters"] == sum(tensor.numel() for tensor in state.values())
    assert sum(groups_of(found).values()) == found["parameters"]
    assert found["next"][0].startswith("vqa checkpoint import ")


def test_a_vila_run_is_told_from_instructblip_by_what_training_left(published: Any) -> None:
    found = inspect_checkpoint(published.file("teacher", training=True))
    assert found["kind"] == "vila-teacher"
    assert found["left_overs"] == {
        "optimizer": {"tensors": 1, "elements": 12},
        "epoch": {"tensors": 0, "elements": 0},
    }
    assert {group["group"] for group in found["groups"]} >= {"qformer", "language"}


def test_both_sides_of_sevila_are_counted_apart(published: Any) -> None:
    groups = groups_of(inspect_checkpoint(published.file("sevila")))
    assert groups["answerer.qformer"] == groups["localizer.qformer"] > 0
    assert set(groups) == {
        f"{side}.{part}"
        for side in ("answerer", "localizer")
        for part in ("qformer", "query_tokens", "language_projection", "ln_vision")
    }


def test_names_come_with_shapes_types_and_layers_counted(published: Any) -> None:
    found = inspect_checkpoint(published.file("stage2"))
    names = {item["name"]: item for group in found["groups"] for item in group["names"]}
    assert names["Qformer.bert.encoder.layer.{i}.attention.self.query.weight"] == {
        "name": "Qformer.bert.encoder.layer.{i}.attention.self.query.weight",
        "shape": [24, 24],
        "dtype": "float32",
        "count": 2,
    }


def test_folders_single_and_sharded_are_one_kind(published: Any, tmp_path: Path) -> None:
    state = load_file(published.blip2 / "model.safetensors")
    whole = inspect_checkpoint(published.blip2)
    assert whole["kind"] == "huggingface-blip-2"
    names = sorted(state)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in files.items():
        save_file({name: state[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in files.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_bytes((published.blip2 / "config.json").read_bytes())
    sharded = inspect_checkpoint(tmp_path)
    assert sharded["files"] == ["a.safetensors", "b.safetensors"]
    assert "2 shards" in sharded["described"]
    assert groups_of(sharded) == groups_of(whole)


def test_unknown_tensors_are_shown_by_their_first_word(tmp_path: Path) -> None:
    torch.save({"backbone.a": torch.zeros(2), "backbone.b": torch.zeros(3)}, tmp_path / "x.pth")
    found = inspect_checkpoint(tmp_path / "x.pth")
    assert found["kind"] == "unknown"
    assert groups_of(found) == {"backbone": 5}


def test_parameters_views_and_ordered_dicts_are_read(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    state = layer.state_dict()
    half = torch.zeros(4, 6, dtype=torch.float16)
    torch.save({**state, "own": layer.weight, "view": half.t()[1:3]}, tmp_path / "x.pth")
    found = inspect_checkpoint(tmp_path / "x.pth")
    assert found["dtypes"] == {"float16": 1, "float32": 3}
    torch.save(state, tmp_path / "ordered.pth")
    assert inspect_checkpoint(tmp_path / "ordered.pth")["tensors"] == 2


def test_the_command_prints_one_json_object(
    published: Any, vqa: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = vqa("checkpoint", "inspect", published.file("sevila"))
    assert outcome.code == 0
    assert outcome.json["kind"] == "sevila"
    from vqa_cli.main import run_command

    assert run_command(["checkpoint", "inspect", str(published.file("sevila")), "--names"]) == 0
    printed = capsys.readouterr().out
    assert "SeViLA stage checkpoint" in printed
    assert "Qformer_loc.bert.encoder.layer.{i}" in printed


def sparse_checkpoint(path: Path, size: int) -> Path:
    """An archive of torch.save with one tensor of `size` zero bytes that take no disk."""
    torch.save({"model": {"Qformer.big": torch.zeros(4)}}, path)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    count = b"J" + (size // 4).to_bytes(4, "little")
    huge = pickled.replace(b"K\x04t", count + b"t").replace(b"K\x04\x85", count + b"\x85")
    members = [(b"x/data.pkl", huge, len(huge)), (b"x/data/0", b"", size)]
    directory = b""
    with path.open("wb") as file:
        for name, data, length in members:
            at = file.tell()
            fields = struct.pack("<5H3L2H", 20, 0, 0, 0, 0, 0, length, length, len(name), 0)
            file.write(b"PK\x03\x04" + fields + name + data)
            file.truncate(file.tell() + length - len(data))
            file.seek(0, 2)
            more = struct.pack("<3H2L", 0, 0, 0, 0, at)
            directory += b"PK\x01\x02" + struct.pack("<H", 20) + fields + more + name
        at = file.tell()
        end = struct.pack("<4H2LH", 0, 0, 2, 2, len(directory), at, 0)
        file.write(directory + b"PK\x05\x06" + end)
    return path


MEASURE = """
import sys
from vqa_cli.main import run_command
code = run_command(["checkpoint", "inspect", sys.argv[1], "--json"])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(code, int(peak.split()[1]) // 1024, "torch" in sys.modules, file=sys.stderr)
"""


def measured(path: Path) -> tuple[dict[str, Any], int, bool]:
    """The JSON, the peak memory in MB and whether torch was imported, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    code, peak, torch_there = done.stderr.split()[-3:]
    assert code == "0"
    return json.loads(done.stdout), int(peak), torch_there == "True"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
def test_a_gigabyte_is_inspected_in_a_few_megabytes(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [GIGABYTE // 4], "data_offsets": [0, GIGABYTE]}
    header = {"visual_encoder.x": entry}
    raw = json.dumps(header).encode()
    path = tmp_path / "big.safetensors"
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + GIGABYTE)
    found, peak, torch_there = measured(path)
    assert found["parameters"] == GIGABYTE // 4
    assert peak < PEAK_MEGABYTES
    assert not torch_there


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' /proc")
def test_a_gigabyte_of_torch_is_inspected_in_a_few_megabytes(tmp_path: Path) -> None:
    path = sparse_checkpoint(tmp_path / "big.pth", GIGABYTE)
    found, peak, torch_there = measured(path)
    assert found["parameters"] == GIGABYTE // 4
    assert found["bytes"] > GIGABYTE
    assert peak < PEAK_MEGABYTES
    assert not torch_there
