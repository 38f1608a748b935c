"""Which tensor of which file fills which of ours, decided before any value is read.

Files may be given plainly or as `PART=FILE`, where a part is a group or a side (`groups`):

1. `PART=FILE` fills the groups of that part, whatever other files hold; of two for one part the
   later one does.
2. A plain FILE (or `base=FILE`) fills everything else that it has; two plain files that both have
   a group are refused, because nobody could tell afterwards which one it was.
3. What no file has comes from the base only where `--allow-missing` names the group. The towers
   always come from the base; those that a file has must have the same values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.checkpoints.expected import Shapes
from stages.checkpoints.groups import SIDES, TOWERS, covers, group_of
from stages.checkpoints.layouts import Layout, recognise
from stages.checkpoints.naming import Renamed, System, renamed
from stages.checkpoints.tensor_files import Checkpoint, open_checkpoint
from stages.core.errors import DataError, MissingInput, UsageError
from stages.models.reference_names import merged_bias

if TYPE_CHECKING:
    from torch import Tensor

PLAIN = "base"
PARTS = (
    "qformer", "query_tokens", "language_projection", "ln_vision", "vision", "language",
    "frame_prompter", "distill_decoder", "lora",
)  # fmt: skip
READS_TEXT = ("instructblip", "vila-teacher", "vila-merged", "vila-student")
"""Kinds whose Q-Former would fit a BLIP-2 by its sizes and mean nothing there."""
SHOWN_NAMES = 6


@dataclass(frozen=True)
class Source:
    """One file of an import, opened and under our names.

    Attributes:
        checkpoint: The file.
        layout: What it is.
        part: The group or side that it was given for; `base`: everything that it has.
        names: Its names as ours.
    """

    checkpoint: Checkpoint
    layout: Layout
    part: str
    names: Renamed

    def gives(self, group: str) -> bool:
        """Whether it was named for `group`."""
        return self.part != PLAIN and covers([self.part], group)

    def as_json(self) -> dict[str, Any]:
        """What it is, and which of its names have no place."""
        return {
            "file": self.checkpoint.path.name,
            "part": self.part,
            "kind": self.layout.kind,
            "dropped": sorted(self.names.dropped),
            "unexpected": sorted(self.names.unexpected),
            "left_overs": sorted(self.checkpoint.left_overs),
        }

    def shape(self, ours: str) -> tuple[int, ...]:
        """Shape of one of our tensors as this file makes it."""
        stored = [self.checkpoint.tensors[name] for name in self.names.ours[ours]]
        if len(stored) == 1:
            return stored[0].shape
        return (3 * stored[0].shape[0],)


def parse_part(text: str) -> tuple[str, Path]:
    """`PART=FILE` or `FILE` -> part and path."""
    part, equals, path = text.partition("=")
    known = part in (PLAIN, *PARTS, *SIDES) or (
        part.partition(".")[0] in SIDES and part.partition(".")[2] in PARTS
    )
    return (part, Path(path)) if equals and known else (PLAIN, Path(text))


def open_source(text: str, system: System, *, role: str = "", one_side: bool = False) -> Source:
    """Open `PART=FILE` and bring its names into ours.

    Args:
        text: As the user wrote it.
        system: Whose names.
        role: Role of the weights; a teacher is taken out of a student's file under `teacher.`.
        one_side: For a backbone folder, which has one side and no word for it.

    Raises:
        MissingInput: No such file.
        DataError: It cannot be read, or holds nothing that has a place.
        UsageError: It was named for a part that it does not have.
    """
    part, path = parse_part(text)
    checkpoint = open_checkpoint(path)
    layout = recognise(checkpoint)
    if system == "sevila" and layout.kind in READS_TEXT:
        raise DataError(
            f"{path} ({layout.described}): its Q-Former reads the question, BLIP-2's does not",
            "such weights stand on InstructBLIP: --as vlap, or --base with InstructBLIP's config",
        )
    names = renamed(checkpoint.tensors, layout.naming, system)
    if role == "teacher":
        names.ours = _own_names(names.ours, "teacher")
    if one_side:
        names.ours = _own_names(names.ours, "answerer")
    elif part.partition(".")[0] == "localizer":
        names.ours = _as_localizer(names.ours)
    if not names.ours:
        raise DataError(
            f"{path} ({layout.described}) has no tensor that {system} weights have a place for",
            "vqa checkpoint inspect FILE shows its names",
        )
    if part != PLAIN and not any(covers([part], group_of(name)) for name in names.ours):
        raise UsageError(f"{text}: the file has nothing of {part} ({layout.described})")
    return Source(checkpoint, layout, part, names)


def _own_names(ours: dict[str, tuple[str, ...]], side: str) -> dict[str, tuple[str, ...]]:
    """The copy that a merged file keeps of one side takes the place of the file's own."""
    copies = {
        name.removeprefix(f"{side}."): given
        for name, given in ours.items()
        if name.startswith(f"{side}.")
    }
    rest = {name: given for name, given in ours.items() if not name.startswith(f"{side}.")}
    return rest | copies


