"""What was right and what was wrong, question by question, for scored files and evaluations alike.

    scored.parquet   one row a question of a metrics artifact (`vqa score`)

A predictions artifact (`vqa eval`) keeps no video or type per row; they are joined from the
questions it was made from. Columns: `SCORED_SCHEMA`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from stages.artifacts.clips import read_table, write_table
from stages.artifacts.predictions import prediction_records
from stages.artifacts.questions import question_records
from stages.artifacts.store import Artifact, Draft, Workspace

SCORED_TABLE = "scored.parquet"

SCORED_SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("video", pa.string()),
        pa.field("type", pa.string()),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("prediction", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("correct", pa.bool_()),
        pa.field("value", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""`prediction` and `answer` are text or an index in decimal; `correct` is null where right and
wrong are not the measure or the question is not labelled; `value` is the question's share of the
headline figure in percent, null unless `status` is `ok`; `video` is null where the scored file
does not say it."""


def write_scored(draft: Draft, records: Sequence[dict[str, Any]]) -> None:
    """Write `scored.parquet` into the draft of a metrics artifact."""
    table = pa.Table.from_pylist(list(records), schema=SCORED_SCHEMA)
    write_table(draft.path / SCORED_TABLE, table)


def scored_records(workspace: Workspace, artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of a metrics or a predictions artifact under the names of `SCORED_SCHEMA`.

    Raises:
        MissingInput: The questions of a predictions artifact are gone.
    """
    if artifact.kind == "metrics":
        return list(read_table(artifact.path / SCORED_TABLE).to_pylist())
    asked = next(item for item in artifact.manifest["inputs"] if item["role"] == "questions")
    questions = workspace.open(workspace.root / "questions" / str(asked["id"]))
    return [
        _joined(question, row)
        for question, row in zip(
            question_records(questions), prediction_records(artifact), strict=True
        )
    ]


def _joined(question: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    judged = row["correct"] is not None and row["status"] == "ok"
    value = 100.0 * row["correct"] if judged else row.get("value")
    prediction = row["prediction"] if row.get("windows") is None else json.dumps(row["windows"])
    return {
        "question_id": row["question_id"],
        "video": question["video"],
        "type": question["type"],
        "categories": question["categories"],
        "prediction": None if prediction is None else str(prediction),
        "answer": None if row["answer"] is None else str(row["answer"]),
        "correct": row["correct"],
        "value": value,
        "status": row["status"],
        "reason": row["reason"],
    }
