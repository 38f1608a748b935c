"""The predictions artifact: one row a question, always as many rows as questions.

    predictions-00000.parquet   shards, in the questions' order
    predictions.parquet         all of them
    metrics.json                the benchmark's metrics

Columns: question_id, prediction, answer, correct (null when unlabelled), scores (per option),
frames (indices within the video), times (seconds), frame_scores (per frame seen), frame_rule (how
the frames were chosen: `prompter`; `stored`, the K that extraction sampled; `midpoint`, the middle
ones of the T; `all`, `random`, `oracle`; null when failed), status (`ok`, `failed`, `unlabelled`),
reason. `prediction` and `answer` are indices (int64), or text in open-ended benchmarks.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts.clips import read_table
from stages.artifacts.store import Artifact

PREDICTIONS_TABLE = "predictions.parquet"
METRICS_FILE = "metrics.json"
STEM = "predictions"


def predictions_schema(open_ended: bool) -> pa.Schema:
    """Columns of `predictions.parquet`."""
    answer = pa.string() if open_ended else pa.int64()
    return pa.schema(
        [
            ("question_id", pa.string()),
            ("prediction", answer),
            ("answer", answer),
            ("correct", pa.bool_()),
            ("scores", pa.list_(pa.float64())),
            ("frames", pa.list_(pa.int64())),
            ("times", pa.list_(pa.float64())),
            ("frame_scores", pa.list_(pa.float64())),
            ("frame_rule", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
        ]
    )


def encode_predictions(records: Sequence[dict[str, Any]], open_ended: bool) -> memoryview:
    """The Parquet bytes of prediction records."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(list(records), schema=predictions_schema(open_ended))
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getbuffer()


def prediction_records(artifact: Artifact) -> list[dict[str, Any]]:
    """Every row of a finished predictions artifact."""
    return list(read_table(artifact.path / PREDICTIONS_TABLE).to_pylist())
