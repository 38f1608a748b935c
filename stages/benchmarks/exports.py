"""Predictions in the files that benchmarks' own scorers and servers read.

A function per benchmark turns questions and predictions into the JSON value of the official file;
`write_official` writes it, as one value or as lines. A question that failed keeps its place with
`null`, which every scorer counts as wrong or refuses; it is never left out and never guessed.
`vqa score` reads all of these files back. Formats: `specs/benchmarks.md` 1 to 12.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.artifacts import atomic
from stages.benchmarks.layouts.videos_to_choose import EGOMCQ_TYPES
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.moments import Moments
from stages.benchmarks.scorers.rows import truth_of
from stages.core.errors import UsageError

Predicted = int | str | Moments | Sequence[str] | None
"""An index, a text, windows, or videos from the best one down."""
Questions = Sequence[Question]
Predictions = Sequence[Predicted]


def _pairs(questions: Questions, predictions: Predictions) -> list[tuple[Question, Any]]:
    return list(zip(questions, predictions, strict=True))


def _number(name: str) -> int | str:
    """An id that is a number in the official file; any other stays text."""
    return int(name) if name.isdecimal() and str(int(name)) == name else name


def nextqa_file(questions: Questions, predictions: Predictions) -> Any:
    """`{"<video>_<qid>": {"prediction": index, "answer": index}}`, as eval_mc.py reads it."""
    return {
        question.question_id: {"prediction": predicted, "answer": question.answer}
        for question, predicted in _pairs(questions, predictions)
    }


def star_file(questions: Questions, predictions: Predictions) -> Any:
    """`{"Interaction": [{"question_id": id, "answer": index}], ...}`: the server's four types."""
    types = ("Interaction", "Sequence", "Prediction", "Feasibility")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in types}
    for question, predicted in _pairs(questions, predictions):
        name = question.type or question.question_id.split("_")[0]
        rows[name].append({"question_id": question.question_id, "answer": predicted})
    return rows


def by_id_file(questions: Questions, predictions: Predictions) -> Any:
    """`{id: index}` (How2QA and TVQA, VALUE's form) or `{id: text}` (AGQA)."""
    return {
        question.question_id: predicted for question, predicted in _pairs(questions, predictions)
    }


def vlep_file(questions: Questions, predictions: Predictions) -> Any:
    """`{"example_id": number, "pred_ans": index}` a line, as its README prescribes."""
    return [
        {"example_id": _number(question.question_id), "pred_ans": predicted}
        for question, predicted in _pairs(questions, predictions)
    ]


def qvhighlights_file(questions: Questions, predictions: Predictions) -> Any:
    """`{qid, query, vid, pred_relevant_windows, pred_saliency_scores}` a line."""
    return [_moments_record(*pair) for pair in _pairs(questions, predictions)]


def _moments_record(question: Question, predicted: Moments | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "qid": _number(question.question_id),
        "query": question.question,
        "vid": question.video,
        "pred_relevant_windows": None,
    }
    if predicted is not None:
        record["pred_relevant_windows"] = [list(window) for window in predicted.windows]
        if predicted.saliency is not None:
            record["pred_saliency_scores"] = list(predicted.saliency)
    return record


def open_ended_file(questions: Questions, predictions: Predictions) -> Any:
    """`[{"question_id": id, "answer": text}]` in the annotation's order.

    MSRVTT-QA and MSVD-QA have no server and no prescribed file; this is a layout that several
    systems write.
    """
    return [
        {"question_id": question.question_id, "answer": predicted}
        for question, predicted in _pairs(questions, predictions)
    ]


def msrvtt_mc_file(questions: Questions, predictions: Predictions) -> Any:
    """`[{"qid": "mc0", "answer": index}]`, as ClipBERT writes it."""
    return [
        {"qid": question.question_id, "answer": predicted}
        for question, predicted in _pairs(questions, predictions)
    ]


def egotaskqa_file(questions: Questions, predictions: Predictions) -> Any:
    """`[{"question_id", "reasoning_type": "a$b$c", "answer", "prediction"}]`."""
    return [
        {
            "question_id": _number(question.question_id),
            "reasoning_type": "$".join(question.categories),
            "answer": question.answer_text,
            "prediction": predicted,
        }
        for question, predicted in _pairs(questions, predictions)
    ]


def egomcq_file(questions: Questions, predictions: Predictions) -> Any:
    """`[{"id", "scores": [5 numbers], "answer", "types": 1 or 2}]`; an index becomes a one."""
    codes = {name: code for code, name in EGOMCQ_TYPES.items()}
    return [
        {
            "id": question.question_id,
            "scores": _one_hot(predicted, len(question.videos)),
            "answer": truth_of(question),
            "types": codes.get(question.type or ""),
        }
        for question, predicted in _pairs(questions, predictions)
    ]


def _one_hot(index: int | None, count: int) -> list[float] | None:
    return None if index is None else [float(place == index) for place in range(count)]


def retrieval_file(questions: Questions, predictions: Predictions) -> Any:
    """`{text id: [videos, best first]}`; there is no prescribed file."""
    return {
        question.question_id: None if predicted is None else list(predicted)
        for question, predicted in _pairs(questions, predictions)
    }


OFFICIAL: Mapping[str, Callable[[Questions, Predictions], Any]] = {
    "nextqa": nextqa_file,
    "star": star_file,
    "how2qa": by_id_file,
    "tvqa": by_id_file,
    "vlep": vlep_file,
    "qvhighlights": qvhighlights_file,
    "msrvtt-qa": open_ended_file,
    "msvd-qa": open_ended_file,
    "agqa": by_id_file,
    "egotaskqa": egotaskqa_file,
    "egomcq": egomcq_file,
    "msrvtt-mc": msrvtt_mc_file,
    "msrvtt-retrieval": retrieval_file,
    "didemo": retrieval_file,
}
"""Benchmark to the writer of its official file."""

LINES = frozenset({"vlep", "qvhighlights"})
"""Benchmarks whose file is one JSON object a line."""


def require_official(benchmark: str) -> None:
    """Raise `UsageError` where `benchmark` has no official file."""
    if benchmark not in OFFICIAL:
        raise UsageError(
            f"{benchmark} has no official prediction file",
            f"known: {', '.join(OFFICIAL)}; predictions.parquet of the artifact holds every row",
        )


def official_suffix(benchmark: str) -> str:
    """How the name of the benchmark's official file ends."""
    return ".jsonl" if benchmark in LINES else ".json"


def write_official(
    path: Path, benchmark: str, questions: Questions, predictions: Predictions
) -> None:
    """Write the benchmark's official file, complete or not at all.

    Args:
        path: Where to; its folder exists.
        benchmark: Name of the benchmark.
        questions: Every question of the split, in the annotations' order.
        predictions: What was answered to each; none: it failed.

    Raises:
        UsageError: The benchmark has no official file.
    """
    require_official(benchmark)
    value = OFFICIAL[benchmark](questions, predictions)
    if benchmark in LINES:
        lines = (json.dumps(record, ensure_ascii=False) for record in value)
        atomic.write_text(path, "".join(f"{line}\n" for line in lines))
    else:
        atomic.write_json(path, value)
