"""Foreign weights become weights artifacts that every stage reads as its own.

Config of the artifact: what a training stage would have written of the network (`model`, `frames`,
`keep`, `answer`, `training.precision`), and under `imported` the digests of the files. The manifest
says under `imported` which file filled which group, and what came from the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.artifacts.store import Artifact, Draft, Request
from stages.artifacts.weights import write_weights
from stages.checkpoints.assembly import (
    PLAIN,
    Assembly,
    Source,
    assemble,
    check_towers,
    open_source,
)
from stages.checkpoints.choices import (
    DEFAULT_FRAMES,
    DEFAULT_KEEP,
    ImportChoices,
    sevila_roles,
    vlap_frames,
    vlap_role,
)
from stages.checkpoints.expected import LAYOUTS, Shapes, sevila_shapes, vlap_shapes
from stages.checkpoints.tensor_files import INDEX_FILE, SINGLE_FILE
from stages.core.errors import MissingInput, UsageError
from stages.models.backbones.catalog import (
    backbone_fingerprint,
    backbone_host,
    backbone_label,
    backbone_path,
    in_layout,
)
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.towers import tower_spec
from stages.models.sevila import SevilaConfig
from stages.models.vlap import PRESETS, LoraConfig, VlapConfig

OPTIONAL = ("distill_decoder",)
"""Needed in training only; published students may come without."""


@dataclass(frozen=True)
class WeightsImport:
    """One weights artifact in the making.

    Attributes:
        request: What it will be.
        plan: Who fills what.
        base: Name or folder of the backbone.
    """

    request: Request
    plan: Assembly
    base: str


@dataclass(frozen=True)
class _Base:
    """The backbone that weights are brought onto."""

    name: str
    folder: BackboneFolder
    source: Source | None

    @property
    def queries(self) -> int:
        """Q."""
        return int(self.folder.config.get("num_query_tokens", 32))

    def config(self, choices: ImportChoices, role: str) -> dict[str, Any]:
        """What every imported artifact's config holds."""
        return {
            "system": choices.system,
            "role": role,
            "benchmark": choices.benchmark,
            "backbone": backbone_label(self.name),
            "backbone_weights": backbone_fingerprint(self.folder),
            "answer": choices.answer,
            "training": {"precision": choices.precision},
        }


def plan_imports(files: Sequence[str], choices: ImportChoices) -> list[WeightsImport]:
    """One plan per role; nothing is written and no value read.

    Args:
        files: `FILE` or `PART=FILE`, as the user wrote them.
        choices: What the user decides.

    Raises:
        MissingInput: A file or the base is not there.
        DataError: A file cannot be read or fits no base of this kind.
        UsageError: The request is ambiguous.
    """
    base = _open_base(choices)
    if choices.system == "vlap":
        return [_plan_vlap(files, choices, base)]
    sources = [open_source(text, "sevila") for text in files]
    return [_plan_sevila(sources, choices, base, role) for role in sevila_roles(choices)]


def _open_base(choices: ImportChoices) -> _Base:
    name = in_layout(choices.base, LAYOUTS[choices.system])
    folder = BackboneFolder(backbone_path(name))
    return _Base(name, folder, base_source(folder, choices.system))


def base_source(folder: BackboneFolder, system: Any, *, one_side: bool = False) -> Source | None:
    """The base's own tensors; None for a folder with a config and no weights.

    Raises:
        MissingInput: Its index names a shard that is not there.
        DataError: Its weights are damaged, or pickles.
    """
    try:
        return open_source(f"{PLAIN}={folder.path}", system, one_side=one_side)
    except MissingInput:
        if any((folder.path / name).exists() for name in (SINGLE_FILE, INDEX_FILE)):
            raise
        return None


