"""How far an unfinished artifact is, from what lies on disk: locks, sidecars and their times.

Reads: the draft's folder and its locks. Writes nothing and asks no process; a run on another
machine that shares the disk is seen as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts.locks import is_locked

TRAINING_LOG = "metrics.jsonl"
LOG_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Pace:
    """How fast a run is.

    Attributes:
        rate: Items per second since the run began, from its finished shards; none: too early.
        eta_seconds: Seconds until the last item, if it goes on like that; none: not known.
    """

    rate: float | None = None
    eta_seconds: float | None = None


def locked_shards(folder: Path, artifact_id: str) -> int:
    """How many shards are being built now.

    Args:
        folder: The kind's folder of locks.
        artifact_id: Directory name of the artifact.
    """
    return sum(is_locked(lock) for lock in folder.glob(f"{artifact_id}.shard-*.lock"))


def pace(sidecars: Sequence[Path], outlook: Path, total: int, now: float | None = None) -> Pace:
    """Rate and time left of a run that writes shards.

    Only shards that were finished since the run began count: an earlier run's are no measure.

    Args:
        sidecars: Of the finished shards.
        outlook: The file in which a run notes, when it begins, what is to come.
        total: Items in all.
        now: Seconds since the epoch; none: the clock's.
    """
    began = _modified(outlook)
    if began is None:
        return Pace()
    finished = [(when, _items(path)) for path in sidecars if (when := _modified(path)) is not None]
    own = [(when, items) for when, items in finished if when >= began]
    seconds = max((when for when, _ in own), default=began) - began
    done = sum(items for _, items in own)
    if done == 0 or seconds <= 0:
        return Pace()
    rate = done / seconds
    left = total - sum(items for _, items in finished)
    passed = (time.time() if now is None else now) - (began + seconds)
    return Pace(rate, max(left / rate - max(passed, 0.0), 0.0))


def training_position(folder: Path) -> dict[str, Any] | None:
    """Epoch, forward passes and loss that a training last logged; None where there is no log."""
    try:
        with (folder / TRAINING_LOG).open("rb") as file:
            file.seek(max(file.seek(0, 2) - LOG_TAIL_BYTES, 0))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        record = _record(line)
        if "pass" in record:
            return {name: record.get(name) for name in ("epoch", "pass", "loss", "seconds")}
    return None


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`; files that are renamed meanwhile do not count."""
    return sum(_size(item) for item in folder.rglob("*"))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is none yet."""
    try:
        return _record(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return {}


def _record(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _items(sidecar: Path) -> int:
    counts = read_json(sidecar).get("counts", {})
    return int(counts.get("done", 0)) + int(counts.get("failed", 0))


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
