"""`import(export(x)) = x`, bit for bit, for every layout that weights can be given back in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stages.artifacts.store import Artifact, Workspace
from stages.artifacts.weights import read_weights
from stages.checkpoint import export_weights, import_weights, plan_weights
from stages.checkpoints.choices import ImportChoices
from stages.checkpoints.inspection import inspect_checkpoint
from stages.checkpoints.tensor_files import open_checkpoint
from stages.checkpoints.writing import write_pth, write_safetensors
from stages.core.errors import DataError, UsageError
from stages.core.runtime import Runtime
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.vlap import VlapConfig, VlapStudent, trained_state

TYPES = ("float32", "float16", "bfloat16")


def bring_in(
    published: Any, workspace: Workspace, system: Any, *files: object, **options: Any
) -> list[Artifact]:
    base = published.instructblip if system == "vlap" else published.blip2
    choices = ImportChoices(system, str(base), "shapes", **options)
    plans = plan_weights([str(file) for file in files], choices)
    results = import_weights(workspace, plans, choices, Runtime())
    return [result.artifact for result in results if result.artifact is not None]


def same(found: Artifact, wanted: Artifact) -> None:
    ours, theirs = read_weights(found), read_weights(wanted)
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


LAYOUTS = [
    ("vlap", "student", "vila", {}, "vila-student"),
    ("vlap", "start", "vila", {"frames": 4, "keep": 2}, "instructblip"),
    ("vlap", "instructblip", "lavis", {"frames": 4}, "instructblip"),
    ("vlap", "instructblip", "hf", {"frames": 4}, "huggingface-instructblip"),
    ("sevila", "stage2", "lavis", {"roles": ("answerer",)}, "blip2-stage2"),
    ("sevila", "stage2", "sevila", {"roles": ("answerer",)}, "blip2-stage2"),
    ("sevila", "localizer", "sevila", {"roles": ("localizer",)}, "sevila-localizer"),
    ("sevila", "stage2", "hf", {"roles": ("answerer",)}, "huggingface-blip-2"),
]


@pytest.mark.parametrize(("system", "layout", "to", "options", "kind"), LAYOUTS)
def test_one_artifact_comes_back_from_every_layout(
    published: Any, tmp_path: Path, system: str, layout: str, to: Any, options: Any, kind: str
) -> None:
    workspace = Workspace(tmp_path / "ws")
    (artifact,) = bring_in(published, workspace, system, published.file(layout), **options)
    assert inspect_checkpoint(artifact.path)["kind"] == f"vqa-{system}"
    out = tmp_path / ("folder" if to == "hf" else "file.pth")
    export_weights(workspace, [artifact.id], to, out)
    assert inspect_checkpoint(out)["kind"] == kind
    (again,) = bring_in(published, workspace, system, out, **options)
    same(again, artifact)


def test_both_sides_come_back_from_one_sevila_file(published: Any, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    sides = bring_in(published, workspace, "sevila", published.file("sevila"))
    export_weights(workspace, [side.id for side in sides], "sevila", tmp_path / "file.pth")
    assert inspect_checkpoint(tmp_path / "file.pth")["kind"] == "sevila"
    again = bring_in(published, workspace, "sevila", tmp_path / "file.pth")
    for ours, wanted in zip(again, sides, strict=True):
        same(ours, wanted)


def test_a_localizer_comes_back_from_a_one_sided_file(published: Any, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    localizer = {"roles": ("localizer",)}
    (side,) = bring_in(published, workspace, "sevila", published.file("localizer"), **localizer)
    export_weights(workspace, [side.id], "lavis", tmp_path / "file.pth")
    file = f"localizer={tmp_path / 'file.pth'}"
    (again,) = bring_in(published, workspace, "sevila", file, **localizer)
    same(again, side)


def test_start_and_teacher_become_the_merged_file_of_the_reference(
    published: Any, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "ws")
    frames = {"frames": 4}
    (start,) = bring_in(published, workspace, "vlap", published.file("start"), keep=2, **frames)
    (teacher,) = bring_in(published, workspace, "vlap", published.file("teacher"), **frames)
    export_weights(workspace, [start.id, teacher.id], "vila", tmp_path / "file.pth")
    found = torch.load(tmp_path / "file.pth", weights_only=True)["model"]
    merged = published.states["merged"]
    assert set(found) == {name for name in merged if not name.endswith("position_ids")}
    assert all(torch.equal(tensor, merged[name]) for name, tensor in found.items())


@pytest.mark.parametrize("layout", ["student", "sevila", "stage2", "localizer", "instructblip"])
def test_a_published_file_comes_back_but_for_its_counters(
    published: Any, tmp_path: Path, layout: str
) -> None:
    workspace = Workspace(tmp_path / "ws")
    vlap = layout in ("student", "instructblip")
    options: dict[str, Any] = {"frames": 4} if vlap else {}
    if layout in ("stage2", "localizer"):
        options["roles"] = ("answerer" if layout == "stage2" else "localizer",)
    file = published.file(layout)
    system = "vlap" if vlap else "sevila"
    made = bring_in(published, workspace, system, file, **options)
    if layout == "student":
        made += bring_in(published, workspace, system, file, frames=4, roles=("teacher",))
    to: Any = "vila" if vlap else "sevila"
    export_weights(workspace, [item.id for item in made], to, tmp_path / "file.pth")
    found = torch.load(tmp_path / "file.pth", weights_only=True)["model"]
    wanted = {n: t for n, t in published.states[layout].items() if not n.endswith("position_ids")}
    assert set(found) == set(wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())


def test_a_folder_has_the_bases_towers_and_the_artifacts_side(
    published: Any, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path / "ws")
    (side,) = bring_in(
        published, workspace, "sevila", published.file("stage2"), roles=("answerer",)
    )
    export_weights(workspace, [side.id], "hf", tmp_path / "out")
    base = load_file(published.blip2 / "model.safetensors")
    found = load_file(tmp_path / "out/model.safetensors")
    assert set(found) == set(base)
    for name, tensor in base.items():
        tower = name.startswith(("vision_model.emb", "vision_model.enc", "language_model."))
        assert torch.equal(found[name], tensor) == tower, name
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (
        published.blip2 / "tokenizer.json"
    ).read_bytes()


# --- refusals ------------------------------------------------------------------------------------


def test_a_prompter_is_not_dropped_in_silence(published: Any, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    (student,) = bring_in(published, workspace, "vlap", published.file("student"))
    for to in ("lavis", "hf"):
        with pytest.raises(UsageError, match="no place for its prompter"):
            export_weights(workspace, [student.id], to, tmp_path / "out")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--to sevila is sevila's"):
        export_weights(workspace, [student.id], "sevila", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_our_extensions_have_no_published_name(published: Any, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    student = VlapStudent(
        InstructBlip.from_config(BackboneFolder(published.instructblip).config),
        VlapConfig(frames=4, keep=2, prompter="question"),
        tokens=5,
    )
    save_file(trained_state(student), tmp_path / "ours.safetensors")
    question = {"model": {"prompter": "question"}, "roles": ("student",)}
    (artifact,) = bring_in(published, workspace, "vlap", tmp_path / "ours.safetensors", **question)
    with pytest.raises(DataError, match="is an extension"):
        export_weights(workspace, [artifact.id], "vila", tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_files_are_not_overwritten_unasked(
    published: Any, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    workspace = Workspace(tmp_path / "ws")
    bring_in(published, workspace, "vlap", published.file("student"))
    out = tmp_path / "out.pth"
    command = ("checkpoint", "export", "shapes-vlap", "--to", "vila", "--out", out)
    done = vqa(*command, "-w", workspace.root)
    assert (done.code, done.json["tensors"], done.json["out"]) == (0, 73, str(out))
    told = vqa("checkpoint", "inspect", "shapes-vlap", "-w", workspace.root)
    assert told.json["described"] == "weights of vqa: vlap student"
    before = out.read_bytes()
    assert vqa(*command, "-w", workspace.root).code == 2
    assert vqa(*command, "-w", workspace.root, "--force").code == 0
    assert out.read_bytes() == before
    assert vqa("checkpoint", "export", "nothing", *command[3:], "-w", workspace.root).code == 4


# --- files ---------------------------------------------------------------------------------------


@st.composite
def states(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """A few tensors of any type and shape, empty and scalar ones too."""
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    shapes = st.lists(st.integers(0, 5), max_size=3)
    names = st.text("abc.é0", min_size=1, max_size=12)
    kinds = st.sampled_from([*TYPES, "float64", "int64", "int32", "uint8", "bool"])
    drawn = draw(st.dictionaries(names, st.tuples(shapes, kinds), min_size=1, max_size=6))
    return {
        name: (torch.randn(shape, generator=generator) * 50).to(getattr(torch, kind))
        for name, (shape, kind) in drawn.items()
    }


@given(state=states())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_tensors_survive_both_kinds_of_file(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    declared = {n: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for n, t in state.items()}
    write_pth(tmp_path / "x.pth", state)
    write_safetensors(tmp_path / "x.safetensors", declared, reversed(state.items()))
    for file in ("x.pth", "x.safetensors"):
        checkpoint = open_checkpoint(tmp_path / file)
        told = {name: (item.dtype, item.shape) for name, item in checkpoint.tensors.items()}
        assert told == declared
        found = dict(checkpoint.read(checkpoint.tensors))
        for name, tensor in state.items():
            assert torch.equal(found[name], tensor)
            assert found[name].dtype == tensor.dtype
    assert set(load_file(tmp_path / "x.safetensors")) == set(state)
