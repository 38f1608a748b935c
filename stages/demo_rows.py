"""The lines of the table that `vqa demo` ends with, and what they say in words.

Reads: predictions and questions.   Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        keyframe_recall: None where there are no spans, and where no video was seen: frames that
            were kept of noise are nobody's choice. The same for `keyframe_precision`.
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
    frames = {} if config["blind"] else metrics
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
        keyframe_recall=frames.get("keyframe_recall"),
        keyframe_precision=frames.get("keyframe_precision"),
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


# --- in words ------------------------------------------------------------------------------------


def findings(rows: Sequence[DemoRow]) -> list[str]:
    """What the table shows, one sentence a finding; every figure and every verdict is of `rows`."""
    named = {row.name: [other for other in rows if other.name == row.name] for row in rows}
    sentences: tuple[tuple[tuple[str, ...], Callable[..., str]], ...] = (
        (("vlap-student-question", "uniform"), _chosen_frames),
        (("language-only", "random-guess"), _language_alone),
        (("sevila-refined", "sevila-zero-shot", "sevila-uniform"), _refinement),
    )
    return [say(*(named[name] for name in names))
            for names, say in sentences if all(name in named for name in names)]  # fmt: skip


def _chosen_frames(student: list[DemoRow], uniform: list[DemoRow]) -> str:
    kept, seen = student[0].keep, student[0].frames
    return (
        f"VLAP on the {kept} of {seen} frames that its question-conditioned prompter keeps: "
        f"{_share(student)}{_recall(student)}, against {_share(uniform)}{_recall(uniform)} "
        f"on {kept} uniform ones: {_difference(student, uniform)}."
    )


def _language_alone(blind: list[DemoRow], guess: list[DemoRow]) -> str:
    """Whether the questions give their answers away."""
    chance, intervals = _mean(guess), [row.ci95 for row in blind if row.ci95]
    around = all(low <= chance <= high for low, high in intervals)
    verdict = (
        "no more than guessing, as far as the 95 % interval tells"
        if around and intervals
        else f"{abs(_mean(blind) - chance):.1f} points {_side(_mean(blind) - chance)} than guessing"
    )
    return (
        f"From the questions alone it gets {_share(blind)} ({_share(guess)} by chance): {verdict}."
    )


def _refinement(refined: list[DemoRow], plain: list[DemoRow], uniform: list[DemoRow]) -> str:
    return (
        f"SeViLA's answerer as it comes: {_share(uniform)} on uniform frames, {_share(plain)} on "
        f"those of its localizer, and {_share(refined)} on those of the localizer refined by the "
        f"answerer's own verdicts, {_difference(refined, plain)} than before."
    )


def _difference(one: list[DemoRow], other: list[DemoRow]) -> str:
    """How much `one` is above or below `other`, and whether so few questions can tell."""
    points = _mean(one) - _mean(other)
    text = f"{abs(points):.1f} points {_side(points)}"
    pairs = [(a.ci95, b.ci95) for a, b in zip(one, other, strict=True) if a.ci95 and b.ci95]
    if pairs and not all(a[0] > b[1] or a[1] < b[0] for a, b in pairs):
        text += " (but the 95 % intervals overlap)"
    return text


def _side(points: float) -> str:
    return "more" if points >= 0 else "less"


def _mean(rows: list[DemoRow]) -> float:
    return sum(row.accuracy for row in rows) / len(rows)


def _share(rows: list[DemoRow]) -> str:
    """`97.7 %`, over several seeds their mean."""
    return f"{_mean(rows):.1f} %"


def _recall(rows: list[DemoRow]) -> str:
    recalls = [row.keyframe_recall for row in rows if row.keyframe_recall is not None]
    if not recalls:
        return ""
    return f" (a true moment among them for {sum(recalls) / len(recalls):.1f} %)"
