"""Train SeViLA's answerer on keyframes that are chosen in one of several ways.

Reads: features of the train and tune splits, a localizer's weights.   Writes: weights (role
`answerer`; with `topk` and `atp` the selector that learnt with it lies beside it).
Paper: SeViLA (arXiv 2305.06988) sections 3.3 and 4.3, Tables 1, 3, 6 and 8; specs/sevila.md 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from stages.artifacts import atomic
from stages.artifacts.lookup import weights_if_any
from stages.artifacts.result import StageResult
from stages.artifacts.rows import Array
from stages.artifacts.store import Artifact, Request, Workspace
from stages.benchmarks.batches import QuestionFeatures, stores
from stages.benchmarks.clip_order import shards_by_clip
from stages.benchmarks.manifest import BenchmarkManifest, load_manifest
from stages.benchmarks.questions import Question
from stages.core.errors import DataError, UsageError
from stages.core.midpoints import subset_midpoints
from stages.core.runtime import Runtime
from stages.models.learnt_selectors import (
    LearntKind,
    SelectingAnswerer,
    frame_selector,
    selecting_state,
)
from stages.models.sevila import Sevila, side_state
from stages.systems.build import load_sevila
from stages.systems.face import Selector, System
from stages.systems.selectors import plain_selector
from stages.systems.sevila import BlipAnswerer, SevilaLocalizer
from stages.systems.trained_selectors import LearntSelector
from stages.systems.tuning import KeptSelection, SystemOf, TuneAccuracy, seen_frames
from stages.training.draws import random_positions
from stages.training.inputs import (
    TrainingInputs,
    check_answerable,
    events_folder,
    training_plan,
)
from stages.training.loop import Fit
from stages.training.memory import require_training_room
from stages.training.run import reuse_weights, run_training
from stages.training.sevila import (
    LEARNT,
    AnswererConfig,
    AnswererForward,
    AnswererSelect,
    EvalSelect,
    sevila_of,
)
from stages.training.sevila_batches import AnswererData
from stages.training.sevila_setup import (
    SevilaSetup,
    default_keep,
    sevila_values,
    trained_note,
    with_selection,
)
from stages.training.smaller import train_in_smaller_batches

CHOICES_FILE = "choices.safetensors"
"""In an unfinished draft: the localizer's choice, which takes long to make."""


def find_selector(
    workspace: Workspace, inputs: TrainingInputs, values: dict[str, Any], reference: str | None
) -> Artifact | None:
    """The localizer that chooses keyframes, in training or on the tune split.

    Args:
        workspace: Where to look.
        inputs: What is learnt from.
        values: Settings; `select` and `eval_select` among them.
        reference: Localizer weights that the user named, or `none`; None: the workspace's, and if
            it has none the backbone as it is.

    Raises:
        UsageError: Several fit, or weights are named and no localizer chooses.
    """
    if "localizer" not in _selects(values):
        if reference not in (None, "none"):
            raise UsageError("--selector names a localizer, and none chooses frames here")
        return None
    return weights_if_any(
        workspace,
        str(inputs.train_questions.config["benchmark"]),
        "localizer",
        system="sevila",
        reference=reference,
        option="--selector",
    )


def train_answerer(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    *,
    selector: Artifact | None,
    tensorboard: bool = False,
) -> StageResult:
    """Train and write the weights of one answerer.

    Args:
        workspace: Where to write.
        inputs: Features and backbone.
        values: Settings; `select`, `eval_select` and `keep` among them.
        runtime: How to run.
        selector: The localizer's weights, where one chooses; None: the backbone as it is.
        tensorboard: Write event files below the workspace's `.logs`; an extra.
    """
    return train_in_smaller_batches(
        lambda given: _train(workspace, inputs, given, runtime, selector, tensorboard),
        values,
        lambda given: _request(inputs, given, runtime, selector)[0],
        inputs.backbone,
        runtime.device,
    )


def _train(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    selector: Artifact | None,
    tensorboard: bool,
) -> StageResult:
    config, request = _request(inputs, values, runtime, selector)
    following = [f"vqa eval --benchmark {config.benchmark} --system sevila"]
    if config.eval_select != "localizer":
        following = [f"{following[0]} --select {config.eval_select}"]
    notes = [*inputs.notes(), f"keyframes: {config.select}, tuned with {config.eval_select}"]
    if "localizer" in (config.select, config.eval_select):
        notes.append(trained_note("localizer", selector))
    reused = reuse_weights(workspace, request, runtime, following, notes)
    if reused is not None:
        return reused
    require_training_room(request, inputs.backbone, runtime)
    _check_questions(config, inputs)
    setup = SevilaSetup.make(
        config, inputs, runtime, events_folder(workspace, request, tensorboard)
    )

    def build(directory: Path) -> Fit:
        return _Run(config, setup, selector, directory).fit()

    return run_training(
        workspace,
        request,
        runtime,
        setup.accelerator,
        inputs.backbone,
        build,
        _state,
        following,
        notes,
        left_out=frozenset({CHOICES_FILE}),
    )


