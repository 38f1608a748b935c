"""The index shared by frames and features: which rows show which clip.

A *video* is a file; a *clip* is the part of it that a question is about (video, start, end). Rows
are stored once per (video, frame index) and clips point at them; rows of a random view are cropped
per clip, so the features of views belong to one clip alone. Two Parquet tables:

    rows.parquet   row, shard, offset, video, frame, time, clip (-1 = any clip of the video), view
    clips.parquet  clip, video, start, end, frames, view, rows (one per frame), repeated
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.artifacts import atomic
from stages.artifacts.rows import Array, RowReader
from stages.artifacts.store import Artifact
from stages.core.errors import DataError

ROWS_TABLE = "rows.parquet"
CLIPS_TABLE = "clips.parquet"
FAILURES_TABLE = "failures.parquet"

ANY_CLIP = -1

ROWS_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("video", pa.string()),
        ("frame", pa.int32()),
        ("time", pa.float64()),
        ("clip", pa.int32()),
        ("view", pa.int32()),
    ]
)
CLIPS_SCHEMA = pa.schema(
    [
        ("clip", pa.int32()),
        ("video", pa.string()),
        ("start", pa.float64()),
        ("end", pa.float64()),
        ("frames", pa.int32()),
        ("view", pa.int32()),
        ("rows", pa.list_(pa.int64())),
        ("repeated", pa.int32()),
    ]
)
FAILURES_SCHEMA = pa.schema(
    [("id", pa.string()), ("stage", pa.string()), ("reason", pa.string()), ("words", pa.string())]
)

ClipKey = tuple[str, float | None, float | None]
"""(video, start, end): what a clip is."""


@dataclass(frozen=True)
class ClipSpan:
    """A clip and its number within the questions artifact."""

    clip: int
    video: str
    start: float | None
    end: float | None

    @property
    def key(self) -> ClipKey:
        """What the clip is, whatever its number."""
        return (self.video, self.start, self.end)

    @property
    def id(self) -> str:
        """How failures name it."""
        if self.start is None and self.end is None:
            return self.video
        return f"{self.video}@{self.start}-{self.end}"


@dataclass(frozen=True)
class StoredRow:
    """One row of a shard, before its global number is known."""

    video: str
    frame: int
    time: float
    clip: int
    view: int


@dataclass(frozen=True)
class StoredClip:
    """One sampling of one clip; `rows` are positions within the shard."""

    span: ClipSpan
    frames: int
    view: int
    rows: list[int]
    repeated: int


@dataclass(frozen=True)
class Failure:
    """One thing that could not be done, for `failures.parquet`."""

    id: str
    stage: str
    reason: str
    words: str = ""

    def as_json(self) -> dict[str, str]:
        """As in a sidecar."""
        return {"id": self.id, "stage": self.stage, "reason": self.reason, "words": self.words}


def shard_record(
    rows: Sequence[StoredRow],
    clips: Sequence[StoredClip],
    failures: Sequence[Failure],
    offsets: Sequence[int],
    counts: dict[str, int],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The sidecar of a shard of frames or features."""
    return {
        "rows": {
            "video": [row.video for row in rows],
            "frame": [row.frame for row in rows],
            "time": [row.time for row in rows],
            "clip": [row.clip for row in rows],
            "view": [row.view for row in rows],
            "offset": list(offsets),
        },
        "clips": [
            {
                "clip": clip.span.clip,
                "video": clip.span.video,
                "start": clip.span.start,
                "end": clip.span.end,
                "frames": clip.frames,
                "view": clip.view,
                "rows": clip.rows,
                "repeated": clip.repeated,
            }
            for clip in clips
        ],
        "failures": [failure.as_json() for failure in failures],
        "counts": counts,
        "facts": facts,
    }


