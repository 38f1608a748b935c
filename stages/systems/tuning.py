"""The figure on the tune split while a model trains; decides which epoch is kept.

For what answers questions that is its accuracy, for a localizer trained on spans the accuracy of
its yes and no per frame (specs/sevila.md 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from stages.artifacts.store import Artifact
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.prompts import AnswerMode
from stages.benchmarks.questions import Question
from stages.benchmarks.sevila_prompts import moment_labels
from stages.core.errors import DataError
from stages.models.sevila import Sevila
from stages.models.vlap import VlapStudent, VlapTeacher
from stages.systems.face import Selection, Selector, System
from stages.systems.predict import right_of
from stages.systems.seen import SeenFrames
from stages.systems.sevila import SevilaLocalizer
from stages.systems.vlap import vlap_system

SystemOf = Callable[[nn.Module], System]
"""The system that a model in training is, with caches of its own."""


class Processes(Protocol):
    """What is needed of `accelerate` to share the questions between processes."""

    @property
    def process_index(self) -> int: ...

    @property
    def num_processes(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def reduce(self, tensor: Tensor, reduction: str) -> Tensor:
        """Combine a tensor over all processes."""
        ...


def vlap_of(mode: AnswerMode, benchmark: str) -> SystemOf:
    """VLAP models as systems."""
    rule = load_manifest(benchmark).prompt

    def system(model: nn.Module) -> System:
        assert isinstance(model, VlapTeacher | VlapStudent)
        return vlap_system(model, mode, rule)

    return system


class TuneAccuracy:
    """Percent right on the tune split; every question is counted exactly once.

    Args:
        questions: Questions of the split.
        features: Their features.
        frames: Frames that the model sees.
        batch_size: Questions per forward pass.
        processes: Who shares the work.
        system_of: The system that answers.
        limit: Score the first questions only; None: all.

    Raises:
        DataError: No question of the split can be used.
    """

    @classmethod
    def of_split(
        cls,
        questions: Artifact | None,
        features: Artifact | None,
        frames: int,
        batch_size: int,
        processes: Processes,
        system_of: SystemOf,
        limit: int | None = None,
    ) -> TuneAccuracy | None:
        """The same, or None when there is no tune split."""
        if questions is None or features is None:
            return None
        return cls(questions, features, frames, batch_size, processes, system_of, limit)

    def __init__(
        self,
        questions: Artifact,
        features: Artifact,
        frames: int,
        batch_size: int,
        processes: Processes,
        system_of: SystemOf,
        limit: int | None = None,
    ) -> None:
        self.data = QuestionFeatures(questions, features, frames)
        self.indices = self.data.usable(labelled=True)[:limit]
        if not self.indices:
            raise DataError(f"no labelled question of {questions.id} has features")
        self.batch_size, self.processes, self.system_of = batch_size, processes, system_of

    def __call__(self, model: nn.Module) -> float:
        """Accuracy of `model` in percent."""
        system = self.system_of(model)
        part = self.indices[self.processes.process_index :: self.processes.num_processes]
        answerable = [i for i in part if not system.problem(self.data.questions[i])]
        counts = torch.tensor(right_of(system, self.data, answerable, self.batch_size))
        total = self.processes.reduce(counts.to(self.processes.device), "sum")
        if not total[1]:
            raise DataError("no question of the tune split can be answered in this way")
        return 100.0 * total[0].item() / total[1].item()


class FrameAccuracy:
    """Percent of the tune split's frames of which a localizer says rightly yes or no.

    Args:
        questions: Questions of the split; those without known spans do not count.
        features: Their features.
        frames: T, all of which are judged.
        batch_size: Questions per forward pass.
        processes: Who shares the work.
        limit: Judge the frames of the first questions only; None: of all.

    Raises:
        DataError: No question of the split has spans and features.
    """

    def __init__(
        self,
        questions: Artifact,
        features: Artifact,
        frames: int,
        batch_size: int,
        processes: Processes,
        limit: int | None = None,
    ) -> None:
        self.data = QuestionFeatures(questions, features, frames)
        known = self.data.questions
        self.indices = [index for index in self.data.usable() if known[index].spans][:limit]
        if not self.indices:
            raise DataError(f"no question of {questions.id} has spans and features")
        self.manifest = load_manifest(questions.config["benchmark"])
        self.batch_size, self.processes = batch_size, processes

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        """Share of right frames in percent."""
        assert isinstance(model, Sevila)
        localizer = SevilaLocalizer(model, self.manifest)
        part = self.indices[self.processes.process_index :: self.processes.num_processes]
        right = total = 0
        for start in range(0, len(part), self.batch_size):
            seen = seen_frames(
                self.data, part[start : start + self.batch_size], self.processes.device
            )
            truth = torch.tensor(
                [
                    moment_labels(times.tolist(), question.spans)
                    for times, question in zip(seen.times, seen.questions, strict=True)
                ]
            )
            right += int((localizer.scores(seen).positive.cpu() == truth).sum())
            total += truth.numel()
        counts = torch.tensor([right, total], device=self.processes.device)
        counts = self.processes.reduce(counts, "sum")
        return 100.0 * counts[0].item() / counts[1].item()


class KeptSelection:
    """A selector that cannot change while a model trains, asked once per question."""

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self._chosen: dict[str, Tensor] = {}

    @property
    def rule(self) -> str:
        """See `Selector`."""
        return self.selector.rule

    def problem(self, question: Question) -> str:
        """See `Selector`."""
        return self.selector.problem(question)

    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`; without scores."""
        names = [question.question_id for question in seen.questions]
        if not all(name in self._chosen for name in names):
            indices = self.selector.select(seen, keep).indices.cpu()
            self._chosen |= dict(zip(names, indices, strict=True))
        return Selection(torch.stack([self._chosen[name] for name in names]))


def seen_frames(
    data: QuestionFeatures, indices: Sequence[int], device: torch.device, view: int = 0
) -> SeenFrames:
    """The T frames of questions `indices`."""
    return SeenFrames(
        data.reader,
        [data.questions[index] for index in indices],
        [data.clip(index, view) for index in indices],
        device,
        None,
        [data.shares_clip(index) for index in indices],
    )