def plan(
    workspace: Workspace,
    inputs: TrainingInputs,
    values: dict[str, Any],
    runtime: Runtime,
    selector: Artifact | None,
) -> dict[str, Any]:
    """What `train_answerer` would read and do; writes nothing."""
    config, request = _request(inputs, values, runtime, selector)
    return training_plan(
        workspace,
        request,
        inputs,
        config.training,
        frames=config.frames,
        answer=config.answer,
        device=runtime.device,
        limit=config.max_train_questions,
    )


def _request(
    inputs: TrainingInputs, values: dict[str, Any], runtime: Runtime, selector: Artifact | None
) -> tuple[AnswererConfig, Request]:
    values = with_selection(sevila_values(values, inputs), selector)
    select, tuned = _selects(values)
    frames = values["frames"]
    values |= {
        "select": select,
        "eval_select": tuned,
        "keep": values.get("keep") or (frames if select == "all" else default_keep(frames)),
        "answer": values.get("answer") or load_manifest(values["benchmark"]).answer_default,
    }
    config = AnswererConfig.build(values, "train-answerer")
    kind = "frozen-answerer" if config.freeze_answerer else "answerer"
    label = f"{config.benchmark}-sevila-{kind}-{config.select}-{config.frames}to{config.keep}"
    given = inputs.as_inputs(selector=selector)
    return config, Request("weights", runtime.name or label, config.as_json(), given)


def _selects(values: dict[str, Any]) -> tuple[str, str]:
    """How frames are chosen in training and on the tune split.

    Raises:
        UsageError: No such way.
    """
    select = str(values.get("select") or "localizer")
    # Random frames are for training; what is tuned with should not depend on a draw.
    tuned = str(values.get("eval_select") or ("uniform" if select == "random" else select))
    for option, name, known in (
        ("--select", select, get_args(AnswererSelect)),
        ("--eval-select", tuned, get_args(EvalSelect)),
    ):
        if name not in known:
            raise UsageError(f"{option} {name!r}", f"known: {', '.join(known)}")
    return select, tuned


def _check_questions(config: AnswererConfig, inputs: TrainingInputs) -> None:
    for questions in (inputs.train_questions, inputs.tune_questions):
        if questions is not None:
            check_answerable(questions, config.answer)


def _state(model: nn.Module) -> dict[str, Tensor]:
    if isinstance(model, SelectingAnswerer):
        return selecting_state(model)
    return side_state(sevila_of(model), "answerer")


# --- one run --------------------------------------------------------------------------------------


