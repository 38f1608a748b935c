"""Frames inside the spans that any moment-retrieval model predicted, read from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.benchmarks.annotation_files import container_of, records
from stages.benchmarks.questions import Question
from stages.core.errors import DataError
from stages.systems.face import Selection
from stages.systems.seen import SeenFrames

Windows = tuple[tuple[float, float], ...]
IDS = ("question_id", "qid")
WINDOWS = ("pred_relevant_windows", "windows", "spans")


class PredictedSpans:
    """K frames spread over the best window, filled up from the next windows, then the nearest.

    Args:
        windows: Per question id, windows in seconds, the best first.
    """

    rule = "spans"

    def __init__(self, windows: dict[str, Windows]) -> None:
        self.windows = windows

    def problem(self, question: Question) -> str:
        """See `Selector`."""
        return "" if self.windows.get(question.question_id) else "the spans file has no span for it"

    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`."""
        rows = [
            _frames_of(self.windows[item.question_id], times, keep)
            for item, times in zip(seen.questions, seen.times, strict=True)
        ]
        return Selection(torch.from_numpy(np.stack(rows)))


def _frames_of(windows: Windows, times: np.ndarray, keep: int) -> np.ndarray:
    """Positions [K] of the frames at `times` [T], ascending."""
    kept: list[int] = []
    for low, high in windows:
        within = np.flatnonzero((times >= low) & (times <= high)).tolist()
        inside = [place for place in within if place not in kept]
        kept += _spread(inside, keep - len(kept))
    low, high = windows[0]
    distance = np.maximum(np.maximum(low - times, times - high), 0.0)
    order = np.argsort(distance, kind="stable").tolist()
    nearest = [place for place in order if place not in kept]
    return np.sort(np.array((kept + nearest)[:keep], dtype=np.int64))


def _spread(positions: Sequence[int], count: int) -> list[int]:
    """At most `count` of `positions`, evenly spread."""
    if len(positions) <= count:
        return list(positions)
    places = [math.floor((k + 0.5) * len(positions) / count) for k in range(count)]
    return [positions[place] for place in places]


def read_spans(path: Path) -> dict[str, Windows]:
    """Windows of a JSONL or JSON list: `qid` or `question_id`, `pred_relevant_windows`.

    Moment-DETR's prediction files are read as they are; windows are taken in the file's order, or
    by score where they have one.

    Raises:
        DataError: A row without an id or with something else than windows; names file and row.
    """
    found: dict[str, Windows] = {}
    for row, record in records(path, container_of(path)):
        if isinstance(record, str):
            raise DataError(f"{path}: row {row}: {record}")
        name = next((str(record[key]) for key in IDS if key in record), None)
        given = next((record[key] for key in WINDOWS if key in record), None)
        if name is None or not isinstance(given, list):
            raise DataError(
                f"{path}: row {row} has the fields {', '.join(map(str, record))}",
                "needed: qid or question_id, and pred_relevant_windows [[start, end, score], ...]",
            )
        found[name] = tuple(_ordered([_window(item, path, row) for item in given]))
    return found


def _window(item: Any, path: Path, row: int) -> tuple[float, ...]:
    if isinstance(item, list) and len(item) in (2, 3):
        numbers = tuple(float(x) for x in item if isinstance(x, int | float))
        if len(numbers) == len(item) and all(map(math.isfinite, numbers)):
            return numbers
    raise DataError(f"{path}: row {row}: {item!r} is not [start, end] or [start, end, score]")


def _ordered(windows: Sequence[tuple[float, ...]]) -> list[tuple[float, float]]:
    if windows and all(len(window) == 3 for window in windows):
        windows = sorted(windows, key=lambda window: -window[2])
    return [(window[0], window[1]) for window in windows]
