"""The pseudo-labels artifact: per question and frame, whether the frame alone gives the answer.

    pseudo-labels-00000.parquet   shards, questions about one clip together

One row per question and frame seen; a question that failed has one row without a frame. Columns:
question_id, frame (index within the video), position (among the T frames seen), time (seconds),
label, predicted (index of an option), score (probability of the right option), status (`ok`,
`failed`), reason.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts.clips import read_table
from stages.artifacts.rows import Array
from stages.artifacts.store import Artifact
from stages.core.errors import DataError

STEM = "pseudo-labels"

PSEUDO_LABELS_SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        ("frame", pa.int64()),
        ("position", pa.int32()),
        ("time", pa.float64()),
        ("label", pa.bool_()),
        ("predicted", pa.int64()),
        ("score", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class FrameLabels:
    """What is known of one question's T frames, in time order.

    Attributes:
        frames: int64 [T], indices within the video.
        labels: bool [T], whether the frame alone leads to the right answer.
        scores: float64 [T], probability of the right option.
    """

    frames: Array
    labels: Array
    scores: Array


def encode_pseudo_labels(records: Sequence[dict[str, Any]]) -> memoryview:
    """The Parquet bytes of a shard."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(list(records), schema=PSEUDO_LABELS_SCHEMA)
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getbuffer()


def pseudo_label_records(artifact: Artifact) -> list[dict[str, Any]]:
    """Every row, shard by shard."""
    return list(_table(artifact).to_pylist())


def read_pseudo_labels(artifact: Artifact) -> dict[str, FrameLabels]:
    """The labels of every question that did not fail, by question id.

    Raises:
        DataError: The rows of a question are not its frames in time order.
    """
    table = _table(artifact)
    table = table.filter(np.asarray(table["status"].to_numpy(zero_copy_only=False) == "ok"))
    names = table["question_id"].to_pylist()
    columns = {name: table[name].to_numpy() for name in ("frame", "position", "label", "score")}
    starts = np.flatnonzero(columns["position"] == 0).tolist()
    found = {}
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        part = {name: values[start:end] for name, values in columns.items()}
        same = len(set(names[start:end])) == 1
        if not same or part["position"].tolist() != list(range(end - start)):
            raise DataError(
                f"{artifact.path}: the rows of question {names[start]} are not its frames",
                "vqa artifacts verify --repair",
            )
        found[names[start]] = FrameLabels(part["frame"], part["label"], part["score"])
    return found


def _table(artifact: Artifact) -> pa.Table:
    shards = range(int(artifact.manifest["shards"]))
    files = [artifact.path / f"{STEM}-{shard:05d}.parquet" for shard in shards]
    return pa.concat_tables([read_table(file).cast(PSEUDO_LABELS_SCHEMA) for file in files])
