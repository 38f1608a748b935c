"""Selectors that learn nothing: uniform, random, all frames, and an oracle that knows the spans.

`uniform` with K frames takes the frames that extraction sampled for N = K where they are stored
(`StoredSampling`), and the middle ones of the T frames otherwise (`UniformSelector`). Both are the
same midpoint rule, once on the video and once on the frames that were kept of it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from stages.artifacts.clips import ClipRows
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.questions import Question
from stages.core.errors import UsageError
from stages.core.midpoints import subset_midpoints
from stages.systems.face import Selection, Selector
from stages.systems.seen import SeenFrames

Span = tuple[float, float]


class UniformSelector:
    """The middle frame of each of K equal segments of the T frames."""

    rule = "midpoint"

    def problem(self, question: Question) -> str:
        """None; see `Selector`."""
        return ""

    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`."""
        kept = torch.from_numpy(subset_midpoints(seen.num_frames, keep))
        return Selection(kept.expand(len(seen), -1))


class StoredSampling:
    """The K frames that extraction sampled for N = K; their features are read directly."""

    rule = "stored"

    def problem(self, question: Question) -> str:
        """None; see `Selector`."""
        return ""

    def clip_of(self, data: QuestionFeatures, index: int, keep: int, place: int = 0) -> ClipRows:
        """See `FrameSource`."""
        return data.sampled(index, keep, place=place)

    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """All of its own frames; see `Selector`."""
        return Selection(torch.arange(keep).expand(len(seen), -1))


class AllFrames:
    """Every frame, whatever `keep` says."""

    rule = "all"

    def problem(self, question: Question) -> str:
        """None; see `Selector`."""
        return ""

    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`."""
        return Selection(torch.arange(seen.num_frames).expand(len(seen), -1))


class RandomSelector:
    """K frames drawn without replacement, the same for a question in every run of a seed."""

    rule = "random"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def problem(self, question: Question) -> str:
        """None; see `Selector`."""
        return ""

    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`."""
        rows = [self._draw(q.question_id, seen.num_frames, keep) for q in seen.questions]
        return Selection(torch.from_numpy(np.stack(rows)))

    def _draw(self, question_id: str, frames: int, keep: int) -> np.ndarray:
        digest = hashlib.sha256(f"{self.seed} {question_id}".encode()).digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
        return np.sort(generator.choice(frames, size=keep, replace=False)).astype(np.int64)


class OracleSelector:
    """Frames inside the true spans first, then the nearest ones; needs known spans."""

    rule = "oracle"

    def problem(self, question: Question) -> str:
        """See `Selector`."""
        return "" if question.spans else "the oracle needs the true spans, and none are known"

    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`.

        Raises:
            UsageError: A question has no spans; see `problem`.
        """
        rows = []
        for question, times in zip(seen.questions, seen.times, strict=True):
            if not question.spans:
                raise UsageError(
                    f"{question.question_id}: {self.problem(question)}",
                    "choose another --select",
                )
            distance = [_distance(float(seconds), question.spans) for seconds in times]
            nearest = np.argsort(np.array(distance), kind="stable")[:keep]
            rows.append(np.sort(nearest))
        return Selection(torch.from_numpy(np.stack(rows).astype(np.int64)))


def _distance(seconds: float, spans: tuple[Span, ...]) -> float:
    """Seconds from a time to the nearest span's middle if outside all, else 0."""
    if any(low <= seconds <= high for low, high in spans):
        return 0.0
    return min(max(low - seconds, seconds - high) for low, high in spans)


def plain_selector(name: str, seed: int, *, stored: bool = False) -> Selector:
    """The selector called `uniform`, `random`, `oracle` or `all`.

    Args:
        name: One of `PLAIN_SELECTORS`.
        seed: Seed of the random one.
        stored: For `uniform`: K frames are stored for their own sake.
    """
    if name == "random":
        return RandomSelector(seed)
    if name == "uniform" and stored:
        return StoredSampling()
    plain: dict[str, type[UniformSelector | AllFrames | OracleSelector]] = {
        "uniform": UniformSelector,
        "oracle": OracleSelector,
        "all": AllFrames,
    }
    if name not in plain:
        raise UsageError(f"no selector called {name!r}", f"known: {', '.join(PLAIN_SELECTORS)}")
    return plain[name]()


PLAIN_SELECTORS = ("uniform", "random", "oracle", "all")
