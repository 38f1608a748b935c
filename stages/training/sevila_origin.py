"""What SeViLA's localizer starts from and learns from, found in the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stages.artifacts.lookup import NO_WEIGHTS, input_of, weights_if_any, weights_of
from stages.artifacts.store import Artifact, Workspace
from stages.core.errors import ConfigError, UsageError
from stages.training.inputs import TrainingInputs
from stages.training.sevila_setup import trained_note

ON_THE_FLY = "on_the_fly"


@dataclass(frozen=True)
class Origin:
    """What a refinement starts from.

    Attributes:
        labels: Pseudo-labels; None where the answerer labels frames in every step.
        start: The localizer that is refined; None: the backbone as it is.
        answerer: Who labels frames and answers on the tune split; None: the backbone as it is.
    """

    labels: Artifact | None
    start: Artifact | None
    answerer: Artifact | None

    def as_inputs(self) -> dict[str, Artifact | None]:
        """Role to artifact, for the request."""
        return {"pseudo_labels": self.labels, "start": self.start, "answerer": self.answerer}

    def notes(self) -> list[str]:
        """What was chosen, for the terminal."""
        labels = self.labels.id if self.labels else "made by the answerer in every step"
        return [
            f"pseudo-labels: {labels}",
            trained_note("starts from", self.start),
            trained_note("answerer", self.answerer),
        ]


def find_start(
    workspace: Workspace, inputs: TrainingInputs, reference: str | None
) -> Artifact | None:
    """Localizer weights that the user named with `--init`; None: the backbone as it is."""
    if reference in (None, NO_WEIGHTS):
        return None
    benchmark = str(inputs.train_questions.config["benchmark"])
    return weights_of(
        workspace,
        benchmark,
        ["localizer"],
        system="sevila",
        reference=reference,
        option="--init",
    )


def find_origin(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    *,
    labels: str | None = None,
    init: str | None = None,
    weights: str | None = None,
) -> Origin:
    """Choose labels, start and answerer of a refinement.

    Args:
        workspace: Where to look.
        inputs: What is learnt from.
        values: Settings; `round` and `on_the_fly` among them.
        labels: Pseudo-labels that the user named; None: those of this round.
        init: Localizer weights that the user named, or `none`; None: the backbone as it is in round
            1, the localizer of the round before in later ones.
        weights: Answerer weights that the user named, or `none`; None: who made the labels.

    Raises:
        MissingInput: No labels, or a later round without the round before.
        UsageError: Several fit.
    """
    number = _round(values)
    found = None if values.get(ON_THE_FLY) else _labels(workspace, inputs, number, labels)
    if found is None and labels is not None:
        raise UsageError("--labels names pseudo-labels, and on_the_fly needs none")
    start = find_start(workspace, inputs, init)
    if start is None and init is None and number > 1:
        start = _refined(workspace, inputs, number - 1)
    if weights is None and found is not None:
        return Origin(found, start, input_of(workspace, found, "weights"))
    benchmark = str(inputs.train_questions.config["benchmark"])
    reference = weights or (NO_WEIGHTS if number == 1 else None)
    answerer = weights_if_any(
        workspace, benchmark, "answerer", system="sevila", reference=reference
    )
    return Origin(found, start, answerer)


def _round(values: dict[str, Any]) -> int:
    number = values.get("round", 1)
    if type(number) is not int or number < 1:
        raise ConfigError(f"round: a number from 1, not {number!r}")
    return number


def _labels(
    workspace: Workspace, inputs: TrainingInputs, number: int, reference: str | None
) -> Artifact:
    asked = inputs.train_questions

    def fits(item: Artifact) -> bool:
        return asked.id in item.input_ids() and (
            reference is not None or item.config["round"] == number
        )

    later = f" --round {number}" if number > 1 else ""
    return workspace.choose(
        "pseudo-labels",
        fits,
        described=f"pseudo-labels of {asked.id}" + (f" for round {number}" if later else ""),
        option="--labels",
        command=f"vqa pseudo-label --benchmark {asked.config['benchmark']}{later}",
        reference=reference,
    )


def _refined(workspace: Workspace, inputs: TrainingInputs, number: int) -> Artifact:
    benchmark = str(inputs.train_questions.config["benchmark"])

    def fits(item: Artifact) -> bool:
        made = item.config
        return (made["system"], made["role"], made["benchmark"]) == (
            "sevila",
            "localizer",
            benchmark,
        ) and made["round"] == number

    return workspace.choose(
        "weights",
        fits,
        described=f"localizer of round {number} for {benchmark}",
        option="--init",
        command=f"vqa refine-localizer --benchmark {benchmark}"
        + (f" --round {number}" if number > 1 else ""),
    )
