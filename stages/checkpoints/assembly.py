"""Which tensor of which file fills which of ours, decided before any value is read.

Files may be given plainly or as `PART=FILE`, where a part is a group or a side (`groups`):

1. `PART=FILE` fills the groups of that part, whatever other files hold; `answerer.ln_vision` goes
   before `answerer`, and of two files for one part the later one is taken.
2. A plain FILE (or `base=FILE`) fills everything else that it has; two plain files that both have
   a group are refused, because nobody could tell afterwards which one it was.
3. A group is filled by one file as a whole, or refused; never by a file and the base together.
4. A group that no file has comes from the base, where `--allow-missing` names it. In weights the
   towers always come from the base, and those that a file has must have the same values; in a
   backbone folder they come from the base if no file has them.
5. T5's embedding alone, which LAVIS leaves in its files, is no language model: it fills nothing and
   must have the values of the one that is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.checkpoints.expected import Shapes
from stages.checkpoints.groups import LANGUAGE, TOWERS, covers, group_of
from stages.checkpoints.layouts import Layout, recognise
from stages.checkpoints.naming import EMBEDDING, Renamed, System, renamed
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
PART_SIDES = ("answerer", "localizer")
READS_TEXT = (
    "instructblip", "vila-teacher", "vila-merged", "vila-student", "huggingface-instructblip",
)  # fmt: skip
"""Kinds whose Q-Former would fit a BLIP-2 by its sizes and mean nothing there."""
WEIGHT_TYPES = ("float16", "bfloat16", "float32", "float64")
SHOWN_NAMES = 6
_PART = re.compile(r"[\w.]+")


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

    def dtype(self, ours: str) -> str:
        """Type of one of our tensors in this file."""
        return self.checkpoint.tensors[self.names.ours[ours][0]].dtype

    def groups(self) -> set[str]:
        """The groups that it can fill: T5's embedding alone is no language model."""
        held = {group_of(name) for name in self.names.ours if name != EMBEDDING}
        return held | {LANGUAGE} if EMBEDDING in self.names.ours and self.gives(LANGUAGE) else held

    def refuse_unequal_halves(self) -> None:
        """Raise unless the q and v biases that make one tensor are alike.

        Raises:
            DataError: They are not.
        """
        for pair in self.names.ours.values():
            halves = [self.checkpoint.tensors[name] for name in pair]
            if len(pair) == 2 and (
                len(halves[0].shape) != 1
                or (halves[0].shape, halves[0].dtype) != (halves[1].shape, halves[1].dtype)
            ):
                told = " and ".join(
                    f"{name} {half.dtype} {half.shape}"
                    for name, half in zip(pair, halves, strict=True)
                )
                raise DataError(
                    f"{self.checkpoint.path}: {told} cannot make one bias", "the file is damaged"
                )


def parse_part(text: str) -> tuple[str, Path]:
    """`PART=FILE` or `FILE` -> part and path.

    Raises:
        UsageError: What stands before `=` is no part, and there is no file of the whole name.
    """
    part, equals, path = text.partition("=")
    side, _, group = part.partition(".")
    if not equals or not _PART.fullmatch(part):
        return PLAIN, Path(text)
    if part in (PLAIN, *PARTS, *PART_SIDES) or (side in PART_SIDES and group in PARTS):
        return part, Path(path)
    if Path(text).exists():
        return PLAIN, Path(text)
    raise UsageError(
        f"{text}: {part} is no part",
        f"parts: {', '.join((PLAIN, *PART_SIDES, *PARTS))}; of one side: answerer.ln_vision",
    )


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
        UsageError: It was named for no part, or for one that it does not have.
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
    source = Source(checkpoint, layout, part, names)
    source.refuse_unequal_halves()
    return source


