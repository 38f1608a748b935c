"""From scores of single frames to moments: spans of a clip and a score for each 2 s of it.

Reads and writes nothing. Each frame stands for a part of the clip; parts of positive frames that
lie close together become one span; the spans are consolidated into one, or all are kept, best
first. What SeViLA's paper says of this is: merge adjacent positive frames whose interval does not
exceed a threshold, then consolidate into a single video-level span (its section 4.5,
specs/sevila.md 4.4). How the one span is found it does not say: `SpanRule` has the ways there are.

Axes: T frames, L clips of 2 s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from pydantic import Field

from stages.benchmarks.scorers.moments import CLIP_SECONDS, MAX_WINDOWS, Moments
from stages.core.config import Config

Part = tuple[float, float]
"""Start and end in seconds of what one frame stands for."""
SLACK = 1e-6
"""Seconds by which a gap may miss the limit through rounding alone."""


DEFAULT_GAP = 6.0
"""Seconds; about what the paper is said to use (specs/sevila.md 4.4), to be chosen on val."""


class SpanRule(Config):
    """How positive frames become spans."""

    gap: float = Field(default=DEFAULT_GAP, ge=0.0, allow_inf_nan=False)
    """Seconds without a positive frame, between the parts of two, that still join them. Parts
    that touch are joined at 0."""
    threshold: float | None = None
    """A frame is positive when its score is above this; none: when `yes` beats `no`."""
    several: bool = False
    """Every merged span is a prediction, best first and ten at most; else they become one."""
    consolidate: Literal["sum", "mean", "longest", "hull"] = "sum"
    """The one span: that of the highest summed probability of `yes`, of the highest score, the
    longest, or everything from the first span's start to the last one's end. Raw logits may be
    negative, so that they are no weights to sum."""
    score: Literal["mean", "max"] = "mean"
    """A span's score from those of its positive frames."""
    when_none: Literal["best-frame", "nothing"] = "best-frame"
    """Without a positive frame: the part of the frame of highest score, or no span."""


@dataclass(frozen=True, slots=True)
class ScoredFrames:
    """T frames of one clip, in time order.

    Attributes:
        times: Presentation times in seconds of the video.
        scores: What frames are compared by, such as the logit of `yes`.
        margins: Logit of `yes` minus logit of `no`.
        duration: Length of the clip in seconds; none: up to the last frame's end.
        start: Where the clip begins in the video, in seconds.
    """

    times: tuple[float, ...]
    scores: tuple[float, ...]
    margins: tuple[float, ...]
    duration: float | None = None
    start: float = 0.0

    def positive(self, rule: SpanRule) -> list[bool]:
        """Which frames show the moment."""
        if rule.threshold is None:
            return [margin > 0 for margin in self.margins]
        return [score > rule.threshold for score in self.scores]

    def parts(self) -> list[Part]:
        """See `frame_parts`."""
        return frame_parts(self.times, self.duration, self.start)


@dataclass(frozen=True, slots=True)
class Run:
    """Positive frames that were merged: positions among the T, and the span they cover."""

    frames: tuple[int, ...]
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


def predicted_moments(frames: ScoredFrames, rule: SpanRule) -> Moments:
    """Spans and saliency of one clip."""
    return Moments(tuple(find_windows(frames, rule)), tuple(saliency(frames)))


def find_windows(frames: ScoredFrames, rule: SpanRule) -> list[tuple[float, float, float]]:
    """`(start, end, score)` of the predicted spans, best first; one unless `rule.several`.

    Spans lie inside the clip, have a length and do not overlap.
    """
    parts = frames.parts()
    runs = merge_positive(parts, frames.positive(rule), rule.gap)
    if not runs and rule.when_none == "best-frame":
        runs = _best_frame(frames, parts)
    if runs and not rule.several:
        runs = [_consolidated(frames, runs, rule)]
    found = [(run.start, run.end, _score(frames, run, rule)) for run in runs]
    return sorted(found, key=lambda window: -window[2])[:MAX_WINDOWS]


