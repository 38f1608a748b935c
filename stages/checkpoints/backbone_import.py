"""Towers and a Q-Former of several files become one backbone folder in Hugging Face layout.

`eva_vit_g.pth` for the vision tower, a LAVIS file for the Q-Former, a Flan-T5 folder for the
language model; sizes and tokenizers come from the base, a folder that may lack any weights.
Values keep the type that they were stored in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.artifacts import atomic
from stages.checkpoints.assembly import Assembly, assemble, check_towers, open_source
from stages.checkpoints.derived_config import blip2_config
from stages.checkpoints.expected import LAYOUTS, backbone_shapes
from stages.checkpoints.naming import System
from stages.checkpoints.tensor_files import Stored
from stages.checkpoints.weights_import import base_source
from stages.checkpoints.writing import (
    WEIGHTS_NAME,
    copy_companions,
    new_folder,
    write_safetensors,
)
from stages.core.errors import DataError
from stages.models.backbones.catalog import backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.reference_names import huggingface_name

SYSTEMS: dict[str, System] = {layout: system for system, layout in LAYOUTS.items()}
T5 = "t5"
QFORMER_NORM = ("qformer.embeddings.layernorm.", "qformer.layernorm.")


@dataclass(frozen=True)
class BackboneImport:
    """One backbone folder in the making.

    Attributes:
        config: Its `config.json`.
        plan: Who fills what, under our names.
        base: The folder that sizes and tokenizers come from.
    """

    config: dict[str, Any]
    plan: Assembly
    base: Path


def plan_backbone(
    files: Sequence[str], base: str, allow_missing: Sequence[str] = ()
) -> BackboneImport:
    """Decide what fills the folder; nothing is written and no value read.

    Args:
        files: `FILE` or `PART=FILE`, as the user wrote them.
        base: Name or folder of the backbone whose `config.json` decides the sizes; or a Flan-T5
            folder, and the files' tensors do.
        allow_missing: Groups that may be missing; they come from the base, or stay away.

    Raises:
        MissingInput: A file or the base is not there.
        DataError: A file cannot be read, or the base is of no known layout.
    """
    folder = BackboneFolder(backbone_path(base))
    system = _system(folder)
    sources = [open_source(text, system, one_side=True) for text in files]
    own = base_source(folder, system, one_side=True)
    config = folder.config
    if config.get("model_type") == T5:
        config = blip2_config(config, sources)
    expected = backbone_shapes(config, str(folder.path))
    plan = assemble(
        sources,
        own,
        expected,
        allowed=allow_missing,
        optional=allow_missing,  # neither a file nor the base has them: they stay away
        towers_needed=False,
    )
    return BackboneImport(config, plan, folder.path)


def _system(folder: BackboneFolder) -> System:
    """Whose names the parts carry; a T5 folder stands for a BLIP-2 to be."""
    layout = str(folder.config.get("model_type"))
    if layout == T5:
        return "sevila"
    if layout not in SYSTEMS:
        raise DataError(
            f"{folder.path}: model_type {layout!r}, expected {', '.join(SYSTEMS)} or {T5}",
            "give a folder whose config.json is that of BLIP-2, InstructBLIP or Flan-T5",
        )
    return SYSTEMS[layout]


def write_backbone(item: BackboneImport, out: Path) -> dict[str, Any]:
    """Write the folder: weights, tokenizers, and `config.json` last.

    Returns:
        Number of tensors and bytes, and which group came from where.

    Raises:
        MissingInput: A group is not filled, or only in part.
        DataError: Sizes or types are not what the base asks for, a value is not finite, or a T5
            embedding in a file is not that of the language model in use.
    """
    item.plan.refuse_if_incomplete()
    check_towers(item.plan)
    target = new_folder(out)
    declared = {
        folder_name(name, item.config): (stored.dtype, shape)
        for name, stored, shape in _declared(item.plan)
    }
    write_safetensors(target / WEIGHTS_NAME, declared, _values(item))
    companions = copy_companions(item.base, target)
    report = {
        "tensors": len(declared),
        "bytes": (target / WEIGHTS_NAME).stat().st_size,
        "copied": companions,
        "files": [
            {"path": s.checkpoint.path.name, "part": s.part, "sha256": s.checkpoint.digests}
            for s in item.plan.sources
        ],
        "groups": {name: group.provenance() for name, group in item.plan.groups.items()},
    }
    atomic.write_json(target / "vqa_import.json", report)
    atomic.write_json(target / "config.json", item.config)
    return report


def folder_name(ours: str, config: dict[str, Any]) -> str:
    """Our name -> the name in a folder of this layout."""
    name = huggingface_name(ours)
    if config.get("model_type") == "blip-2":
        return name.replace(*QFORMER_NORM)
    return name


def _declared(plan: Assembly) -> Iterator[tuple[str, Stored, tuple[int, ...]]]:
    for name in sorted([*plan.filled, *plan.from_base]):
        source = plan.filled.get(name)
        if source is None:
            assert plan.base is not None
            source = plan.base
        yield name, source.checkpoint.tensors[source.names.ours[name][0]], source.shape(name)


def _values(item: BackboneImport) -> Iterator[tuple[str, Tensor]]:
    for name, value in item.plan.tensors():
        yield folder_name(name, item.config), value
