"""Weights artifacts in the layouts of other code bases; what `import` reads back bit for bit.

| to | holds |
|---|---|
| `sevila` | `{"model": ...}` with answerer and localizer (`*_loc`) |
| `vila` | `{"model": ...}` of a student, a start or a teacher; a second artifact of role teacher goes under `*_T`, as re_weight.py writes it |
| `lavis` | `{"model": ...}` with one Q-Former side, no `_loc` and no prompter |
| `hf` | a whole folder: the base's towers and tokenizers with these weights in their place |
"""  # noqa: E501 - a table

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from stages.artifacts import atomic
from stages.artifacts.store import Artifact
from stages.artifacts.weights import read_weights
from stages.checkpoints.backbone_import import folder_name
from stages.checkpoints.tensor_files import Checkpoint, open_checkpoint
from stages.checkpoints.writing import (
    WEIGHTS_NAME,
    copy_companions,
    new_folder,
    write_pth,
    write_safetensors,
)
from stages.core.errors import DataError, UsageError
from stages.models.backbones.catalog import backbone_fingerprint, backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.reference_names import reference_from_ours, teacher_name

Target = Literal["lavis", "sevila", "vila", "hf"]
SYSTEM_OF = {"sevila": "sevila", "vila": "vlap"}
SIDES = ("answerer", "localizer")
TEACHER_PARTS = ("qformer.", "query_tokens", "language_projection.")


def export_file(artifacts: Sequence[Artifact], to: Target, out: Path) -> dict[str, int]:
    """Write a `.pth` in a published layout.

    Args:
        artifacts: One weights artifact; for `sevila` also both sides, for `vila` also a teacher.
        to: The layout.
        out: The file; overwritten.

    Returns:
        Number of tensors and bytes.

    Raises:
        UsageError: The layout has no place for weights of this system or role.
        DataError: A tensor is an extension of ours that the layout has no name for.
    """
    state = published_names(artifacts, to)
    atomic.make_directory(out.parent)
    write_pth(out, state)
    return {"tensors": len(state), "bytes": out.stat().st_size}


def published_names(artifacts: Sequence[Artifact], to: Target) -> dict[str, Tensor]:
    """The artifacts' tensors under the names of a published layout."""
    _check_system(artifacts, to)
    if to == "sevila":
        state = _sevila_sides(artifacts)
    elif to == "vila":
        return _vila(artifacts)
    else:
        state = _one_side(artifacts[0])
    return _reference(state, artifacts[0].id)


def _check_system(artifacts: Sequence[Artifact], to: Target) -> None:
    for item in artifacts:
        if item.kind != "weights" or item.config["system"] not in ("sevila", "vlap"):
            raise UsageError(f"{item.id}: no published layout for it", "weights of VLAP or SeViLA")
        wanted = SYSTEM_OF.get(to)
        if wanted is not None and item.config["system"] != wanted:
            raise UsageError(f"{item.id} is {item.config['system']}, --to {to} is {wanted}'s")
    if len(artifacts) > (2 if to in SYSTEM_OF else 1):
        raise UsageError(f"--to {to} has no place for {len(artifacts)} artifacts")


def _sevila_sides(artifacts: Sequence[Artifact]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for item in artifacts:
        given = read_weights(item)
        twice = state.keys() & given.keys()
        if twice:
            side = min(twice).partition(".")[0]
            raise UsageError(f"{artifacts[0].id} and {item.id} both hold the {side}")
        state |= given
    return state


def _vila(artifacts: Sequence[Artifact]) -> dict[str, Tensor]:
    """The first artifact under its own names, a second one, the teacher, under names with `_T`."""
    first, *others = artifacts
    state = _reference(read_weights(first), first.id)
    for teacher in others:
        if teacher.config["role"] != "teacher":
            raise UsageError(f"{teacher.id} is no teacher", "the second artifact goes under *_T")
        own = {n: t for n, t in read_weights(teacher).items() if n.startswith(TEACHER_PARTS)}
        copies = _reference(own, teacher.id)
        state |= {teacher_name(name): tensor for name, tensor in copies.items()}
    return state


def _one_side(artifact: Artifact) -> dict[str, Tensor]:
    """A Q-Former side without a word for it; refuses a prompter, which LAVIS has no place for."""
    state = read_weights(artifact)
    if artifact.config["role"] == "student":
        raise UsageError(
            f"{artifact.id} is a student: LAVIS and Hugging Face have no place for its prompter",
            "vqa checkpoint export --to vila",
        )
    sides = {name.partition(".")[0] for name in state} & set(SIDES)
    if len(sides) > 1:
        raise UsageError(f"{artifact.id} holds both sides", "vqa checkpoint export --to sevila")
    side = sides.pop() if sides else ""
    return {name.removeprefix(f"{side}."): tensor for name, tensor in state.items()}


def _reference(state: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    try:
        named = {_flat_norm(name): tensor for name, tensor in sorted(state.items())}
        return reference_from_ours(named)
    except KeyError as error:
        raise DataError(
            f"{what}: {error.args[0]} is an extension that published layouts have no name for",
            "only the papers' own networks can be exported",
        ) from None


def _flat_norm(name: str) -> str:
    """BLIP-2's Q-Former has its first norm beside `embeddings`, the reference within it."""
    if name.startswith("qformer.layernorm."):
        return "qformer.embeddings." + name.removeprefix("qformer.")
    return name


# --- Hugging Face ---------------------------------------------------------------------------------


def export_folder(artifact: Artifact, base: str, out: Path) -> dict[str, Any]:
    """Write a folder that any tool for BLIP-2 or InstructBLIP reads.

    Args:
        artifact: Weights of one side.
        base: Name or folder of the backbone that they were trained on.
        out: A new folder.

    Returns:
        Number of tensors and bytes.

    Raises:
        DataError: The base is not the one of the weights, or has no place for them.
    """
    _check_system([artifact], "hf")
    folder = BackboneFolder(backbone_path(base))
    if backbone_fingerprint(folder) != artifact.config["backbone_weights"]:
        raise DataError(
            f"backbone {folder.path} is not the one that {artifact.id} was trained on",
            "give the right folder with --base",
        )
    own = open_checkpoint(folder.path)
    state = {
        folder_name(name, folder.config): tensor for name, tensor in _one_side(artifact).items()
    }
    strange = sorted(set(state) - set(own.tensors))
    if strange:
        raise DataError(
            f"{artifact.id}: {strange[0]} is an extension that the folder has no place for",
            "only the papers' own networks can be exported",
        )
    target = new_folder(out)
    write_safetensors(target / WEIGHTS_NAME, _declared(own, state), _values(own, state))
    copied = copy_companions(folder.path, target)
    atomic.write_json(target / "config.json", folder.config)
    size = (target / WEIGHTS_NAME).stat().st_size
    return {"tensors": len(own.tensors), "bytes": size, "copied": copied}


def _declared(own: Checkpoint, state: dict[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    declared = {name: (item.dtype, item.shape) for name, item in sorted(own.tensors.items())}
    for name, tensor in state.items():
        declared[name] = (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
    return declared


def _values(own: Checkpoint, state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from state.items()
    yield from own.read(name for name in own.tensors if name not in state)