def _as_localizer(ours: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """A file without a localizer, named for one: its only side is meant (`qformer_loc.pth`)."""
    if any(name.startswith("localizer.") for name in ours):
        return ours
    return {
        ("localizer." + name.removeprefix("answerer.") if name.startswith("answerer.") else name): n
        for name, n in ours.items()
    }


@dataclass
class GroupReport:
    """How one needed group is filled.

    Attributes:
        group: Its name.
        expected: Tensors that it has.
        matched: Those that a file fills.
        source: Name of the file; `the base`; or empty.
        parameters: Elements of all of them.
        missing: Our names that nothing fills, unless the base may.
        misshapen: What has another shape than the base's sizes ask for.
        left_out: Whether it is missing and allowed to be, with nothing in its place.
    """

    group: str
    expected: int = 0
    matched: int = 0
    source: str = ""
    parameters: int = 0
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    left_out: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values for the command's JSON."""
        return {
            "group": self.group,
            "expected": self.expected,
            "matched": self.matched,
            "missing": self.missing,
            "misshapen": self.misshapen,
            "source": self.source,
            "parameters": self.parameters,
            "left_out": self.left_out,
        }


@dataclass
class Assembly:
    """The whole plan of an import.

    Attributes:
        sources: The files.
        base: The backbone's folder under our names; None where it has no weights.
        filled: Our name to the source that fills it.
        from_base: Our name to the base's.
        left_out: Our names that stay empty.
        towers: Tensors of towers in files, which must be the base's: our name and source.
        groups: How each needed group is filled.
        unused: Group to the names of files that have no place in these weights.
    """

    sources: list[Source]
    base: Source | None
    filled: dict[str, Source] = field(default_factory=dict)
    from_base: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    towers: list[tuple[str, Source]] = field(default_factory=list)
    groups: dict[str, GroupReport] = field(default_factory=dict)
    unused: dict[str, list[str]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The report for the command's JSON."""
        return {
            "files": [source.as_json() for source in self.sources],
            "groups": [group.as_json() for group in self.groups.values()],
            "unused": {group: sorted(names) for group, names in sorted(self.unused.items())},
        }

    def refuse_if_incomplete(self) -> None:
        """Raise unless every needed group is filled.

        Raises:
            DataError: A tensor has another shape than the base asks for.
            MissingInput: A group is not filled, or only in part.
        """
        wrong = [line for group in self.groups.values() for line in group.misshapen]
        if wrong:
            raise DataError(
                f"sizes differ from the base's: {_some(wrong)}",
                "is --base the backbone that this was trained on? (and --frames, --keep?)",
            )
        short = [group for group in self.groups.values() if group.missing]
        if short:
            told = ", ".join(
                f"{group.group} ({len(group.missing)} of {group.expected} tensors)"
                for group in short
            )
            names = [name for group in short for name in group.missing]
            raise MissingInput(
                f"no file fills {told}: {_some(names)}",
                "give the file that has them (PART=FILE), or take them from the base as they are: "
                + " ".join(f"--allow-missing {group.group}" for group in short),
            )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Our names and values, each in the type it is stored in, one at a time."""
        for source in self.sources:
            wanted = [name for name, by in self.filled.items() if by is source]
            yield from values_of(source, wanted)
        if self.base is not None and self.from_base:
            given = {stored: ours for ours, stored in self.from_base.items()}
            reverse: dict[str, list[str]] = {}
            for ours, stored in self.from_base.items():
                reverse.setdefault(stored, []).append(ours)
            for stored, value in self.base.checkpoint.read(given):
                for ours in reverse[stored]:
                    yield ours, value


def joint_report(plans: Sequence[Assembly]) -> dict[str, Any]:
    """One report of plans over the same files: both sides of SeViLA.

    A tensor that one of them uses is not unused.
    """
    reports = [plan.as_json() for plan in plans]
    groups = {group["group"]: group for report in reports for group in report["groups"]}
    unused = {
        name: names
        for name, names in reports[0]["unused"].items()
        if all(names == report["unused"].get(name) for report in reports)
    }
    return {"files": reports[0]["files"], "groups": list(groups.values()), "unused": unused}


def values_of(source: Source, wanted: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Values of some of our tensors out of one file."""
    plain = {source.names.ours[n][0]: n for n in wanted if len(source.names.ours[n]) == 1}
    for stored, value in source.checkpoint.read(plain):
        yield plain[stored], value
    pairs = [name for name in wanted if len(source.names.ours[name]) == 2]
    halves = dict(source.checkpoint.read(n for name in pairs for n in source.names.ours[name]))
    for name in pairs:
        q_bias, v_bias = (halves[stored] for stored in source.names.ours[name])
        yield name, merged_bias(q_bias, v_bias)


def assemble(
    sources: list[Source],
    base: Source | None,
    expected: Shapes,
    *,
    allowed: Sequence[str] = (),
    optional: Sequence[str] = (),
    towers_needed: bool = True,
) -> Assembly:
    """Decide who fills what.

    Args:
        sources: The files, in the order given.
        base: The backbone's folder.
        expected: What is to be filled.
        allowed: Groups or sides that may be missing in the files.
        optional: Groups that the weights are whole without.
        towers_needed: Whether the base must hold vision tower and language model, which these
            weights leave out.

    Raises:
        UsageError: Two plain files fill one group, or `allowed` names no group.
    """
    plan = Assembly(sources, base)
    _check_allowed(allowed, expected)
    owners = {group: _owner(sources, group) for group in {group_of(name) for name in expected}}
    for name, shape in expected.items():
        group = group_of(name)
        report = plan.groups.setdefault(group, GroupReport(group))
        report.expected += 1
        report.parameters += math.prod(shape)
        owner = owners[group]
        if owner is not None and name in owner.names.ours:
            _match(plan, report, owner, name, shape)
        else:
            _fill(plan, report, name, shape, covers(allowed, group), group in optional)
    if towers_needed:
        _towers(plan, allowed)
    _note_unused(plan, expected)
    return plan


def _check_allowed(allowed: Sequence[str], expected: Shapes) -> None:
    groups = sorted({group_of(name) for name in expected} | set(TOWERS))
    for name in allowed:
        if not any(covers([name], group) for group in groups):
            raise UsageError(
                f"--allow-missing {name}: no such group", f"known: {', '.join(groups)}"
            )


def _owner(sources: list[Source], group: str) -> Source | None:
    """The file that fills a group."""

    def has(source: Source) -> bool:
        return any(group_of(name) == group for name in source.names.ours)

    named = [source for source in sources if source.gives(group) and has(source)]
    if named:
        return named[-1]
    plain = [source for source in sources if source.part == PLAIN and has(source)]
    if len(plain) > 1:
        files = " and ".join(str(source.checkpoint.path) for source in plain)
        raise UsageError(
            f"{files} both fill {group}", f"say which one does: {group}={plain[-1].checkpoint.path}"
        )
    return plain[0] if plain else None


def _match(
    plan: Assembly, report: GroupReport, owner: Source, name: str, shape: tuple[int, ...]
) -> None:
    found = owner.shape(name)
    report.source = owner.checkpoint.path.name
    if found == shape:
        report.matched += 1
        plan.filled[name] = owner
    else:
        stored = " and ".join(owner.names.ours[name])
        report.misshapen.append(f"{stored} has shape {found}, the base asks for {shape}")


def _fill(
    plan: Assembly,
    report: GroupReport,
    name: str,
    shape: tuple[int, ...],
    allowed: bool,
    optional: bool,
) -> None:
    """What no file has: from the base, left out, or missing."""
    stored = _in_base(plan.base, name, shape)
    if group_of(name) in TOWERS and stored is not None:
        allowed = True
    if stored is not None and allowed:
        plan.from_base[name] = stored
        report.source = report.source or "the base"
    elif optional or (allowed and group_of(name) in TOWERS):
        plan.left_out.append(name)
        report.left_out = True
    else:
        report.missing.append(name)


def _in_base(base: Source | None, name: str, shape: tuple[int, ...]) -> str | None:
    """The base's name for one of ours; a localizer begins as the base's own side."""
    if base is None:
        return None
    if name.startswith("localizer."):
        name = "answerer." + name.removeprefix("localizer.")
    given = base.names.ours.get(name)
    if given is None or base.shape(name) != shape:
        return None
    return given[0]


def _towers(plan: Assembly, allowed: Sequence[str]) -> None:
    """Vision tower and language model: not in these weights, so the base must have them."""
    for tower in TOWERS:
        held = [n for n in plan.base.names.ours if group_of(n) == tower] if plan.base else []
        report = GroupReport(tower, expected=len(held), source="the base")
        if not held and covers(allowed, tower):
            report.source, report.left_out = "", True
        elif not held:
            report.missing.append(tower)
        plan.groups[tower] = report
    for source in plan.sources:
        for name in source.names.ours:
            if group_of(name) in TOWERS:
                plan.towers.append((name, source))


def check_towers(plan: Assembly) -> None:
    """Towers that a file holds must be the base's, to the precision of the file.

    Raises:
        DataError: They are not: these weights belong to another backbone.
    """
    import torch

    if plan.base is None:
        return
    for source in plan.sources:
        held = [name for name, by in plan.towers if by is source]
        known = [name for name in held if name in plan.base.names.ours]
        for name, mine in values_of(source, known):
            stored = plan.base.names.ours[name]
            ((_, theirs),) = plan.base.checkpoint.read(stored)
            if mine.shape != theirs.shape or not torch.equal(theirs.to(mine.dtype), mine):
                raise DataError(
                    f"{source.checkpoint.path}: {' and '.join(source.names.ours[name])} is not "
                    f"the base's {stored[0]}",
                    "these weights stand on another backbone; make it from the file first: "
                    "vqa checkpoint import FILE --as backbone",
                )


def _note_unused(plan: Assembly, expected: Shapes) -> None:
    for source in plan.sources:
        for name, stored in source.names.ours.items():
            used = plan.filled.get(name) is source
            if not used and (name, source) not in plan.towers:
                why = group_of(name) if name not in expected else f"{group_of(name)} (overridden)"
                plan.unused.setdefault(why, []).extend(stored)


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return "; ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
