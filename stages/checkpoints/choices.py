"""What an import is asked for, and what of it the files themselves can say.

A student's T and K are in the sizes of its distillation decoder, its S in those of its prompter;
a teacher's or a start's are nowhere in the file and must be given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stages.checkpoints.assembly import Source
from stages.core.errors import DataError, UsageError

Precision = Literal["float32", "bfloat16", "float16"]
ROLES = {
    "vlap": ("teacher", "start", "student"),
    "sevila": ("answerer", "localizer"),
}
DEFAULT_FRAMES, DEFAULT_KEEP = 32, 4
"""SeViLA's published numbers; its weights do not depend on them."""


@dataclass(frozen=True)
class ImportChoices:
    """What the user decides about an import.

    Attributes:
        system: `vlap` or `sevila`.
        base: Name or folder of the backbone.
        benchmark: What the weights were trained on.
        roles: Roles to import; empty: what the files hold.
        frames: T; None: what the file says.
        keep: K; None: what the file says.
        answer: `letter` or `rank`.
        precision: Arithmetic in evaluation.
        preset: VLAP: `paper`, or `reference`, the published code's choices.
        allow_missing: Groups or sides that may be missing in the files.
        model: Further options of the network.

    Raises:
        UsageError: More frames are kept than there are.
    """

    system: Literal["vlap", "sevila"]
    base: str
    benchmark: str
    roles: tuple[str, ...] = ()
    frames: int | None = None
    keep: int | None = None
    answer: Literal["letter", "rank"] = "letter"
    precision: Precision = "float32"
    preset: str = "paper"
    allow_missing: tuple[str, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = self.frames or (DEFAULT_FRAMES if self.system == "sevila" else None)
        if frames is not None and self.keep is not None and self.keep > frames:
            raise UsageError(
                f"--keep {self.keep}: more than the {frames} frames that the network sees",
                f"--keep {frames} or fewer",
            )


def vlap_role(choices: ImportChoices, sources: Sequence[Source]) -> str:
    """The role that was asked for, or the one that the files speak of.

    Raises:
        UsageError: No such role.
    """
    if choices.roles:
        _check_roles(choices)
        if len(choices.roles) > 1:
            raise UsageError("VLAP weights are imported one role at a time", "give one --role")
        return choices.roles[0]
    if any(name.startswith("frame_prompter.") for s in sources for name in s.names.ours):
        return "student"
    return "start" if choices.keep not in (None, choices.frames) else "teacher"


def sevila_roles(choices: ImportChoices) -> tuple[str, ...]:
    """The roles that were asked for, or both sides.

    Raises:
        UsageError: No such role.
    """
    _check_roles(choices)
    return choices.roles or ROLES["sevila"]


def _check_roles(choices: ImportChoices) -> None:
    known = ROLES[choices.system]
    for role in choices.roles:
        if role not in known:
            raise UsageError(f"--role {role}: {choices.system} has none", ", ".join(known))


def vlap_frames(
    choices: ImportChoices, role: str, sources: Sequence[Source], *, queries: int, tokens: int
) -> tuple[int, int]:
    """T and K of VLAP weights.

    Args:
        choices: What the user says.
        role: Role of the weights.
        sources: The files.
        queries: Q of the base.
        tokens: N of the base.

    Raises:
        UsageError: Neither the files nor the user say it, or a teacher would leave frames out.
        DataError: They contradict each other, or the prompter was made for other frames.
    """
    told = _told_by_decoder(sources, queries) if role == "student" else None
    frames = choices.frames or (told[0] if told else None)
    keep = choices.keep or (told[1] if told else None)
    if role == "teacher":
        keep = frames if keep is None else keep
    if frames is None or keep is None:
        raise UsageError(
            f"the files do not say from how many frames this {role} looks, or at how many",
            "--frames T" + ("" if role == "teacher" else " --keep K"),
        )
    if role == "teacher" and keep != frames:
        raise UsageError(
            f"--keep {keep}: a teacher looks at all of its {frames} frames",
            f"--role start --frames {frames} --keep {keep}, or leave out --keep",
        )
    if told is not None and (frames, keep) != told:
        raise DataError(
            f"the distillation decoder is that of {told[0]} -> {told[1]} frames, "
            f"not {frames} -> {keep}",
            f"--frames {told[0]} --keep {told[1]}",
        )
    if role == "student":
        _check_prompter(sources, frames, keep, tokens)
    return frames, keep


def _shape_of(sources: Sequence[Source], name: str) -> tuple[int, ...] | None:
    return next((s.shape(name) for s in reversed(sources) if name in s.names.ours), None)


def _told_by_decoder(sources: Sequence[Source], queries: int) -> tuple[int, int] | None:
    """T and K from Linear(Q * K -> Q * T)."""
    shape = _shape_of(sources, "distill_decoder.fc.weight")
    if shape is None or len(shape) != 2 or shape[0] % queries or shape[1] % queries:
        return None
    return shape[0] // queries, shape[1] // queries


def _check_prompter(sources: Sequence[Source], frames: int, keep: int, tokens: int) -> None:
    """Linear(S * N -> S): S and N must be those of T, K and the base."""
    shape = _shape_of(sources, "frame_prompter.fc1.weight")
    if shape is None or len(shape) != 2:
        return
    segment = shape[0]
    if keep * segment != frames or segment * tokens != shape[1]:
        raise DataError(
            f"the frame prompter is one of {segment} frames a segment with "
            f"{shape[1] // max(1, segment)} tokens each, not of {frames} -> {keep} frames with "
            f"{tokens} tokens",
            f"--frames {keep * segment} --keep {keep}, or another --base",
        )
