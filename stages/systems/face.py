"""What every system shows to evaluation: a selector of frames and an answerer.

A system is a selector × an answerer, so any selector can be crossed with any answerer.

Axes: B questions, T frames seen, K frames kept, N tokens, C width, O options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from stages.artifacts.clips import ClipRows
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.questions import Question
from stages.systems.seen import ONE, Candidate, SeenFrames


@dataclass(frozen=True)
class Selection:
    """Frames kept of a batch.

    Attributes:
        indices: int64 [B, K], positions among the T frames, ascending; of a sampler with slots
            as the slots hold them, where a frame may come twice.
        scores: float [B, T], what the selector thought of each frame; none if it does not score.
        tied: Per question, whether a frame that was not kept scored as high as one that was; none
            where ties cannot occur or do not matter.
    """

    indices: Tensor
    scores: Tensor | None = None
    tied: list[bool] | None = None


@dataclass(frozen=True)
class Answers:
    """Answers of a batch.

    Attributes:
        scores: Per question, one score per option; empty lists for generated text.
        predictions: Index of the best option (the earlier one on a tie), or generated text.
        by_frame: Per question, what each kept frame alone says; none where frames are read
            together.
        rows: Per question, which of its rows the answer was read from; none: the only one.
    """

    scores: list[list[float]]
    predictions: list[int | str]
    by_frame: list[list[int | str]] | None = None
    rows: list[int] | None = None


class Selector(Protocol):
    """Chooses which of a question's frames are looked at.

    Attributes:
        rule: By what the frames are chosen, for the predictions' `frame_rule`: `prompter`,
            `localizer`, `midpoint`, `stored`, `all`, `random`, `oracle`, ...
    """

    @property
    def rule(self) -> str: ...

    def problem(self, question: Question) -> str:
        """Why it cannot choose frames for this question, or an empty string."""
        ...

    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """Choose K = `keep` of the T frames of each question; reads the features it needs."""
        ...


@runtime_checkable
class FrameSource(Protocol):
    """A selector that does not choose among the T frames, but has K of its own."""

    def clip_of(self, data: QuestionFeatures, index: int, keep: int, place: int = 0) -> ClipRows:
        """The K = `keep` frames of question `index` of `data`, of its candidate clip `place`."""
        ...


class Answerer(Protocol):
    """Answers a question from chosen frames."""

    def problem(self, question: Question) -> str:
        """Why it cannot answer this question, or an empty string."""
        ...

    def answer(self, seen: SeenFrames, indices: Tensor) -> Answers:
        """Answer from the frames `indices` [B, K] of those seen, ascending in time."""
        ...


@runtime_checkable
class CandidateAnswerer(Protocol):
    """An answerer that looks at each candidate answer by itself, with frames of its own.

    A batch then has a row for each candidate, a question's candidates one after the other, and
    `answer` gives one answer per question.
    """

    def candidates(self, question: Question) -> Sequence[Candidate]:
        """What a question is asked of, at least one."""
        ...


@dataclass(frozen=True)
class System:
    """A selector and an answerer that know how many frames they see and keep.

    Attributes:
        name: Such as `vlap`.
        selector: Chooses the frames.
        answerer: Answers from them.
        frames: T.
        keep: K; equal to T when all frames are used.
        device: Where the answerer's weights are.
    """

    name: str
    selector: Selector
    answerer: Answerer
    frames: int
    keep: int
    device: torch.device

    def candidates(self, question: Question) -> Sequence[Candidate]:
        """The rows of a question; see `CandidateAnswerer`."""
        if isinstance(self.answerer, CandidateAnswerer):
            return self.answerer.candidates(question)
        return ONE

    def problem(self, question: Question) -> str:
        """Why this question cannot be answered, or an empty string."""
        return self.selector.problem(question) or self.answerer.problem(question)
