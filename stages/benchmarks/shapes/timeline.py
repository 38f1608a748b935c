"""What one video of the `shapes` benchmark shows, and when.

Reads and writes nothing: a `Timeline` follows from (seed, split, index) alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.benchmarks.shapes.scene import COLORS, PLACES, SHAPES, Look, draw_look

FPS = 8
NUM_PARTS = 32
"""Moments are measured in 32nds of the video, the paper's number of frames."""
MOMENT_PARTS = (2.6, 3.7)
_NUM_MOMENTS = (3, 4)
_SECONDS = (8.0, 30.0)


@dataclass(frozen=True, slots=True)
class Moment:
    """One object on the screen from frame `first` to frame `last`, both included."""

    look: Look
    first: int
    last: int

    @property
    def span(self) -> tuple[float, float]:
        """Seconds; borders lie half-way between two frames, so that no frame is on one."""
        return max(0.0, (self.first - 0.5) / FPS), (self.last + 0.5) / FPS


@dataclass(frozen=True, slots=True)
class Timeline:
    """A video's length in frames and its moments in time order."""

    num_frames: int
    moments: tuple[Moment, ...]

    @property
    def duration(self) -> float:
        return self.num_frames / FPS


def video_rng(seed: int, split: str, index: int, purpose: str) -> np.random.Generator:
    """The random stream of one video: different for every split, so splits share no video."""
    words = f"shapes/{split}/{seed}/{index}/{purpose}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(words).digest()[:16], "big"))


def _place_moments(rng: np.random.Generator, num_frames: int, count: int) -> list[tuple[int, int]]:
    """First and last frame of `count` moments that do not touch."""
    lengths = rng.uniform(*MOMENT_PARTS, size=count) * num_frames / NUM_PARTS
    gap = num_frames / NUM_PARTS
    free = num_frames - lengths.sum() - gap * (count - 1)
    before = np.diff(np.sort(rng.uniform(0, free, size=count)), prepend=0.0)
    frames: list[tuple[int, int]] = []
    position = 0.0
    for wait, length in zip(before, lengths, strict=True):
        start = position + wait
        frames.append((int(start), max(int(start), int(start + length) - 1)))
        position = start + length + gap
    return frames


def _distinct(rng: np.random.Generator, words: tuple[str, ...], count: int) -> list[str]:
    order: npt.NDArray[np.int64] = rng.permutation(len(words))
    return [words[i] for i in order[:count]]


def draw_timeline(rng: np.random.Generator) -> Timeline:
    """A random video of 8-30 s; its objects differ in shape and in colour from one another."""
    seconds = float(np.exp(rng.uniform(*np.log(_SECONDS))))
    num_frames = min(int(_SECONDS[1] * FPS), max(int(_SECONDS[0] * FPS), round(seconds * FPS)))
    count = int(rng.integers(_NUM_MOMENTS[0], _NUM_MOMENTS[1] + 1))
    shapes, colors = _distinct(rng, SHAPES, count), _distinct(rng, COLORS, count)
    places = [PLACES[i] for i in rng.integers(len(PLACES), size=count)]
    looks = [draw_look(rng, *words) for words in zip(shapes, colors, places, strict=True)]
    frames = _place_moments(rng, num_frames, count)
    moments = (Moment(look, first, last) for look, (first, last) in zip(looks, frames, strict=True))
    return Timeline(num_frames, tuple(moments))
