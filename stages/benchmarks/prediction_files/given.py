"""What a prediction file says, before anything is compared with the annotations.

Reads and writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Given:
    """One record of a prediction file."""

    question_id: str
    value: Any
    """The prediction as the file has it; none: there is none."""
    place: str
    """Where it stands, such as `line 12`."""
    truth: int | str | None = None
    """The right answer according to the file."""
    type: str | None = None
    categories: tuple[str, ...] = ()
    video: str | None = None
    reason: str = ""
    """Why there is no prediction, where the file says it."""


@dataclass(frozen=True, slots=True)
class PredictionFile:
    """A prediction file in one of the known forms."""

    path: Path
    form: str
    """Name of the form."""
    given: tuple[Given, ...]
    """In the file's order; empty for a matrix."""
    matrix: NDArray[np.float64] | None = None
    """Retrieval scores [texts, videos]."""
    text_cells: bool = False
    """From a table of text, where `3` may well be a number."""
    videos: tuple[str, ...] = ()
    """What the scores of every record are about, in our own rankings; there a record's `video` is
    the right one."""

    @property
    def has_truth(self) -> bool:
        """Whether the file says which answers are right."""
        return bool(self.videos) or any(item.truth is not None for item in self.given)