def merge_records(records: Iterable[dict[str, Any]], directory: Path) -> dict[str, int]:
    """Write the index tables of all shards; returns the summed counts."""
    rows: dict[str, list[Any]] = {name: [] for name in ROWS_SCHEMA.names}
    clips: dict[str, list[Any]] = {name: [] for name in CLIPS_SCHEMA.names}
    failures: list[dict[str, str]] = []
    counts: dict[str, int] = {}
    for shard, record in enumerate(records):
        base, part = len(rows["row"]), record["rows"]
        size = len(part["frame"])
        rows["row"] += range(base, base + size)
        rows["shard"] += [shard] * size
        for name in ("offset", "video", "frame", "time", "clip", "view"):
            rows[name] += part[name]
        for clip in record["clips"]:
            for name in CLIPS_SCHEMA.names:
                clips[name].append(
                    [base + row for row in clip["rows"]] if name == "rows" else clip[name]
                )
        failures += record["failures"]
        for name, value in record["counts"].items():
            counts[name] = counts.get(name, 0) + value
    write_table(directory / ROWS_TABLE, pa.table(rows, schema=ROWS_SCHEMA))
    write_table(directory / CLIPS_TABLE, pa.table(clips, schema=CLIPS_SCHEMA))
    write_table(directory / FAILURES_TABLE, pa.Table.from_pylist(failures, schema=FAILURES_SCHEMA))
    return counts


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet table atomically; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    atomic.write_bytes(path, buffer.getbuffer())


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet table of an artifact, or say which file is damaged."""
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DataError(f"{path} {why}", "vqa artifacts verify --repair") from None


@dataclass(frozen=True)
class ClipRows:
    """One sampling of a clip as its readers see it.

    Attributes:
        rows: Row numbers, one per frame, in time order; short clips repeat some.
        frames: Frame indices within the video.
        times: Presentation times in seconds.
    """

    rows: Array
    frames: Array
    times: Array


def read_index(path: Path, schema: pa.Schema) -> pa.Table:
    """Read an index table that has exactly the columns of `schema`."""
    table = read_table(path)
    try:
        return table.cast(schema)
    except ValueError as error:
        raise DataError(
            f"{path} does not have the columns of an index ({error})",
            "vqa artifacts verify --repair",
        ) from None


def _check_range(artifact: Artifact, table: str, column: str, values: Any, end: int) -> None:
    """Refuse an index whose `values` are not all in 0 .. end - 1."""
    if values.null_count or (len(values) and not _within(values, end)):
        raise DataError(
            f"{artifact.path / table}: {column} points to what is not there",
            "vqa artifacts verify --repair",
        )


def _within(values: Any, end: int) -> bool:
    bounds = pc.min_max(values).as_py()
    return bool(bounds["min"] >= 0 and bounds["max"] < end)


class ClipIndex:
    """A finished frames or features artifact, opened for random reads.

    Args:
        artifact: The artifact.
        stem: Start of the shards' file names.
        shape: Shape of one row.
        dtype: Stored dtype of one row.
    """

    def __init__(
        self, artifact: Artifact, stem: str, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.artifact = artifact
        num_shards = int(artifact.manifest["shards"])
        rows = read_index(artifact.path / ROWS_TABLE, ROWS_SCHEMA)
        _check_range(artifact, ROWS_TABLE, "shard", rows["shard"], num_shards)
        self.frames = rows["frame"].to_numpy()
        self.times = rows["time"].to_numpy()
        self.videos = rows["video"]
        files = [artifact.path / f"{stem}-{shard:05d}.h5" for shard in range(num_shards)]
        self.reader = RowReader(
            files, rows["shard"].to_numpy(), rows["offset"].to_numpy(), shape, dtype
        )
        self._clips = self._read_clips()

    def _read_clips(self) -> dict[tuple[ClipKey, int, int], list[int]]:
        table = read_index(self.artifact.path / CLIPS_TABLE, CLIPS_SCHEMA)
        numbers = pc.list_flatten(table["rows"])
        _check_range(self.artifact, CLIPS_TABLE, "rows", numbers, len(self.frames))
        return {
            ((c["video"], c["start"], c["end"]), c["frames"], c["view"]): c["rows"]
            for c in table.to_pylist()
        }

    def has(self, key: ClipKey, frames: int, view: int = 0) -> bool:
        """Whether this sampling of the clip is stored."""
        return (key, frames, view) in self._clips

    def clip(self, key: ClipKey, frames: int, view: int = 0) -> ClipRows:
        """One sampling of a clip.

        Raises:
            KeyError: It is not stored (the clip failed, or was never asked for).
        """
        rows = np.asarray(self._clips[(key, frames, view)], dtype=np.int64)
        return ClipRows(rows, self.frames[rows], self.times[rows])

    def samplings(self) -> set[tuple[int, int]]:
        """Every stored (frames, view)."""
        return {(frames, view) for _, frames, view in self._clips}