def frame_parts(
    times: Sequence[float], duration: float | None = None, start: float = 0.0
) -> list[Part]:
    """What each of T frames stands for, in seconds of the video.

    Frame i of T evenly sampled frames stands for the i-th of T equal parts: of 75 frames of 150 s
    for [2i, 2i + 2]. Where a frame does not lie in its equal part (a varying frame rate, a file of
    another length than the annotations say, a frame that occurs twice) a part reaches half-way to
    the neighbouring frames, and equal frames share one.

    Args:
        times: Presentation times, ascending.
        duration: Length of the clip; none: half a step beyond the last frame.
        start: Where the clip begins.

    Returns:
        T parts within the clip, in time order; empty ones beyond its end.
    """
    if not times:
        return []
    if duration is not None:
        edges = start + np.linspace(0.0, duration, len(times) + 1)
        if bool(np.all((edges[:-1] <= times) & (np.asarray(times) <= edges[1:]))):
            return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    distinct = sorted(set(times))
    between = [(one + other) / 2 for one, other in pairwise(distinct)]
    last = distinct[-1] + (distinct[-1] - (between[-1] if between else start))
    end = last if duration is None else min(last, start + duration)
    bounds = [min(max(edge, start), end) for edge in (start, *between, end)]
    part = dict(zip(distinct, pairwise(bounds), strict=True))
    return [part[seconds] for seconds in times]


def merge_positive(parts: Sequence[Part], positive: Sequence[bool], gap: float) -> list[Run]:
    """Runs of positive frames, in time order, that are at most `gap` seconds apart.

    Parts that touch are joined whatever the gap; empty parts cover nothing and are left out.
    """
    runs: list[Run] = []
    for place, ((start, end), yes) in enumerate(zip(parts, positive, strict=True)):
        if not yes or end <= start:
            continue
        if runs and start - runs[-1].end <= gap + SLACK:
            before = runs[-1]
            runs[-1] = Run((*before.frames, place), before.start, max(before.end, end))
        else:
            runs.append(Run((place,), start, end))
    return runs


def _best_frame(frames: ScoredFrames, parts: Sequence[Part]) -> list[Run]:
    """The part of the frame of highest score, the first of equals."""
    usable = [place for place, (start, end) in enumerate(parts) if end > start]
    if not usable:
        return []
    best = max(usable, key=lambda place: frames.scores[place])
    return [Run((best,), *parts[best])]


def _consolidated(frames: ScoredFrames, runs: Sequence[Run], rule: SpanRule) -> Run:
    """One span out of several; the earlier of equals."""
    if rule.consolidate == "hull":
        every = tuple(place for run in runs for place in run.frames)
        return Run(every, runs[0].start, runs[-1].end)
    if rule.consolidate == "longest":
        return max(runs, key=lambda run: run.seconds)
    if rule.consolidate == "mean":
        return max(runs, key=lambda run: _score(frames, run, rule))
    chances = _probabilities(frames.margins)
    return max(runs, key=lambda run: sum(chances[place] for place in run.frames))


def _probabilities(margins: Sequence[float]) -> list[float]:
    """Of `yes` against `no`; a logistic that does not overflow."""
    halves = 0.5 * np.tanh(0.5 * np.asarray(margins, np.float64))
    chances: list[float] = (0.5 + halves).tolist()
    return chances


def _score(frames: ScoredFrames, run: Run, rule: SpanRule) -> float:
    scores = [frames.scores[place] for place in run.frames]
    return max(scores) if rule.score == "max" else sum(scores) / len(scores)


def saliency(frames: ScoredFrames) -> list[float]:
    """The score of each 2 s of the clip, [L]: the mean of the frames in it.

    Where no frame lies in it, the one nearest to its middle counts.
    """
    parts = frames.parts()
    if not parts:
        return []
    end = parts[-1][1] - frames.start if frames.duration is None else frames.duration
    times, scores = np.asarray(frames.times) - frames.start, np.asarray(frames.scores)
    numbers = np.floor(times / CLIP_SECONDS + SLACK).astype(np.int64)
    found = []
    for clip in range(math.floor(end / CLIP_SECONDS + SLACK)):
        inside = scores[numbers == clip]
        middle = (clip + 0.5) * CLIP_SECONDS
        nearest = int(np.argmin(np.abs(times - middle)))
        found.append(float(inside.mean() if len(inside) else scores[nearest]))
    return found
