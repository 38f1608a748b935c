"""Predictions in the files that benchmarks' own scorers and servers read.

Reads and writes nothing: a function per benchmark turns questions and predictions into the JSON
value of the official file. A question that failed keeps its place with `null`, which every scorer
counts as wrong; it is never left out and never guessed. Formats: `specs/benchmarks.md` 1 to 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.benchmarks.questions import Question
from stages.core.errors import UsageError

Predicted = int | str | None


def nextqa_file(questions: Sequence[Question], predictions: Sequence[Predicted]) -> Any:
    """`{"<video>_<qid>": {"prediction": index, "answer": index}}`, as eval_mc.py reads it."""
    return {
        question.question_id: {"prediction": predicted, "answer": question.answer}
        for question, predicted in zip(questions, predictions, strict=True)
    }


def star_file(questions: Sequence[Question], predictions: Sequence[Predicted]) -> Any:
    """`{"Interaction": [{"question_id": id, "answer": index}], ...}`: the server's four types."""
    types = ("Interaction", "Sequence", "Prediction", "Feasibility")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in types}
    for question, predicted in zip(questions, predictions, strict=True):
        name = question.type or question.question_id.split("_")[0]
        rows[name].append({"question_id": question.question_id, "answer": predicted})
    return rows


def open_ended_file(questions: Sequence[Question], predictions: Sequence[Predicted]) -> Any:
    """`[{"question_id": id, "answer": text}]` in the annotation's order.

    MSRVTT-QA has no server and no prescribed file; this is the layout of its annotations.
    """
    return [
        {"question_id": question.question_id, "answer": predicted}
        for question, predicted in zip(questions, predictions, strict=True)
    ]


OFFICIAL: Mapping[str, Callable[[Sequence[Question], Sequence[Predicted]], Any]] = {
    "nextqa": nextqa_file,
    "star": star_file,
    "msrvtt-qa": open_ended_file,
}
"""Benchmark to the writer of its official file."""


def require_official(benchmark: str) -> None:
    """Raise `UsageError` where `benchmark` has no official file."""
    if benchmark not in OFFICIAL:
        raise UsageError(
            f"{benchmark} has no official prediction file",
            f"known: {', '.join(OFFICIAL)}; predictions.parquet of the artifact holds every row",
        )
