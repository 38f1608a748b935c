"""The frames that a system may look at, read only when and as far as it looks.

A row is a question and the frames of its clip. Systems that look anew for each candidate answer
have a row for each: then a question comes several times, one row after the other.

Axes: B rows (questions), T frames seen, K frames kept, N tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.clips import ClipRows
from stages.artifacts.rows import Array
from stages.benchmarks.questions import Question
from stages.models.pooled import pool_tokens

Replace = Callable[[Question, int, Array], Array]
"""Puts something else in the place of the features [T, N, C] or frame CLS [T, C] of a question's
clip of that number (blind evaluation)."""


@dataclass(frozen=True)
class Candidate:
    """One possible answer that is looked at by itself.

    Attributes:
        place: Number of the clip among the question's candidate clips; 0 where there is one.
        text: What is asked of it; empty where the question itself is.
    """

    place: int = 0
    text: str = ""


ONE = (Candidate(),)
"""A question that is looked at once."""


class FeatureRows(Protocol):
    """Stored frames by row number."""

    @property
    def tokens(self) -> int: ...

    @property
    def width(self) -> int: ...

    def read(self, rows: Array) -> Array:
        """Features [len(rows), N, C]."""
        ...

    def read_cls(self, rows: Array) -> Array:
        """Frame CLS [len(rows), C'], where it is stored apart from the tokens."""
        ...

    def read_pooled(self, rows: Array) -> Array | None:
        """The pooled tier [len(rows), 2, C]; none: it is not stored."""
        ...


class SeenFrames:
    """T frames of each of B rows.

    Attributes:
        questions: The question of each row.
        candidates: What of it each row is about.
        frames: int [B, T], frame indices within the video.
        times: float64 [B, T], presentation times in seconds.

    Args:
        reader: Where the features are.
        questions: The question of each row.
        clips: Their frames.
        device: Where features go.
        replace: What is put in the place of the features (blind evaluation).
        shared: Whether other questions are about the same clip.
        candidates: What of its question each row is about; none: each is a question's only one.
    """

    def __init__(
        self,
        reader: FeatureRows,
        questions: Sequence[Question],
        clips: Sequence[ClipRows],
        device: torch.device,
        replace: Replace | None = None,
        shared: Sequence[bool] | None = None,
        candidates: Sequence[Candidate] | None = None,
    ) -> None:
        self.questions, self.device = list(questions), device
        self.candidates = list(candidates or ONE * len(clips))
        self.frames = np.stack([clip.frames for clip in clips])
        self.times = np.stack([clip.times for clip in clips])
        self._rows = np.stack([clip.rows for clip in clips])
        self._reader, self._replace = reader, replace
        self._shared = shared or [False] * len(clips)
        self._features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def num_frames(self) -> int:
        """T."""
        return int(self._rows.shape[1])

    def part(self, rows: Sequence[int]) -> SeenFrames:
        """Some of the rows, in the order given; nothing is read."""
        clips = [ClipRows(self._rows[row], self.frames[row], self.times[row]) for row in rows]
        return SeenFrames(
            self._reader,
            [self.questions[row] for row in rows],
            clips,
            self.device,
            self._replace,
            [self._shared[row] for row in rows],
            [self.candidates[row] for row in rows],
        )

    def clip_keys(self) -> list[bytes] | None:
        """What tells clips apart whose features are the same; none where they are replaced."""
        return None if self._replace else [row.tobytes() for row in self._rows]

    def shared_key(self, row: int) -> bytes | None:
        """The clip of one question where others are about it too; none: nothing to gain."""
        alone = self._replace is not None or not self._shared[row]
        return None if alone else self._rows[row].tobytes()

    def features(self) -> Tensor:
        """All features [B, T, N, C], before the tower's last LayerNorm, float32."""
        if self._features is None:
            self._features = self._to_device(self._read(self._rows))
        return self._features

    def clip(self, row: int) -> Tensor:
        """Features [T, N, C] of one question."""
        if self._features is not None:
            return self._features[row]
        return self._to_device(self._read(self._rows[row : row + 1], first=row))[0]

    def cls(self) -> Tensor:
        """Frame CLS of all frames [B, T, C'], float32; no token is read."""
        values = self._reader.read_cls(self._rows.reshape(-1))
        return self._to_device(self._replaced(values.reshape(*self._rows.shape, -1), 0))

    def pooled(self) -> Tensor:
        """The pooled tier of all frames [B, T, 2, C]; no token is read where it is stored."""
        stored = None
        if self._features is None and self._replace is None:
            stored = self._reader.read_pooled(self._rows.reshape(-1))
        if stored is None:
            return pool_tokens(self.features()).float()
        return self._to_device(stored.reshape(*self._rows.shape, *stored.shape[1:]))

    def kept_row(self, row: int, chosen: Tensor) -> Tensor:
        """Features [K, N, C] of the frames `chosen` [K] of one question."""
        if self._features is None and self._replace is None:
            values = self._read(self._rows[row : row + 1, chosen.numpy()], first=row)
            return self._to_device(values)[0]
        return self.clip(row)[chosen.to(self.device)]

    def kept(self, indices: Tensor) -> Tensor:
        """Features [B, K, N, C] of the frames `indices` [B, K]; only those are read if need be."""
        if self._features is None and self._replace is None:
            wanted = np.take_along_axis(self._rows, indices.cpu().numpy(), 1)
            # A frame may be wanted by several rows, and twice by one: it is read once.
            once, places = np.unique(wanted, return_inverse=True)
            return self._to_device(self._read(once[None])[0])[
                torch.from_numpy(places.reshape(wanted.shape)).to(self.device)
            ]
        rows = torch.arange(len(self), device=self.device)[:, None]
        return self.features()[rows, indices.to(self.device)]

    def _read(self, rows: Array, first: int = 0) -> Array:
        reader = self._reader
        values = reader.read(rows.reshape(-1)).reshape(*rows.shape, reader.tokens, reader.width)
        return self._replaced(np.asarray(values), first)

    def _replaced(self, values: Array, first: int) -> Array:
        """What is seen in the place of `values`, the rows from number `first` on."""
        if self._replace is None:
            return values
        asked = zip(self.questions[first:], self.candidates[first:], values, strict=False)
        return np.stack([self._replace(q, of.place, seen) for q, of, seen in asked])

    def _to_device(self, values: Array) -> Tensor:
        return torch.from_numpy(values).to(self.device).float()
