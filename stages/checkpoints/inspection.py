"""What a checkpoint holds, for a person and as JSON; reads names, shapes and types only.

No torch, no tensor, no code of the file: the cost does not grow with the size of the file.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.checkpoints.groups import group_of, summary
from stages.checkpoints.layouts import Layout, recognise
from stages.checkpoints.naming import System, renamed
from stages.checkpoints.tensor_files import Checkpoint, Stored, dtype_counts, open_checkpoint
from stages.core.errors import DataError

DROPPED, UNEXPECTED = "without a place here", "unexpected"
TWO_SIDED = ("sevila", "sevila-localizer", "vqa-sevila")
SEVILA_KINDS = (*TWO_SIDED, "blip2-stage1", "blip2-stage2", "huggingface-blip-2")
_VLAP = "vqa checkpoint import {path} --as vlap --base instructblip-flan-t5-xl --benchmark NAME"
_SEVILA = "vqa checkpoint import {path} --as sevila --base blip2-flan-t5-xl --benchmark NAME"
_BACKBONE = "vqa checkpoint import {part}={path} --as backbone --base FOLDER --out NEW_FOLDER"
NEXT: Mapping[str, str] = {
    "sevila": _SEVILA,
    "sevila-localizer": f"{_SEVILA} --role localizer",
    "blip2-stage1": f"{_SEVILA} --role answerer --allow-missing answerer.language_projection",
    "blip2-stage2": f"{_SEVILA} --role answerer",
    "vila-student": _VLAP,
    "vila-merged": f"{_VLAP} --role start --frames T --keep K",
    "vila-teacher": f"{_VLAP} --frames T",
    "instructblip": f"{_VLAP} --frames T",
    "eva-vit": _BACKBONE.replace("{part}", "vision"),
    "t5": _BACKBONE.replace("{part}", "language"),
    "huggingface-t5": _BACKBONE.replace("{part}", "language"),
    "huggingface-blip-2": "vqa extract-features --benchmark NAME --backbone {path} --from-videos",
    "huggingface-instructblip": "vqa extract-features --benchmark NAME --backbone {path} "
    "--from-videos",
    "huggingface-clip": "vqa extract-features --benchmark NAME --backbone {path} --from-videos",
    "vqa-vlap": "vqa eval --benchmark NAME --system vlap --weights {path}",
    "vqa-sevila": "vqa eval --benchmark NAME --system sevila --weights {path}",
}
"""What one does with a checkpoint of each kind."""
NOTES: Mapping[str, str] = {
    "blip2-stage1": "a first stage has no language projection: the import takes the base's, which "
    "was never trained together with this Q-Former",
}
"""What one should know before."""


def inspect_checkpoint(path: Path) -> dict[str, Any]:
    """Kind, sizes, groups of tensors and left-overs of a training.

    Raises:
        MissingInput: Nothing there.
        DataError: Damaged, or not of a kind that is read; nothing in it was executed.
    """
    checkpoint = open_checkpoint(path)
    layout = recognise(checkpoint)
    if not f"{layout.kind}{layout.described}".isprintable():
        raise DataError(f"{path} calls itself {layout.kind[:80]!a}, which cannot be printed")
    command = NEXT.get(layout.kind, "")
    return {
        "command": "checkpoint inspect",
        "path": str(path),
        "form": checkpoint.form,
        "kind": layout.kind,
        "described": layout.described,
        "files": [file.name for file in checkpoint.files],
        "bytes": checkpoint.bytes,
        "tensors": len(checkpoint.tensors),
        "parameters": sum(item.elements for item in checkpoint.tensors.values()),
        "dtypes": dtype_counts(checkpoint.tensors),
        "groups": [summary(name, held) for name, held in _groups(checkpoint, layout).items()],
        "left_overs": {
            name: {"tensors": item.tensors, "elements": item.elements}
            for name, item in checkpoint.left_overs.items()
        },
        "notes": [NOTES[layout.kind]] if layout.kind in NOTES else [],
        "next": [command.format(path=shlex.quote(str(path)))] if command else [],
    }


def _groups(checkpoint: Checkpoint, layout: Layout) -> dict[str, dict[str, Stored]]:
    """Group to the tensors of it under the checkpoint's own names, in the order of the file."""
    system: System = "sevila" if layout.kind in SEVILA_KINDS else "vlap"
    names = renamed(checkpoint.tensors, layout.naming, system)
    place: dict[str, str] = dict.fromkeys(names.dropped, DROPPED)
    for ours, stored in names.ours.items():
        shown = ours if layout.kind in TWO_SIDED else ours.removeprefix("answerer.")
        place |= dict.fromkeys(stored, group_of(shown))
    for name in names.unexpected:
        other = layout.naming == "other"
        place[name] = name.partition(".")[0] if other else UNEXPECTED
    groups: dict[str, dict[str, Stored]] = {}
    for name, item in checkpoint.tensors.items():
        groups.setdefault(place[name], {})[name] = item
    return groups
