"""The whole tool on the embedded default: `shapes` videos, `tiny` backbone, every system, a report.

Reads: nothing.   Writes: artifacts of every kind. Each step is the stage that a user would run, on
the settings of the recipe `vlap-shapes`, so an interrupted demo goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stages import distill, evaluate, features, frames, prepare, report, teacher
from stages.artifacts.store import Artifact, Workspace
from stages.artifacts.weights import backbone_of
from stages.benchmarks.batches import load_questions
from stages.core.runtime import Runtime
from stages.models.backbones.catalog import image_size
from stages.recipes.recipe import Recipe, load_recipe
from stages.systems.inputs import EvaluateInputs, evaluate_config, selector_name
from stages.training.inputs import TrainingInputs
from stages.video.clips import SamplingConfig
from stages.video.resize import FrameFormat

BACKBONE = "tiny"
RECIPE = "vlap-shapes"
KEEP = 4
SPLITS = ("train", "val", "test")
Notify = Callable[[str], None]


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


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        rows: One per system and seed.
        report: Path of the report's page.
        seconds: Wall time.
    """

    rows: list[DemoRow]
    report: str
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The JSON of `vqa demo`."""
        return {
            "rows": [row.as_json() for row in self.rows],
            "report": self.report,
            "seconds": round(self.seconds, 1),
        }


def run_demo(workspace: Workspace, runtime: Runtime, seeds: int, notify: Notify) -> DemoResult:
    """Run everything for seeds 1 to `seeds`; finished steps are reused.

    Args:
        workspace: Where artifacts go.
        runtime: How to run.
        seeds: How often, each time with other videos and other training.
        notify: Told what is being done.
    """
    started = time.monotonic()
    rows: list[DemoRow] = []
    page = ""
    for seed in range(1, seeds + 1):
        demo = _Demo(workspace, runtime, seed, load_recipe(RECIPE), notify)
        found, predictions = demo.run()
        rows += found
        page = demo.report(predictions)
    return DemoResult(rows, page, time.monotonic() - started)


class _Demo:
    """One seed of the demo."""

    def __init__(
        self, workspace: Workspace, runtime: Runtime, seed: int, recipe: Recipe, notify: Notify
    ) -> None:
        self.workspace, self.runtime, self.seed = workspace, runtime, seed
        self.recipe, self.notify = recipe, notify

    def run(self) -> tuple[list[DemoRow], list[Artifact]]:
        """Data, training and evaluation; rows in the table's order."""
        questions = {split: self._prepare(split) for split in SPLITS}
        stored = {split: self._features(questions[split]) for split in SPLITS}
        inputs = TrainingInputs(
            questions["train"], stored["train"], questions["val"], stored["val"], BACKBONE
        )
        whole = self._teacher(inputs, None)
        start = self._teacher(inputs, KEEP)
        visual = self._student(inputs, whole, start, "visual")
        question = self._student(inputs, whole, start, "question")

        def row(name: str, weights: Artifact, **values: Any) -> tuple[DemoRow, Artifact]:
            return self._evaluate(name, questions["test"], stored["test"], weights, values)

        evaluated = [
            row("language-only", start, select="uniform", keep=KEEP, blind="gaussian"),
            row("uniform", start, select="uniform", keep=KEEP),
            row("random", start, select="random", keep=KEEP),
            row("vlap-teacher", whole, select="all"),
            row("vlap-student-visual", visual),
            row("vlap-student-question", question),
            row("oracle", start, select="oracle", keep=KEEP),
        ]
        guess = random_guess(questions["test"], self.seed)
        return [guess, *(item for item, _ in evaluated)], [item for _, item in evaluated]

    def report(self, predictions: Sequence[Artifact]) -> str:
        """Write the page; returns its path."""
        self.notify("report")
        result = report.write_report(self.workspace, predictions, self._how(f"seed{self.seed}"))
        return str(result.details["page"])

    # --- steps ---------------------------------------------------------------------------------

    def _how(self, name: str | None = None) -> Runtime:
        return replace(self.runtime, name=name)

    def _prepare(self, split: str) -> Artifact:
        self.notify(f"seed {self.seed}: {split} videos and questions")
        seed = prepare.SHAPES_SEEDS[split] + 10 * (self.seed - 1)
        name = f"shapes-{split}-seed{self.seed}"
        result = prepare.prepare_shapes(self.workspace, split, self._how(name), seed=seed)
        return _finished(result.artifact)

    def _features(self, questions: Artifact) -> Artifact:
        split = questions.config["split"]
        self.notify(f"seed {self.seed}: {split} frames and features")
        label = f"shapes-{split}-tiny-seed{self.seed}"
        sampling = SamplingConfig.build(self.recipe.section("extract-frames"), RECIPE)
        size = FrameFormat.squash(image_size(BACKBONE))
        config = frames.frames_config(questions, size, sampling)
        stored = frames.extract_frames(self.workspace, questions, config, self._how(label))
        job = features.FeatureJob(
            questions,
            BACKBONE,
            features.features_config(
                questions,
                BACKBONE,
                sampling,
                features.FeatureChoices(),
                self.runtime.device,
                config.decoder,
            ),
            _finished(stored.artifact),
        )
        result = features.extract_features(self.workspace, job, self._how(label))
        return _finished(result.artifact)

    def _values(self, command: str) -> dict[str, Any]:
        return {**self.recipe.section(command), "seed": 41 + self.seed}

    def _teacher(self, inputs: TrainingInputs, keep: int | None) -> Artifact:
        role = f"start-{keep}f" if keep else "teacher"
        self.notify(f"seed {self.seed}: training the {role}")
        values = self._values("train-teacher") | {"keep": keep}
        how = self._how(f"shapes-vlap-{role}-seed{self.seed}")
        return _finished(teacher.train_teacher(self.workspace, inputs, values, how).artifact)

    def _student(
        self, inputs: TrainingInputs, whole: Artifact, start: Artifact, prompter: str
    ) -> Artifact:
        self.notify(f"seed {self.seed}: distilling the student with the {prompter} prompter")
        values = self._values("distill") | {"keep": KEEP, "prompter": prompter}
        how = self._how(f"shapes-vlap-student-{prompter}-seed{self.seed}")
        result = distill.distill(self.workspace, inputs, values, how, teacher=whole, start=start)
        return _finished(result.artifact)

    def _evaluate(
        self,
        name: str,
        questions: Artifact,
        stored: Artifact,
        weights: Artifact,
        values: dict[str, Any],
    ) -> tuple[DemoRow, Artifact]:
        self.notify(f"seed {self.seed}: evaluating {name}")
        select = selector_name("vlap", values.get("select"))
        backbone = backbone_of(weights)
        inputs = EvaluateInputs("vlap", select, questions, stored, weights, None, backbone, "")
        config = evaluate_config(inputs, {**values, "seed": self.seed}, self.runtime.device)
        how = self._how(f"{name}-seed{self.seed}")
        result = evaluate.evaluate(self.workspace, inputs, config, how)
        predictions = _finished(result.artifact)
        return demo_row(name, predictions, weights, self.seed), predictions


def _finished(artifact: Artifact | None) -> Artifact:
    """The demo never runs on a part of the shards, so its stages always finish."""
    assert artifact is not None
    return artifact


def demo_row(name: str, predictions: Artifact, weights: Artifact, seed: int) -> DemoRow:
    """The table's line of one evaluation."""
    config, metrics = predictions.config, predictions.manifest["metrics"]
    student = weights.config["role"] == "student"
    return DemoRow(
        name=name,
        system=config["system"],
        select="prompter" if student and config["select"] == "own" else config["select"],
        prompter=weights.config["model"]["prompter"] if student else None,
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