def _own_names(ours: dict[str, tuple[str, ...]], side: str) -> dict[str, tuple[str, ...]]:
    """The copy that a merged file keeps of one side takes the place of the file's own.

    It does so group by group: half a copy is not completed with the other side's tensors.
    """
    copies = {
        name.removeprefix(f"{side}."): given
        for name, given in ours.items()
        if name.startswith(f"{side}.")
    }
    copied = {group_of(name) for name in copies}
    rest = {
        name: given
        for name, given in ours.items()
        if not name.startswith(f"{side}.") and group_of(name) not in copied
    }
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
        source: Name of the file whose group it is; `the base`; or empty.
        parameters: Elements of all of them.
        missing: Our names that nothing fills.
        misshapen: What has another shape than the base's sizes ask for, or is no float.
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

    def provenance(self) -> dict[str, Any]:
        """What a manifest keeps: where the group came from, and how much of it a file filled."""
        count = 0 if self.left_out else self.expected
        return {"source": self.source, "tensors": count, "matched": self.matched}

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
        towers: Tensors of towers in files that fill nothing and must have the values of what
            does: our name and source.
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
            DataError: A tensor has another shape than the base asks for, or is no float.
            MissingInput: A group is not filled, or only in part.
        """
        wrong = [line for group in self.groups.values() for line in group.misshapen]
        if wrong:
            raise DataError(
                f"sizes or types are not what the base asks for: {_some(wrong)}",
                "is --base the backbone that this was trained on? (and --frames, --keep?)",
            )
        short = [group for group in self.groups.values() if group.missing]
        if short:
            told = ", ".join(
                f"{group.group} ({len(group.missing)} of {group.expected} tensors)"
                for group in short
            )
            names = [name for group in short for name in group.missing]
            raise MissingInput(f"no file fills {told}: {_some(names)}", _advice(short))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Our names and values, each in the type it is stored in, one at a time.

        Raises:
            DataError: A value is not a finite number.
        """
        for source in self.sources:
            wanted = [name for name, by in self.filled.items() if by is source]
            for name, value in values_of(source, wanted):
                yield name, _finite(source, name, value)
        if self.base is not None and self.from_base:
            given = {stored: ours for ours, stored in self.from_base.items()}
            reverse: dict[str, list[str]] = {}
            for ours, stored in self.from_base.items():
                reverse.setdefault(stored, []).append(ours)
            for stored, value in self.base.checkpoint.read(given):
                for ours in reverse[stored]:
                    yield ours, _finite(self.base, stored, value)


def _advice(short: Sequence[GroupReport]) -> str:
    """The base may stand in for a group that no file has, never for a part of one."""
    cut = [
        f"{group.source} has {group.expected - len(group.missing)} of {group.expected} tensors "
        f"of {group.group}: "
        "it is another layout or cut short"
        for group in short
        if group.source
    ]
    absent = [f"--allow-missing {group.group}" for group in short if not group.source]
    taken = (
        "give the file that has them (PART=FILE), or take them from the base as they are: "
        + " ".join(absent)
    )
    return "; ".join([*cut, *([taken] if absent else [])])


def _finite(source: Source, name: str, value: Tensor) -> Tensor:
    if value.isfinite().all():
        return value
    stored = " and ".join(source.names.ours.get(name, (name,)))
    raise DataError(
        f"{source.checkpoint.path}: {stored} holds values that are not finite",
        "the training diverged or the file is damaged; take another checkpoint",
    )


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
    wanted: dict[str, Shapes] = {}
    for name, shape in expected.items():
        wanted.setdefault(group_of(name), {})[name] = shape
    for group, shapes in wanted.items():
        elements = sum(math.prod(shape) for shape in shapes.values())
        report = GroupReport(group, expected=len(shapes), parameters=elements)
        plan.groups[group] = report
        owner = _owner(sources, group)
        if owner is not None:
            _fill_from_file(plan, report, owner, shapes)
        elif group in TOWERS or covers(allowed, group):
            may_stay_away = group in optional or (group in TOWERS and covers(allowed, group))
            _fill_from_base(plan, report, shapes, may_stay_away)
        else:
            _leave(plan, report, shapes, group in optional)
    if towers_needed:
        _towers(plan, allowed)
    else:
        _lone_embeddings(plan)
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
    having = [source for source in sources if group in source.groups()]
    named = [source for source in having if source.gives(group)]
    if named:
        # The longest part that covers the group is the most specific one.
        return max(reversed(named), key=lambda source: len(source.part))
    plain = [source for source in having if source.part == PLAIN]
    if len(plain) > 1:
        files = " and ".join(str(source.checkpoint.path) for source in plain)
        raise UsageError(
            f"{files} both fill {group}", f"say which one does: {group}={plain[-1].checkpoint.path}"
        )
    return plain[0] if plain else None


