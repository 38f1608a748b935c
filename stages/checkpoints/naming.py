"""The names of a checkpoint of any layout as ours, and which have no place here.

Sources may say one of our tensors in two (`q_bias` and `v_bias` of the vision tower); a `Renamed`
says what each of ours is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from stages.checkpoints.layouts import Naming
from stages.models.reference_names import (
    is_split_bias,
    lavis_from_eva_name,
    merged_bias_name,
    ours_from_huggingface_name,
    ours_from_reference_name,
    sevila_from_huggingface_name,
    sevila_from_reference_name,
)

System = Literal["vlap", "sevila"]
EMBEDDING = "language_model.shared.weight"
EMBEDDING_ALIASES = {
    "language_model.encoder.embed_tokens.weight", "language_model.decoder.embed_tokens.weight"
}  # fmt: skip
"""The same tensor under two more names; LAVIS leaves these two in its files."""
Rename = Callable[[str], str | None]


@dataclass
class Renamed:
    """A checkpoint's names sorted by what becomes of them.

    Attributes:
        ours: Our name to the source's names that make it, one or (q, v).
        dropped: Names that are known and have no place: counters, text parts, other heads.
        unexpected: Names that belong to no known layout.
    """

    ours: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)


def renamed(names: Iterable[str], naming: Naming, system: System) -> Renamed:
    """Names of a checkpoint as names of `system`'s weights and of the towers below them."""
    rename = _RENAMES[system].get(naming)
    found = Renamed()
    halves: dict[str, list[str]] = {}
    for name in names:
        reference = lavis_from_eva_name(name) if naming == "eva" else name
        if reference is None:
            found.dropped.append(name)
            continue
        try:
            if rename is None:
                raise KeyError(name)
            if is_split_bias(reference):
                halves.setdefault(merged_bias_name(reference), []).append(name)
                continue
            target = rename(reference)
        except KeyError:
            found.unexpected.append(name)
            continue
        target = EMBEDDING if target in EMBEDDING_ALIASES else target
        if target is None or target in found.ours:
            found.dropped.append(name)
        else:
            found.ours[target] = (name,)
    _pair(halves, found)
    return found


def _pair(halves: Mapping[str, list[str]], found: Renamed) -> None:
    """q and v make one tensor; one of them alone makes none."""
    for target, parts in halves.items():
        parts = sorted(parts)
        if len(parts) == 2 and parts[0].endswith("q_bias"):
            found.ours[target] = tuple(parts)
        else:
            found.unexpected.extend(parts)


def _t5_name(name: str) -> str:
    if not name.startswith(("shared.", "encoder.", "decoder.", "lm_head.")):
        raise KeyError(name)
    return f"language_model.{name}"


_KNOWN_STARTS = (
    "vision_model.", "language_model.", "language_projection.", "ln_vision.", "qformer.",
    "query_tokens", "frame_prompter.", "distill_decoder.", "teacher.", "answerer.", "localizer.",
)  # fmt: skip


def _own_name(name: str) -> str:
    if not name.startswith(_KNOWN_STARTS):
        raise KeyError(name)
    return name


def _huggingface(rename: Callable[[str], str]) -> Rename:
    def known(name: str) -> str | None:
        if name.endswith(".position_ids"):
            return None
        return rename(_own_name(name))

    return known


_RENAMES: Mapping[System, Mapping[Naming, Rename]] = {
    "vlap": {
        "reference": ours_from_reference_name,
        "eva": ours_from_reference_name,
        "huggingface": _huggingface(ours_from_huggingface_name),
        "t5": _t5_name,
        "ours-vlap": _own_name,
    },
    "sevila": {
        "reference": sevila_from_reference_name,
        "eva": sevila_from_reference_name,
        "huggingface": _huggingface(sevila_from_huggingface_name),
        "t5": _t5_name,
        "ours-sevila": _own_name,
    },
}