@dataclass
class _Run:
    """Network, data and tuning of one training."""

    config: AnswererConfig
    setup: SevilaSetup
    localizer: Artifact | None
    directory: Path

    def fit(self) -> Fit:
        """The run of training."""
        model = self._model()
        inputs, config = self.setup.inputs, self.config
        evaluate = TuneAccuracy.of_split(
            inputs.tune_questions,
            inputs.tune_features,
            config.frames,
            config.eval_batch_size,
            self.setup.accelerator,
            self._system_of(model),
            config.max_tune_questions,
        )
        data = self._data(sevila_of(model))
        forward = AnswererForward(config, self.setup.device)
        return self.setup.fit(model, data, self.directory, forward, evaluate)

    @property
    def manifest(self) -> BenchmarkManifest:
        """The benchmark."""
        return load_manifest(self.config.benchmark)

    def _model(self) -> Sevila | SelectingAnswerer:
        config, device = self.config, self.setup.device
        torch.manual_seed(config.training.seed)
        needed = "localizer" in (config.select, config.eval_select)
        sevila = load_sevila(
            self.setup.inputs.backbone,
            device,
            config.training.precision,
            config.model.as_json(),
            localizer=self.localizer,
            with_localizer=needed,
        ).train_side(None if config.freeze_answerer else "answerer")
        if config.select not in LEARNT:
            return sevila
        kind: LearntKind = "topk" if config.select == "topk" else "atp"
        selector = frame_selector(kind, config.frame_selector, sevila.backbone, config.keep)
        return SelectingAnswerer(sevila, selector.to(device))

    def _system_of(self, model: nn.Module) -> SystemOf:
        tuned, manifest, config = self.config.eval_select, self.manifest, self.config
        sevila = sevila_of(model)
        fixed: Selector | None = None
        if tuned == "localizer":
            fixed = KeptSelection(SevilaLocalizer(sevila, manifest))
        elif tuned not in LEARNT:
            stored = self._stores(self.setup.inputs.tune_features, tuned)
            fixed = plain_selector(tuned, config.training.seed, stored=stored)

        def system(model: nn.Module) -> System:
            selector: Selector
            if fixed is not None:
                selector = fixed
            else:
                assert isinstance(model, SelectingAnswerer)
                kind: LearntKind = "topk" if tuned == "topk" else "atp"
                selector = LearntSelector(kind, model.frame_selector, sevila.backbone, manifest)
            answerer = BlipAnswerer(sevila, config.answer, manifest, uniform=tuned != "localizer")
            device = self.setup.device
            return System("sevila", selector, answerer, config.frames, config.keep, device)

        return system

    def _stores(self, features: Artifact | None, select: str) -> bool:
        """Whether `uniform` takes frames that extraction sampled for K's sake."""
        return select == "uniform" and features is not None and stores(features, self.config.keep)

    def _data(self, sevila: Sevila) -> AnswererData:
        config, inputs = self.config, self.setup.inputs
        stored = self._stores(inputs.train_features, config.select)
        data = QuestionFeatures(
            inputs.train_questions, inputs.train_features, config.keep if stored else config.frames
        )
        indices = data.usable(labelled=True)[: config.max_train_questions]
        kept = _Kept(config, data, {})
        if config.select in ("oracle", "localizer") and not config.dropout_in_choice:
            selector = self._training_selector(sevila)
            indices = [i for i in indices if not selector.problem(data.questions[i])]
            kept.table |= self._choices(selector, data, indices)
        if not indices:
            raise DataError(f"no question of {inputs.train_questions.id} can be learnt from")
        return AnswererData(
            data,
            indices,
            sevila.backbone.text,
            self.manifest,
            config.training.seed,
            mode=config.answer,
            kept=kept,
            choosing=config.dropout_in_choice or config.select in LEARNT,
        )

    def _training_selector(self, sevila: Sevila) -> Selector:
        if self.config.select == "localizer":
            return SevilaLocalizer(sevila, self.manifest)
        return plain_selector(self.config.select, self.config.training.seed)

    def _choices(
        self, selector: Selector, data: QuestionFeatures, indices: Sequence[int]
    ) -> dict[int, dict[str, Array]]:
        """Kept positions of every question, view by view; made once, also by a resumed run."""
        path = self.directory / CHOICES_FILE
        views = list(range(1, data.views + 1)) or [0]
        names = [data.questions[index].question_id for index in indices]
        if path.exists():
            found = safetensors.torch.load_file(path)
        else:
            chooser = _Chooser(selector, data, indices, self.setup, self.config)
            found = {f"view{view}": chooser.table(view) for view in views}
            if self.setup.accelerator.is_main_process and self.config.select == "localizer":
                atomic.write_bytes(path, safetensors.torch.save(found))
            self.setup.accelerator.wait_for_everyone()
        return {view: dict(zip(names, found[f"view{view}"].numpy(), strict=True)) for view in views}


@dataclass
class _Kept:
    """Which of a question's T frames the answerer learns from; see `sevila_batches.KeptFrames`."""

    config: AnswererConfig
    data: QuestionFeatures
    table: dict[int, dict[str, Array]]

    def __call__(self, question: Question, view: int, epoch: int) -> Array | None:
        if self.table:
            return self.table[view][question.question_id]
        frames, keep = self.data.frames, self.config.keep
        if self.config.select == "random":
            seed = self.config.training.seed
            return random_positions(seed, epoch, question.question_id, frames, keep)
        if self.config.select == "uniform" and frames != keep:
            return subset_midpoints(frames, keep)
        return None


@dataclass
class _Chooser:
    """Asks a selector about every training question, the processes sharing the work."""

    selector: Selector
    data: QuestionFeatures
    indices: Sequence[int]
    setup: SevilaSetup
    config: AnswererConfig

    def table(self, view: int) -> Tensor:
        """Positions [questions, K], in the order of `indices`."""
        asked = [self.data.questions[index] for index in self.indices]
        # Questions about one clip together: what depends on the clip alone is computed once.
        (order,) = shards_by_clip(asked, len(asked))
        part = _share(order, self.setup.accelerator)
        rows: list[tuple[int, list[int]]] = []
        for start in range(0, len(part), self.config.eval_batch_size):
            batch = part[start : start + self.config.eval_batch_size]
            places = [self.indices[number] for number in batch]
            seen = seen_frames(self.data, places, self.setup.device, view)
            chosen = self.selector.select(seen, self.config.keep).indices.tolist()
            rows += zip(batch, chosen, strict=True)
            self.setup.runtime.progress(len(rows), len(part), "keyframes chosen")
        found = dict(gather_object(rows))
        table = np.array([found[number] for number in range(len(order))], dtype=np.int64)
        return torch.from_numpy(table)


def _share(order: Sequence[int], accelerator: Accelerator) -> list[int]:
    """This process's consecutive part."""
    edges = np.linspace(0, len(order), accelerator.num_processes + 1).astype(int)
    rank = accelerator.process_index
    return list(order[edges[rank] : edges[rank + 1]])
