"""Finding a stage's inputs in the workspace by what they are for, or by the name a user gives."""

from __future__ import annotations

from collections.abc import Sequence

from stages.artifacts.store import Artifact, Workspace
from stages.core.errors import MissingInput, UsageError


def questions_of(
    workspace: Workspace, benchmark: str, split: str, reference: str | None = None
) -> Artifact:
    """The prepared questions of a split."""
    return workspace.choose(
        "questions",
        lambda item: item.config["benchmark"] == benchmark and item.config["split"] == split,
        described=f"prepared questions of {benchmark} {split}",
        option="--questions",
        command=f"vqa prepare --benchmark {benchmark} --split {split} ...",
        reference=reference,
    )


def prepared_splits(workspace: Workspace, benchmark: str) -> list[str]:
    """Splits of a benchmark that have finished questions, in order of preparation.

    Raises:
        MissingInput: None has.
    """
    splits = [
        str(item.config["split"])
        for item in workspace.finished("questions")
        if item.config["benchmark"] == benchmark
    ]
    if not splits:
        raise MissingInput(
            f"no prepared questions of {benchmark} in workspace {workspace.root}",
            f"vqa prepare --benchmark {benchmark} --split SPLIT ...",
        )
    return list(dict.fromkeys(splits))


def frames_of(
    workspace: Workspace, questions: Artifact, size: int, reference: str | None = None
) -> Artifact:
    """Stored frames of a split's questions in a backbone's size."""
    benchmark, split = questions.config["benchmark"], questions.config["split"]
    return workspace.choose(
        "frames",
        lambda item: questions.id in item.input_ids() and item.config["format"]["width"] == size,
        described=f"frames of {benchmark} {split} at {size} pixels",
        option="--frames-from",
        command=f"vqa extract-frames --benchmark {benchmark} --split {split} --for BACKBONE "
        "--frames 32   (or extract-features --from-videos)",
        reference=reference,
    )


def features_of(
    workspace: Workspace,
    questions: Artifact,
    *,
    backbone: str | None = None,
    frames: int | None = None,
    references: Sequence[str] = (),
) -> Artifact:
    """Features of a split's questions.

    Args:
        workspace: Where to look.
        questions: The split.
        backbone: Name of the backbone; none: any.
        frames: Frames per clip that must be stored, or more.
        references: Artifacts named by the user, of any split.
    """
    benchmark, split = questions.config["benchmark"], questions.config["split"]

    def fits(item: Artifact) -> bool:
        enough = frames is None or max(item.config["sampling"]["frames"]) >= frames
        same = backbone is None or item.config["backbone"] == backbone
        return questions.id in item.input_ids() and enough and same

    named = [workspace.by_reference("features", reference) for reference in references]
    for item in named:
        if fits(item):
            return item
    if named and all(item.config["split"] == split for item in named):
        raise UsageError(f"{', '.join(item.id for item in named)}: not features of {questions.id}")
    wanted = f"--backbone {backbone or 'BACKBONE'}" + (f" --frames {frames}" if frames else "")
    described = f"features of {benchmark} {split}"
    return workspace.choose(
        "features",
        fits,
        described=described + (f" by {backbone}" if backbone else ""),
        option="--features",
        command=f"vqa extract-features --benchmark {benchmark} --split {split} {wanted}",
    )


def weights_of(
    workspace: Workspace,
    benchmark: str,
    roles: Sequence[str],
    *,
    system: str = "vlap",
    reference: str | None = None,
    option: str = "--weights",
) -> Artifact:
    """Weights of the first of `roles` that there are any of; `option` settles an ambiguity."""
    for role in roles if reference is None else []:
        if any(_is_role(item, system, benchmark, role) for item in workspace.finished("weights")):
            roles = [role]
            break
    return workspace.choose(
        "weights",
        lambda item: any(_is_role(item, system, benchmark, role) for role in roles),
        described=f"{system} weights ({' or '.join(roles)}) for {benchmark}",
        option=option,
        command=_weights_command(benchmark, roles[0]),
        reference=reference,
    )


def _is_role(item: Artifact, system: str, benchmark: str, role: str) -> bool:
    made = item.config
    return (made["system"], made["benchmark"], made["role"]) == (system, benchmark, role)


def _weights_command(benchmark: str, role: str) -> str:
    commands = {"student": "distill --keep 4", "start": "train-teacher --keep 4"}
    return f"vqa {commands.get(role, 'train-teacher')} --benchmark {benchmark}"
