"""The whole tool on the embedded default: `shapes` videos, `tiny` backbone, every system, a report.

Reads: nothing.   Writes: artifacts of every kind. Each step is the stage that a user would run, on
the settings of the shipped recipes, so an interrupted demo goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stages import (
    distill,
    evaluate,
    features,
    frames,
    localizer,
    prepare,
    pseudo_labels,
    report,
    teacher,
    videodistill,
)
from stages.artifacts.store import Artifact, Workspace
from stages.artifacts.weights import backbone_of
from stages.core.runtime import Runtime
from stages.demo_rows import DemoRow, demo_row, random_guess
from stages.models.backbones.catalog import image_size
from stages.recipes.recipe import load_recipe
from stages.systems.inputs import EvaluateInputs, evaluate_config, selector_name
from stages.training.inputs import TrainingInputs
from stages.training.sevila_origin import Origin
from stages.video.clips import SamplingConfig
from stages.video.resize import FrameFormat

BACKBONE = "tiny"
RECIPE = "vlap-shapes"
SEVILA_BACKBONE = "tiny-blip2"
SEVILA_RECIPE = "sevila-shapes"
CLIP_BACKBONE = "tiny-clip"
VIDEODISTILL_RECIPE = "videodistill-shapes"
KEEP = 4
SHOWN_QUESTIONS = 60
"""Of the report, so that it is written in seconds."""
SPLITS = ("train", "val", "test")
Notify = Callable[[str], None]


Evaluated = tuple[DemoRow, Artifact]


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


def run_demo(
    workspace: Workspace,
    runtime: Runtime,
    seeds: int,
    notify: Notify,
    num_videos: int | None = None,
) -> DemoResult:
    """Run everything for seeds 1 to `seeds`; finished steps are reused.

    Args:
        workspace: Where artifacts go.
        runtime: How to run.
        seeds: How often, each time with other videos and other training.
        notify: Told what is being done.
        num_videos: Videos of each split; none: the benchmark's own sizes.
    """
    started = time.monotonic()
    rows: list[DemoRow] = []
    page = ""
    for seed in range(1, seeds + 1):
        demo = _Demo(workspace, runtime, seed, notify, num_videos)
        found, predictions = demo.run()
        rows += found
        page = demo.report(predictions)
    return DemoResult(rows, page, time.monotonic() - started)


class _Demo:
    """One seed of the demo."""

    def __init__(
        self,
        workspace: Workspace,
        runtime: Runtime,
        seed: int,
        notify: Notify,
        num_videos: int | None,
    ) -> None:
        self.workspace, self.runtime, self.seed = workspace, runtime, seed
        self.notify, self.num_videos = notify, num_videos
        self.recipe, self.sevila = load_recipe(RECIPE), load_recipe(SEVILA_RECIPE)
        self.distilled = load_recipe(VIDEODISTILL_RECIPE)
        self.questions: dict[str, Artifact] = {}
        self.stored: dict[str, Artifact] = {}
        self.clip: dict[str, Artifact] = {}

    def run(self) -> tuple[list[DemoRow], list[Artifact]]:
        """Data, training and evaluation of every system; rows in the table's order."""
        self.questions = {split: self._prepare(split) for split in SPLITS}
        self.stored = {split: self._features(split) for split in SPLITS}
        self.clip = {split: self._clip_features(split) for split in SPLITS}
        evaluated = [*self._vlap(), *self._sevila(), *self._videodistill()]
        guess = random_guess(self.questions["test"], self.seed)
        return [guess, *(item for item, _ in evaluated)], [item for _, item in evaluated]

    def _vlap(self) -> list[Evaluated]:
        """A teacher, a K-frame start and two students of it."""
        inputs = self._inputs(BACKBONE, self.stored)
        whole = self._teacher(inputs, None)
        start = self._teacher(inputs, KEEP)
        visual = self._student(inputs, whole, start, "visual")
        question = self._student(inputs, whole, start, "question")

        def row(
            name: str, weights: Artifact, select: str | None = None, **values: Any
        ) -> Evaluated:
            selector = selector_name("vlap", select)
            return self._evaluate(name, "vlap", selector, weights, None, values)

        return [
            row("language-only", start, "uniform", keep=KEEP, blind="gaussian"),
            row("uniform", start, "uniform", keep=KEEP),
            row("random", start, "random", keep=KEEP),
            row("vlap-teacher", whole, "all"),
            row("vlap-student-visual", visual),
            row("vlap-student-question", question),
            row("oracle", start, "oracle", keep=KEEP),
        ]

    def _sevila(self) -> list[Evaluated]:
        """The zero-shot answerer on four kinds of keyframes; one localizer is refined."""
        refined = self._refined(self._inputs(SEVILA_BACKBONE, self.stored))

        def row(name: str, select: str, localizer: Artifact | None = None) -> Evaluated:
            values = self.sevila.section("eval") | {"keep": KEEP}
            return self._evaluate(name, "sevila", select, None, localizer, values)

        return [
            row("sevila-uniform", "uniform"),
            row("sevila-zero-shot", "localizer"),
            row("sevila-refined", "localizer", refined),
            row("sevila-oracle", "oracle"),
        ]

    def _videodistill(self) -> list[Evaluated]:
        """One network, with the videos and without."""
        self.notify(f"seed {self.seed}: training VideoDistill")
        values = self.distilled.section("train-videodistill")
        values["training"] = values.get("training", {}) | {"seed": 41 + self.seed}
        how = self._how(f"shapes-videodistill-seed{self.seed}")
        training = videodistill.decide(self._inputs(CLIP_BACKBONE, self.clip), values, how, None)
        weights = _finished(videodistill.train(self.workspace, training, how).artifact)

        def row(name: str, **values: Any) -> Evaluated:
            select = selector_name("videodistill", None)
            stored = self.clip["test"]
            return self._evaluate(name, "videodistill", select, weights, None, values, stored)

        return [row("videodistill"), row("videodistill-blind-gaussian", blind="gaussian")]

    def report(self, predictions: Sequence[Artifact]) -> str:
        """Write the page; returns its path."""
        self.notify("report")
        how = self._how(f"seed{self.seed}")
        result = report.write_report(self.workspace, predictions, how, SHOWN_QUESTIONS)
        return str(result.details["page"])

    # --- steps ---------------------------------------------------------------------------------

    def _how(self, name: str | None = None) -> Runtime:
        return replace(self.runtime, name=name)

    def _prepare(self, split: str) -> Artifact:
        self.notify(f"seed {self.seed}: {split} videos and questions")
        seed = prepare.SHAPES_SEEDS[split] + 10 * (self.seed - 1)
        name = f"shapes-{split}-seed{self.seed}"
        result = prepare.prepare_shapes(
            self.workspace, split, self._how(name), num_videos=self.num_videos, seed=seed
        )
        return _finished(result.artifact)

    def _inputs(self, backbone: str, stored: dict[str, Artifact]) -> TrainingInputs:
        return TrainingInputs(
            self.questions["train"], stored["train"], self.questions["val"], stored["val"], backbone
        )

    def _features(self, split: str) -> Artifact:
        questions = self.questions[split]
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

    def _clip_features(self, split: str) -> Artifact:
        """What the tiny CLIP sees, straight from the videos: no frames are stored for it."""
        self.notify(f"seed {self.seed}: {split} features of the tiny CLIP")
        job = features.feature_job(
            self.workspace,
            self.questions[split],
            CLIP_BACKBONE,
            features.FeatureChoices(),
            device=self.runtime.device,
            decoder="auto",
            from_videos=True,
            sampling={},
        )
        how = self._how(f"shapes-{split}-tiny-clip-seed{self.seed}")
        return _finished(features.extract_features(self.workspace, job, how).artifact)

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

    def _refined(self, inputs: TrainingInputs) -> Artifact:
        """The localizer after one round of the reverse chain, from the backbone as it is."""
        self.notify(f"seed {self.seed}: what the answerer says of each frame")
        asked = EvaluateInputs(
            "blip2-voting", "all", inputs.train_questions, inputs.train_features,
            None, None, SEVILA_BACKBONE, "",
        )  # fmt: skip
        labelling = pseudo_labels.pseudo_label_config(
            asked, self.sevila.section("pseudo-label"), self.runtime.device
        )
        how = self._how(f"shapes-pseudo-labels-seed{self.seed}")
        labels = pseudo_labels.pseudo_label(self.workspace, asked, labelling, how)
        self.notify(f"seed {self.seed}: refining the localizer")
        values = self.sevila.section("refine-localizer")
        values["training"] = values.get("training", {}) | {"seed": 41 + self.seed}
        origin = Origin(_finished(labels.artifact), None, None)
        how = self._how(f"shapes-sevila-localizer-seed{self.seed}")
        result = localizer.refine_localizer(self.workspace, inputs, values, how, origin)
        return _finished(result.artifact)

    def _evaluate(
        self,
        name: str,
        system: str,
        select: str,
        weights: Artifact | None,
        selector: Artifact | None,
        values: dict[str, Any],
        stored: Artifact | None = None,
    ) -> Evaluated:
        self.notify(f"seed {self.seed}: evaluating {name}")
        inputs = EvaluateInputs(
            system,
            select,
            self.questions["test"],
            stored or self.stored["test"],
            weights,
            selector,
            backbone_of(weights) if weights else SEVILA_BACKBONE,
            SEVILA_BACKBONE if select == "localizer" else "",
        )
        config = evaluate_config(inputs, {**values, "seed": self.seed}, self.runtime.device)
        how = self._how(f"{name}-seed{self.seed}")
        predictions = _finished(evaluate.evaluate(self.workspace, inputs, config, how).artifact)
        return demo_row(name, predictions, weights, self.seed), predictions


def _finished(artifact: Artifact | None) -> Artifact:
    """The demo never runs on a part of the shards, so its stages always finish."""
    assert artifact is not None
    return artifact
