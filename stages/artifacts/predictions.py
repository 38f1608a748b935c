"""The predictions artifact: one row a question, always as many rows as questions.

    predictions-00000.parquet   shards, questions about one clip together
    predictions.parquet         all of them, in the questions' order
    metrics.json                the benchmark's metrics

Columns: question_id, prediction, answer, correct (null when unlabelled), scores (per option),
frames (indices within the video), times (seconds), frame_scores (per frame seen), frame_rule (how
the frames were chosen: `prompter`; `localizer`; `stored`, the K that extraction sampled;
`midpoint`, the middle ones of the T; `sampler`, VideoDistill's slots in their order, where a frame
may come twice; `all`, `random`, `oracle`; null when failed), tied (whether
the choice hung on the rule for equal scores; null where there are none), by_frame (what each kept
frame alone says, where they vote), status (`ok`, `failed`, `unlabelled`), reason. `prediction` and
`answer` are indices (int64), or text in open-ended benchmarks.

Retrieval has `videos.json` besides, the names of the videos: `scores` are one per video in that
order, `prediction` and `answer` names, and `tied` whether another video scores like the right one.

Moment retrieval has these columns besides: windows ([start, end, score] in seconds, best first),
saliency (a score per 2 s clip), frame_margins (logit of `yes` minus logit of `no` per frame),
value (the question's share of the headline figure in percent; null unless scored). `frames` and
`times` are then all frames seen, and `prediction`, `answer` and `correct` are null. The shards hold
what the frames say; windows, saliency and value are in `predictions.parquet` alone.
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
VIDEOS_FILE = "videos.json"
"""Of retrieval alone: what each place in `scores` is."""
STEM = "predictions"


MOMENT_COLUMNS = [
    ("windows", pa.list_(pa.list_(pa.float64()))),
    ("saliency", pa.list_(pa.float64())),
    ("frame_margins", pa.list_(pa.float64())),
    ("value", pa.float64()),
]


def predictions_schema(open_ended: bool, *, moments: bool = False) -> pa.Schema:
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
            ("tied", pa.bool_()),
            ("by_frame", pa.list_(answer)),
            ("status", pa.string()),
            ("reason", pa.string()),
            *(MOMENT_COLUMNS if moments else []),
        ]
    )


def encode_predictions(
    records: Sequence[dict[str, Any]], open_ended: bool, *, moments: bool = False
) -> memoryview:
    """The Parquet bytes of prediction records."""
    buffer = io.BytesIO()
    schema = predictions_schema(open_ended, moments=moments)
    table = pa.Table.from_pylist(list(records), schema=schema)
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getbuffer()


def prediction_records(artifact: Artifact) -> list[dict[str, Any]]:
    """Every row of a finished predictions artifact."""
    return list(read_table(artifact.path / PREDICTIONS_TABLE).to_pylist())
