"""The questions artifact: what is asked, of which video, and what each video is.

    questions.parquet   one row a question (columns: docs/artifacts.md)
    videos.parquet      one row a video: where it was found, what it holds, or why not
    failures.parquet    bad annotation rows and unusable videos
    videos/             the files themselves, only where `vqa` generated them

Folders given by the user are kept in the manifest's `host` part, never in the tables.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts import atomic
from stages.artifacts.clips import FAILURES_SCHEMA, FAILURES_TABLE, Failure, read_table, write_table
from stages.artifacts.store import Artifact
from stages.core.errors import MissingInput

QUESTIONS_TABLE = "questions.parquet"
VIDEOS_TABLE = "videos.parquet"
GENERATED_VIDEOS = "videos"

VIDEOS_SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("root", pa.int32()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("digest", pa.string()),
        ("num_frames", pa.int32()),
        ("duration", pa.float64()),
        ("average_fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("codec", pa.string()),
    ]
)
"""`status` is `found`, `missing`, `undecodable` or `refused`."""

ROWS_PER_GROUP = 65536


def write_questions(path: Path, schema: pa.Schema, records: Iterable[dict[str, Any]]) -> int:
    """Stream question records into `questions.parquet`; returns how many."""
    buffer, total, batch = io.BytesIO(), 0, []
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for record in records:
            batch.append(record)
            if len(batch) == ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                total, batch = total + len(batch), []
        writer.write_table(pa.Table.from_pylist(batch, schema=schema))
        total += len(batch)
    atomic.write_bytes(path, buffer.getbuffer())
    return total


def write_videos(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `videos.parquet`."""
    write_table(path, pa.Table.from_pylist(list(records), schema=VIDEOS_SCHEMA))


def write_failures(directory: Path, failures: Sequence[Failure]) -> None:
    """Write `failures.parquet` into `directory`."""
    rows = [failure.as_json() for failure in failures]
    write_table(directory / FAILURES_TABLE, pa.Table.from_pylist(rows, schema=FAILURES_SCHEMA))


def question_records(artifact: Artifact) -> list[dict[str, Any]]:
    """Every row of `questions.parquet`."""
    return list(read_table(artifact.path / QUESTIONS_TABLE).to_pylist())


def video_records(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """Video name to its row of `videos.parquet`."""
    table = read_table(artifact.path / VIDEOS_TABLE)
    return {record["video"]: record for record in table.to_pylist()}


def video_roots(artifact: Artifact) -> list[Path]:
    """The folders that the videos were found in.

    Raises:
        MissingInput: A folder is no longer there.
    """
    if artifact.config["benchmark"] == "shapes":
        return [artifact.path / GENERATED_VIDEOS]
    roots = [Path(root) for root in artifact.manifest["host"]["video_roots"]]
    for root in roots:
        if not root.is_dir():
            raise MissingInput(
                f"video folder {root} of {artifact.id} is gone",
                "run `vqa prepare` again with the new --videos folder (same questions, same id)",
            )
    return roots
