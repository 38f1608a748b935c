"""Finding a stage's inputs in the workspace by what they are for, or by the name a user gives."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from stages.artifacts.store import Artifact, Workspace
from stages.core.errors import MissingInput, UsageError


def questions_of(
    workspace: Workspace, benchmark: str, split: str, reference: str | None = None
) -> Artifact:
    """The prepared questions of a split."""
    return workspace.choose(
        "questions",
        lambda item: _is_of(item, benchmark, split),
        described=f"prepared questions of {benchmark} {split}",
        option="--questions",
        command=f"vqa prepare --benchmark {benchmark} --split {split} ...",
        reference=reference,
    )


def questions_for(
    workspace: Workspace,
    benchmark: str,
    split: str,
    *,
    questions: Sequence[str] = (),
    features: Sequence[str] = (),
    backbone: str | None = None,
    weights: Artifact | None = None,
) -> Artifact:
    """The questions of a split that go with everything else that was chosen.

    Where several sets are prepared, these decide in turn: the questions that the user named, the
    features that the user named, the questions that the weights have seen, and which of them have
    features at all.

    Args:
        workspace: Where to look.
        benchmark: Name of the benchmark.
        split: One of its splits.
        questions: Questions named by the user, of any split.
        features: Features named by the user, of any split.
        backbone: Name of the backbone that the features must be of; none: any.
        weights: Chosen weights, whose own inputs may hold this split.

    Raises:
        UsageError: Several fit, or those named are of another benchmark, or only another release
            than the weights were trained on is prepared.
        MissingInput: None is prepared.
    """
    named = [workspace.by_reference("questions", name) for name in questions]
    for item in named:
        if item.config["benchmark"] != benchmark:
            raise UsageError(f"{item.id}: not questions of {benchmark}")
        if item.config["split"] == split:
            return item
    for item in [workspace.by_reference("features", name) for name in features]:
        if _is_of(item, benchmark, split):
            return _questions_behind(workspace, item)
    fitting = [item for item in workspace.finished("questions") if _is_of(item, benchmark, split)]
    if weights is not None:
        fitting = _of_trained_release(workspace, benchmark, fitting, weights)
        seen = [item for item in fitting if item.id in weights.input_ids()]
        if len(seen) == 1:
            return seen[0]
    extracted = [item for item in fitting if _has_features(workspace, item, backbone)]
    if len(extracted) == 1:
        return extracted[0]
    if len(fitting) == 1:
        return fitting[0]
    return questions_of(workspace, benchmark, split)


def release_of(questions: Artifact) -> str:
    """The release of the benchmark that the questions are from; empty where there is only one."""
    return str(questions.config.get("release", ""))


def check_one_release(questions: Sequence[Artifact]) -> None:
    """Refuse to bring together splits of different releases, whose questions may overlap.

    Raises:
        UsageError: Names the first two that differ.
    """
    for other in questions[1:]:
        first = questions[0]
        if release_of(other) != release_of(first):
            raise UsageError(
                f"two releases of {first.config['benchmark']}: {first.id} is {release_of(first)}, "
                f"{other.id} is {release_of(other)}",
                "prepare both splits from one release and say which with --questions ID",
            )


def _of_trained_release(
    workspace: Workspace, benchmark: str, fitting: list[Artifact], weights: Artifact
) -> list[Artifact]:
    """Those of the release that the weights have seen; all, where that cannot be known."""
    seen = [
        item
        for item in workspace.finished("questions")
        if item.id in weights.input_ids() and item.config["benchmark"] == benchmark
    ]
    if not seen:
        return fitting
    release = release_of(seen[0])
    kept = [item for item in fitting if release_of(item) == release]
    if fitting and not kept:
        raise UsageError(
            f"{weights.id} was trained on {seen[0].id}, release {release}, but only "
            f"{fitting[0].id} is prepared, release {release_of(fitting[0])}",
            f"prepare that release, or insist: --questions {fitting[0].id}",
        )
    return kept


def _is_of(item: Artifact, benchmark: str, split: str) -> bool:
    return (item.config["benchmark"], item.config["split"]) == (benchmark, split)


def _questions_behind(workspace: Workspace, features: Artifact) -> Artifact:
    record = next(item for item in features.manifest["inputs"] if item["role"] == "questions")
    return workspace.open(workspace.root / "questions" / str(record["id"]))


def _has_features(workspace: Workspace, questions: Artifact, backbone: str | None) -> bool:
    return any(
        questions.id in item.input_ids() and backbone in (None, item.config["backbone"])
        for item in workspace.finished("features")
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
    folder: str | None = None,
    tower: str | None = None,
    with_cls: bool | None = None,
) -> Artifact:
    """Features of a split's questions.

    Args:
        workspace: Where to look.
        questions: The split.
        backbone: Label of the backbone; none: any. Features that the user named need not carry
            it: their vision tower is compared where it is loaded.
        frames: Frames per clip that must be stored, or more.
        references: Artifacts named by the user, of any split.
        folder: What a user would give as `--backbone`, for messages.
        tower: Fingerprint of the vision tower that they must come from; none: any.
        with_cls: Whether they must have a frame CLS apart from the tokens (CLIP), or must not;
            none: any. Features that the user named are taken as they are.
    """
    benchmark, split = questions.config["benchmark"], questions.config["split"]

    def usable(item: Artifact) -> bool:
        enough = frames is None or max(item.config["sampling"]["frames"]) >= frames
        seen = tower in (None, item.config["weights"])
        return questions.id in item.input_ids() and enough and seen

    named = [workspace.by_reference("features", reference) for reference in references]
    for item in named:
        if usable(item):
            return item
    of_split = [item for item in named if _is_of(item, benchmark, split)]
    if of_split or (named and all(item.config["split"] == split for item in named)):
        few = f" with {frames} frames per clip" if frames else ""
        few += f" by {folder}'s vision tower" if tower else ""
        wrong = ", ".join(item.id for item in of_split or named)
        raise UsageError(f"{wrong}: not features of {questions.id}{few}")
    name = folder or backbone
    given = shlex.quote(name) if name else "BACKBONE"
    wanted = f"--backbone {given}" + (f" --frames {frames} --from-videos" if frames else "")
    described = f"features of {benchmark} {split}"
    return workspace.choose(
        "features",
        lambda item: (
            usable(item)
            and backbone in (None, item.config["backbone"])
            and with_cls in (None, bool(item.manifest.get("cls_width", 0)))
        ),
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
    backbone: str | None = None,
    frames: int | None = None,
    keep: int | None = None,
    reference: str | None = None,
    option: str = "--weights",
) -> Artifact:
    """Weights of the first of `roles` that there are any of; `option` settles an ambiguity.

    Args:
        workspace: Where to look.
        benchmark: Benchmark that they were trained on.
        roles: Roles, the preferred one first.
        system: Name of the system.
        backbone: Label of the backbone that they were trained with; none: any.
        frames: T that they were trained with; none: any.
        keep: K that they keep; none: any.
        reference: The user's own choice. It is held to system and role only: whoever names weights
            may want those of another benchmark, and their backbone is compared where it is loaded.
        option: The option that takes that choice.

    Raises:
        MissingInput: There are none; the hint makes some.
        UsageError: Several fit, or the named ones do not.
    """
    if reference is not None:
        return workspace.choose(
            "weights",
            lambda item: item.config["system"] == system and item.config["role"] in roles,
            described=f"{system} weights ({' or '.join(roles)})",
            option=option,
            command=_weights_command(benchmark, roles[0], keep),
            reference=reference,
        )

    def fits(item: Artifact, role: str) -> bool:
        made = item.config
        found = (made["system"], made["benchmark"], made["role"]) == (system, benchmark, role)
        return (
            found
            and backbone in (None, made["backbone"])
            and frames in (None, _number(made, "frames"))
            and keep in (None, _number(made, "keep"))
        )

    finished = workspace.finished("weights")
    held = next((role for role in roles if any(fits(item, role) for item in finished)), None)
    wanted = roles if held is None else [held]
    by = f" by {backbone}" if backbone else ""
    kept = f" that keep {keep} frames" if keep else ""
    return workspace.choose(
        "weights",
        lambda item: any(fits(item, role) for role in wanted),
        described=f"{system} weights ({' or '.join(wanted)}) for {benchmark}{by}{kept}",
        option=option,
        command=_weights_command(benchmark, wanted[0], keep),
    )


def weights_if_any(
    workspace: Workspace,
    benchmark: str,
    role: str,
    *,
    system: str,
    reference: str | None = None,
    option: str = "--weights",
) -> Artifact | None:
    """Weights that the user named, or the workspace's; None for `none` and where there are none.

    Raises:
        UsageError: Several fit, or the named ones do not.
    """
    if reference == NO_WEIGHTS:
        return None
    held = ((system, role, benchmark) == _made_for(item) for item in workspace.finished("weights"))
    if reference is None and not any(held):
        return None
    return weights_of(
        workspace, benchmark, [role], system=system, reference=reference, option=option
    )


NO_WEIGHTS = "none"
"""In place of weights: the backbone as it is."""


def input_of(workspace: Workspace, artifact: Artifact, role: str) -> Artifact | None:
    """What `artifact` was made from in `role`; None where there was no such input.

    Raises:
        MissingInput: It is gone.
    """
    for record in artifact.manifest["inputs"]:
        if record["role"] == role:
            return workspace.open(workspace.root / str(record["kind"]) / str(record["id"]))
    return None


def _made_for(item: Artifact) -> tuple[str, str, str]:
    made = item.config
    return (made["system"], made["role"], made["benchmark"])


def _number(made: dict[str, Any], name: str) -> int | None:
    """T or K of weights: VLAP's networks have it, other systems' stages."""
    held = made if name in made else made["model"]
    return held.get(name)


def _weights_command(benchmark: str, role: str, keep: int | None) -> str:
    kept = keep or 4
    commands = {
        "student": f"distill --keep {kept}",
        "start": f"train-teacher --keep {kept}",
        "answerer": "train-answerer",
        "localizer": "train-localizer",
        "trained": "train-videodistill",
        "pretrained": "pretrain-videodistill",
    }
    command, *options = commands.get(role, "train-teacher").split(" ", 1)
    return " ".join([f"vqa {command} --benchmark {benchmark}", *options])
