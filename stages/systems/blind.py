"""Blind evaluation: the question as it is, and something else in the place of its video.

What a system still answers rightly, it answers from language alone (arXiv 2404.00973, Tables 3, 11
and 12; specs/videodistill.md 7). Three ways, each a function of seed, split and question:

- `static`: one frame, the middle one of the split's first usable clip, repeated. The paper says "a
  static video" and no more; its model then knows no object at all, which one frame of the
  question's own video would have shown, so here all questions see the same still.
- `gaussian`: noise of the mean and spread of the question's own features.
- `shuffled`: the frames of another question's clip, never of one of the question's own videos.

Frame indices and times stay the question's own, so keyframe figures say what is chosen unseen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np

from stages.artifacts.clips import ClipRows
from stages.artifacts.rows import Array
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.questions import Question
from stages.core.errors import UsageError
from stages.systems.seen import Replace

Blind = Literal["static", "gaussian", "shuffled"]
ClipOf = Callable[[int, int], ClipRows]
"""The frames of candidate clip `place` of question `index`, as the system would see them."""

APART = 256
"""Above every byte of a question id: seeds of further draws for the same question."""


class Blindfold:
    """What is shown in the place of each question's clips.

    Args:
        how: One of the three ways.
        data: The split.
        seed: Of noise and of the choice of other clips.
    """

    def __init__(self, how: Blind, data: QuestionFeatures, seed: int) -> None:
        self.how, self.data, self.seed = how, data, seed
        self._usable = [] if how == "gaussian" else data.usable()

    @property
    def replace(self) -> Replace | None:
        """What is put in the place of features that were read; none: other rows are read."""
        return partial(_noise_like, self.seed) if self.how == "gaussian" else None

    def clip(self, index: int, place: int, clip_of: ClipOf) -> ClipRows:
        """The frames shown for candidate clip `place` of question `index`.

        Raises:
            UsageError: `shuffled`, and no question is about another video.
        """
        own = clip_of(index, place)
        if self.how == "gaussian":
            return own
        if self.how == "static":
            return ClipRows(np.full_like(own.rows, self._still()), own.frames, own.times)
        other = self._other(index)
        clips = len(self.data.questions[other].videos)
        return ClipRows(clip_of(other, place % clips).rows, own.frames, own.times)

    def _still(self) -> int:
        rows = self.data.clip(self._usable[0]).rows
        return int(rows[len(rows) // 2])

    def _other(self, index: int) -> int:
        """The first usable question from a drawn place on that is about other videos."""
        question = self.data.questions[index]
        own, count = set(question.videos), len(self._usable)
        digest = hashlib.sha256(f"shuffled {self.seed} {question.question_id}".encode()).digest()
        start = int.from_bytes(digest[:8], "big") % count
        for step in range(count):
            other = self._usable[(start + step) % count]
            if own.isdisjoint(self.data.questions[other].videos):
                return other
        raise UsageError(
            f"--blind shuffled: all questions are about {question.video}",
            "it needs a split of at least two videos; --blind static needs one",
        )


def _noise_like(seed: int, question: Question, place: int, features: Array) -> Array:
    """Gaussian noise, shaped like [T, N, C] or [T, C], with the mean and spread of `features`.

    Drawn per question id, so that a row does not depend on the batch it is in. The candidate
    clips of one question, and patches and frame CLS, each get noise of their own.
    """
    values = features.astype(np.float32)
    further = 2 * place + (values.ndim == 2)
    numbers = [seed, *question.question_id.encode(), *([APART + further] if further else [])]
    generator = np.random.Generator(np.random.PCG64(numbers))
    drawn = generator.standard_normal(values.shape, np.float32)
    return drawn * values.std() + values.mean()
