"""The lines of the table that `vqa demo` ends with.

Reads: predictions and questions.   Writes: nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from stages.artifacts.store import Artifact
from stages.benchmarks.batches import load_questions


@dataclass(frozen=True)
class DemoRow:
    """One line of the demo's table; accuracies in percent.

    Attributes:
        name: `random-guess`, `language-only`, `uniform`, `vlap-teacher`, ...
        select: Who chose the frames: `prompter`, `uniform`, `random`, `oracle`, `all`.
        frames: Frames seen.
        keep: Frames kept.
        ms_per_video: Model time per question from stored features.
    """

    name: str
    system: str | None
    select: str | None
    prompter: str | None
    blind: str | None
    frames: int | None
    keep: int | None
    seed: int
    accuracy: float
    ci95: list[float] | None
    by_type: dict[str, float]
    keyframe_recall: float | None
    keyframe_precision: float | None
    ms_per_video: float | None

    def as_json(self) -> dict[str, Any]:
        """For the JSON."""
        return asdict(self)


def demo_row(name: str, predictions: Artifact, weights: Artifact | None, seed: int) -> DemoRow:
    """The table's line of one evaluation."""
    config, metrics = predictions.config, predictions.manifest["metrics"]
    prompter = None
    if weights is not None and weights.config["role"] == "student":
        prompter = weights.config["model"]["prompter"]
    return DemoRow(
        name=name,
        system=config["system"],
        select="prompter" if prompter and config["select"] == "own" else config["select"],
        prompter=prompter,
        blind=config["blind"],
        frames=config["frames"],
        keep=config["keep"],
        seed=seed,
        accuracy=metrics["accuracy"],
        ci95=metrics.get("ci95"),
        by_type=metrics["by_type"],
        keyframe_recall=metrics.get("keyframe_recall"),
        keyframe_precision=metrics.get("keyframe_precision"),
        ms_per_video=predictions.manifest["host"].get("ms_per_video"),
    )


def random_guess(questions: Artifact, seed: int) -> DemoRow:
    """The expected accuracy of a uniform guess among each question's options."""
    by_type: dict[str, list[float]] = {}
    for question in load_questions(questions):
        by_type.setdefault(question.type or "", []).append(100.0 / len(question.options))
    chances = [chance for values in by_type.values() for chance in values]
    return DemoRow(
        name="random-guess",
        system=None,
        select=None,
        prompter=None,
        blind=None,
        frames=None,
        keep=None,
        seed=seed,
        accuracy=sum(chances) / len(chances),
        ci95=None,
        by_type={name: sum(values) / len(values) for name, values in sorted(by_type.items())},
        keyframe_recall=None,
        keyframe_precision=None,
        ms_per_video=None,
    )