def _fill_from_file(plan: Assembly, report: GroupReport, owner: Source, shapes: Shapes) -> None:
    """All of a group from the file whose group it is."""
    report.source = owner.checkpoint.path.name
    for name, shape in shapes.items():
        if name not in owner.names.ours:
            report.missing.append(name)
            continue
        wrong = _misfit(owner, name, shape)
        if wrong:
            report.misshapen.append(wrong)
        else:
            report.matched += 1
            plan.filled[name] = owner


def _fill_from_base(
    plan: Assembly, report: GroupReport, shapes: Shapes, may_stay_away: bool
) -> None:
    """All of a group that no file has from the base, if that has it."""
    base = plan.base
    held = base.names.ours if base is not None else {}
    if base is None or not any(_in_base(name) in held for name in shapes):
        _leave(plan, report, shapes, may_stay_away)
        return
    report.source = "the base"
    for name, shape in shapes.items():
        theirs = _in_base(name)
        if theirs not in held:
            report.missing.append(name)
            continue
        wrong = _misfit(base, theirs, shape)
        if wrong:
            report.misshapen.append(wrong)
        else:
            plan.from_base[name] = held[theirs][0]


def _leave(plan: Assembly, report: GroupReport, shapes: Shapes, may_stay_away: bool) -> None:
    """A group that nothing fills: left out, or missing."""
    if may_stay_away:
        plan.left_out.extend(shapes)
        report.left_out = True
    else:
        report.missing.extend(shapes)


def _misfit(source: Source, name: str, shape: tuple[int, ...]) -> str:
    """Why a file's tensor cannot be this one of ours; empty: it can."""
    found, stored = source.shape(name), " and ".join(source.names.ours[name])
    if found != shape:
        return f"{stored} has shape {found}, the base asks for {shape}"
    dtype = source.dtype(name)
    return "" if dtype in WEIGHT_TYPES else f"{stored} has type {dtype}, weights are floats"


def _in_base(name: str) -> str:
    """Our name in the base; a localizer begins as the base's own side."""
    if name.startswith("localizer."):
        return "answerer." + name.removeprefix("localizer.")
    return name


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


def _lone_embeddings(plan: Assembly) -> None:
    """T5's embedding in files whose language model this is not."""
    for source in plan.sources:
        if EMBEDDING in source.names.ours and LANGUAGE not in source.groups():
            plan.towers.append((EMBEDDING, source))


def check_towers(plan: Assembly) -> None:
    """Towers in files that fill nothing must be those in use, to the precision of the file.

    Raises:
        DataError: They are not: these weights belong to another backbone.
    """
    import torch

    for source in plan.sources:
        held = {name: _in_use(plan, name) for name, by in plan.towers if by is source}
        for name, mine in values_of(source, [name for name, used in held.items() if used]):
            used = held[name]
            assert used is not None
            ((_, theirs),) = values_of(used, [name])
            if mine.shape != theirs.shape or not torch.equal(theirs.to(mine.dtype), mine):
                whose = "the base's" if used is plan.base else f"{used.checkpoint.path}'s"
                raise DataError(
                    f"{source.checkpoint.path}: {' and '.join(source.names.ours[name])} is not "
                    f"{whose} {used.names.ours[name][0]}",
                    "these weights stand on another backbone; make it from the file first: "
                    "vqa checkpoint import FILE --as backbone",
                )


def _in_use(plan: Assembly, name: str) -> Source | None:
    """What a tensor of a tower comes from: a file, the base, or nothing."""
    if name in plan.filled:
        return plan.filled[name]
    return plan.base if plan.base is not None and name in plan.base.names.ours else None


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