def _plan_vlap(files: Sequence[str], choices: ImportChoices, base: _Base) -> WeightsImport:
    opened = [open_source(text, "vlap") for text in files]
    role = vlap_role(choices, opened)
    if role == "teacher":
        opened = [open_source(text, "vlap", role=role) for text in files]
    tokens = tower_spec(base.folder).tokens
    frames, keep = vlap_frames(choices, role, opened, queries=base.queries, tokens=tokens)
    network = _vlap_network(choices, opened, frames, keep)
    where = str(base.folder.path / "config.json")
    expected = vlap_shapes(base.folder.config, network, role, tokens, where)
    plan = assemble(opened, base.source, expected, allowed=choices.allow_missing, optional=OPTIONAL)
    config = {
        **base.config(choices, role),
        "tokens": tokens,
        "model": network.as_json(),
        "imported": _digests(plan),
    }
    label = f"{choices.benchmark}-vlap-{role}-{frames}to{keep}-imported"
    return WeightsImport(Request("weights", label, config), plan, base.name)


def _vlap_network(
    choices: ImportChoices, sources: Sequence[Source], frames: int, keep: int
) -> VlapConfig:
    if choices.preset not in PRESETS:
        raise UsageError(f"no preset called {choices.preset!r}", f"known: {', '.join(PRESETS)}")
    values = {**PRESETS[choices.preset], "lora": _lora(sources), **choices.model}
    return VlapConfig.build({**values, "frames": frames, "keep": keep}, "checkpoint import")


def _lora(sources: Sequence[Source]) -> dict[str, Any] | None:
    """Adapters' rank and places from their sizes; their scale is the published one."""
    found = [(s, name) for s in sources for name in s.names.ours if ".lora_A." in name]
    if not found:
        return None
    ranks = {source.shape(name)[0] for source, name in found}
    targets = {name.split(".lora_A.")[0].rpartition(".")[2] for _, name in found}
    return LoraConfig(rank=max(ranks), targets=tuple(sorted(targets))).as_json()


def _plan_sevila(
    sources: list[Source], choices: ImportChoices, base: _Base, role: str
) -> WeightsImport:
    expected: Shapes = sevila_shapes(
        base.folder.config, [role], str(base.folder.path / "config.json")
    )
    others = [side for side in ("answerer", "localizer") if side != role]
    allowed = [name for name in choices.allow_missing if name.partition(".")[0] not in others]
    plan = assemble(sources, base.source, expected, allowed=allowed)
    network = SevilaConfig.build(choices.model, "checkpoint import")
    config = {
        **base.config(choices, role),
        "frames": choices.frames or DEFAULT_FRAMES,
        "keep": choices.keep or min(DEFAULT_KEEP, choices.frames or DEFAULT_FRAMES),
        "model": network.as_json(),
        "imported": _digests(plan),
    }
    if role == "answerer":
        config["select"] = "localizer"
    else:
        config |= {"trained_on": "imported", "round": 0}
    label = f"{choices.benchmark}-sevila-{role}-imported"
    return WeightsImport(Request("weights", label, config), plan, base.name)


def _digests(plan: Assembly) -> dict[str, Any]:
    """What the fingerprint knows of the files: their content and what each was given for."""
    return {
        "files": [
            {"part": source.part, "sha256": sorted(source.checkpoint.digests.values())}
            for source in plan.sources
        ],
        "from_base": sorted({name.rpartition(".")[0] for name in plan.from_base}),
    }


def write_import(draft: Draft, item: WeightsImport) -> Artifact:
    """Read the values, write and finish the artifact; call it under the draft's lock.

    Raises:
        DataError: A tower in a file is not the base's, or a value is not finite.
    """
    check_towers(item.plan)
    tensors = dict(item.plan.tensors())
    write_weights(draft, tensors)
    count = len(tensors)
    return draft.finish(
        {"total": count, "done": count, "failed": 0},
        extra={"imported": provenance(item)},
        host=backbone_host(item.base),
    )


def provenance(item: WeightsImport) -> dict[str, Any]:
    """Which file filled what: names and digests, and the report of the groups."""
    return {
        "files": [
            {
                "part": source.part,
                "kind": source.layout.kind,
                "path": source.checkpoint.path.name,
                "sha256": source.checkpoint.digests,
            }
            for source in item.plan.sources
        ],
        "groups": {group.group: group.provenance() for group in item.plan.groups.values()},
        "from_base": sorted(item.plan.from_base),
    }
