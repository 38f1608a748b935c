"""Accuracy on the tune split while a VLAP model trains; decides which epoch is kept."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from stages.artifacts.store import Artifact
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.prompts import AnswerMode
from stages.core.errors import DataError
from stages.models.vlap import VlapStudent, VlapTeacher
from stages.systems.predict import right_of
from stages.systems.vlap import vlap_system


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


class TuneAccuracy:
    """Percent right on the tune split; every question is counted exactly once.

    Args:
        questions: Questions of the split.
        features: Their features.
        frames: Frames that the model sees.
        mode: Answer mode.
        batch_size: Questions per forward pass.
        processes: Who shares the work.

    Raises:
        DataError: No question of the split can be used.
    """

    @classmethod
    def of_split(
        cls,
        questions: Artifact | None,
        features: Artifact | None,
        frames: int,
        mode: AnswerMode,
        batch_size: int,
        processes: Processes,
    ) -> TuneAccuracy | None:
        """The same, or None when there is no tune split."""
        if questions is None or features is None:
            return None
        return cls(questions, features, frames, mode, batch_size, processes)

    def __init__(
        self,
        questions: Artifact,
        features: Artifact,
        frames: int,
        mode: AnswerMode,
        batch_size: int,
        processes: Processes,
    ) -> None:
        self.data = QuestionFeatures(questions, features, frames)
        self.indices = self.data.usable(labelled=True)
        if not self.indices:
            raise DataError(f"no labelled question of {questions.id} has features")
        self.mode, self.batch_size, self.processes = mode, batch_size, processes
        self.rule = load_manifest(questions.config["benchmark"]).prompt

    def __call__(self, model: nn.Module) -> float:
        """Accuracy of `model` in percent."""
        assert isinstance(model, VlapTeacher | VlapStudent)
        system = vlap_system(model, self.mode, self.rule)
        part = self.indices[self.processes.process_index :: self.processes.num_processes]
        counts = torch.tensor(right_of(system, self.data, part, self.batch_size))
        total = self.processes.reduce(counts.to(self.processes.device), "sum")
        return 100.0 * total[0].item() / total[1].item()
