"""The frames that a system may look at, read only when and as far as it looks.

Axes: B questions, T frames seen, K frames kept, N tokens, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.clips import ClipRows
from stages.artifacts.rows import Array
from stages.benchmarks.questions import Question

Replace = Callable[[Question, Array], Array]
"""Puts something else in the place of a question's features [T, N, C] (blind evaluation)."""


class FeatureRows(Protocol):
    """Stored frames by row number."""

    @property
    def tokens(self) -> int: ...

    @property
    def width(self) -> int: ...

    def read(self, rows: Array) -> Array:
        """Features [len(rows), N, C]."""
        ...


class SeenFrames:
    """T frames of each of B questions.

    Attributes:
        questions: The B questions.
        frames: int [B, T], frame indices within the video.
        times: float64 [B, T], presentation times in seconds.
    """

    def __init__(
        self,
        reader: FeatureRows,
        questions: Sequence[Question],
        clips: Sequence[ClipRows],
        device: torch.device,
        replace: Replace | None = None,
    ) -> None:
        self.questions, self.device = list(questions), device
        self.frames = np.stack([clip.frames for clip in clips])
        self.times = np.stack([clip.times for clip in clips])
        self._rows = np.stack([clip.rows for clip in clips])
        self._reader, self._replace = reader, replace
        self._features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def num_frames(self) -> int:
        """T."""
        return int(self._rows.shape[1])

    def clip_keys(self) -> list[bytes] | None:
        """What tells clips apart whose features are the same; none where they are replaced."""
        return None if self._replace else [row.tobytes() for row in self._rows]

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

    def kept(self, indices: Tensor) -> Tensor:
        """Features [B, K, N, C] of the frames `indices` [B, K]; only those are read if need be."""
        if self._features is None and self._replace is None:
            return self._to_device(
                self._read(np.take_along_axis(self._rows, indices.cpu().numpy(), 1))
            )
        rows = torch.arange(len(self), device=self.device)[:, None]
        return self.features()[rows, indices.to(self.device)]

    def _read(self, rows: Array, first: int = 0) -> Array:
        reader = self._reader
        values = reader.read(rows.reshape(-1)).reshape(*rows.shape, reader.tokens, reader.width)
        if self._replace is None:
            return np.asarray(values)
        asked = self.questions[first : first + len(rows)]
        return np.stack([self._replace(q, seen) for q, seen in zip(asked, values, strict=True)])

    def _to_device(self, values: Array) -> Tensor:
        return torch.from_numpy(values).to(self.device).float()
