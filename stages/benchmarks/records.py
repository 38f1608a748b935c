"""A `Question` as one row of `questions.parquet` and back: names, types and the two conversions.

Does no file work; the artifact that stores questions does. The `answer` column holds the index of
the right option (int64) or, in open-ended files, the answer's text (string).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import pyarrow as pa

from stages.benchmarks.questions import Question


def question_schema(open_ended: bool) -> pa.Schema:
    """Columns of `questions.parquet`; `answer` is text when `open_ended`, else int64."""
    spans = pa.list_(pa.list_(pa.float64()))
    return pa.schema(
        [
            pa.field("question_id", pa.string(), nullable=False),
            pa.field("video", pa.string(), nullable=False),
            pa.field("question", pa.string(), nullable=False),
            pa.field("options", pa.list_(pa.string()), nullable=False),
            pa.field("answer", pa.string() if open_ended else pa.int64()),
            pa.field("start", pa.float64()),
            pa.field("end", pa.float64()),
            pa.field("type", pa.string()),
            pa.field("spans", spans, nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("videos", pa.list_(pa.string()), nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            pa.field("clips", spans, nullable=False),
            pa.field("categories", pa.list_(pa.string()), nullable=False),
            pa.field("duration", pa.float64()),
            pa.field("saliency", pa.list_(pa.list_(pa.int8())), nullable=False),
        ]
    )


def to_record(question: Question) -> dict[str, Any]:
    """The row of `question`, as plain Python values in the schema's order."""
    return {
        "question_id": question.question_id,
        "video": question.video,
        "question": question.question,
        "options": list(question.options),
        "answer": question.truth,
        "start": question.start,
        "end": question.end,
        "type": question.type,
        "spans": [list(span) for span in question.spans],
        "split": question.split,
        "videos": list(question.videos),
        "source_row": question.source_row,
        "clips": [list(clip) for clip in question.clips],
        "categories": list(question.categories),
        "duration": question.duration,
        "saliency": [list(ratings) for ratings in question.saliency],
    }


def to_batch(questions: Sequence[Question], schema: pa.Schema) -> pa.RecordBatch:
    """The rows of many questions at once, column by column: no dictionary per row is built."""
    names = ["truth" if name == "answer" else name for name in schema.names]
    arrays = [
        pa.array(list(map(attrgetter(name), questions)), field.type)
        for name, field in zip(names, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def from_record(record: Mapping[str, Any]) -> Question:
    """The question of a row written by `to_record`; `DataError` where the row is impossible."""
    answer = record["answer"]
    return Question(
        question_id=record["question_id"],
        videos=tuple(record["videos"]),
        question=record["question"],
        options=tuple(record["options"]),
        answer=None if isinstance(answer, str) or answer is None else int(answer),
        answer_text=answer if isinstance(answer, str) else None,
        start=record["start"],
        end=record["end"],
        type=record["type"],
        spans=tuple((float(low), float(high)) for low, high in record["spans"]),
        split=record["split"],
        source_row=int(record["source_row"]),
        clips=tuple((float(low), float(high)) for low, high in record["clips"]),
        categories=tuple(record["categories"]),
        duration=record["duration"],
        saliency=tuple(tuple(ratings) for ratings in record["saliency"]),
    )
