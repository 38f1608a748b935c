"""Questions answered in words: MSRVTT-QA, MSVD-QA, AGQA, EgoTaskQA.

Formats: `specs/benchmarks.md` 7, 8 and 9.
"""

from __future__ import annotations

from stages.benchmarks.annotation_files import KEY, Record
from stages.benchmarks.layouts import cells
from stages.benchmarks.layouts.layout import Layout, RawQuestion


def _parse_original(record: Record) -> RawQuestion:
    """`{"answer":"couch","id":158581,"question":"what ...?","video_id":6513}`."""
    return RawQuestion(
        qid=cells.name(record, "id"),
        video=cells.name(record, "video_id"),
        question=cells.text(record, "question"),
        answer=cells.optional_text(record, "answer"),
    )


def _parse_hqga(record: Record) -> RawQuestion:
    """`video,question,answer,qid`; the question lacks its `?`."""
    return RawQuestion(
        qid=cells.name(record, "qid"),
        video=cells.name(record, "video"),
        question=cells.text(record, "question"),
        answer=cells.optional_text(record, "answer"),
        type=cells.optional_text(record, "type"),
    )


def _parse_clipbert(record: Record) -> RawQuestion:
    """`{"answer", "question", "video_id": "video6513", "answer_type"}`, without an id."""
    return RawQuestion(
        qid="",
        video=cells.name(record, "video_id"),
        question=cells.text(record, "question"),
        answer=cells.optional_text(record, "answer"),
        type=cells.optional_text(record, "answer_type"),
    )


def _parse_lavis(record: Record) -> RawQuestion:
    """`{"0000000": {"answer", "question", "question_id", "video", "answer_type"}}`."""
    return RawQuestion(
        qid=cells.name(record, "question_id"),
        video=cells.name(record, "video"),
        question=cells.text(record, "question"),
        answer=cells.optional_text(record, "answer"),
        type=cells.optional_text(record, "answer_type"),
    )


def _parse_agqa(record: Record) -> RawQuestion:
    """AGQA 2: `{"YSKX3-8": {question, answer, video_id, global, semantic, structural, ans_type}}`.

    The authors say that in their first release `ans_type` was wrong; a question is open exactly
    when its structure is `query`, and a file that says otherwise is worth a warning.
    """
    structure = cells.optional_text(record, "structural")
    kind = cells.optional_text(record, "ans_type")
    agrees = structure is None or kind is None or (structure == "query") == (kind == "open")
    return RawQuestion(
        qid=cells.name(record, KEY),
        video=cells.name(record, "video_id"),
        question=cells.text(record, "question"),
        answer=cells.optional_text(record, "answer"),
        type=kind,
        categories=(
            *cells.names(record, "global"),
            *cells.names(record, "semantic"),
            *((structure,) if structure else ()),
            *((kind,) if kind else ()),
        ),
        notes=() if agrees else ("ans_type and structural disagree (query is open)",),
    )


def _parse_agqa_csv(record: Record) -> RawQuestion:
    """AGQA's csv form: `question, answer, gif_name, vid_id, key`; it holds no categories."""
    return RawQuestion(
        qid=cells.name(record, "key"),
        video=cells.name(record, "gif_name"),
        question=cells.text(record, "question"),
        answer=cells.optional_text(record, "answer"),
        notes=("this form of the file holds no categories",),
    )


def _parse_egotaskqa(record: Record) -> RawQuestion:
    """`{question, answer, interval, type: [..], category: [..], semantic, structural, ...}`."""
    structure = "structural" if "structural" in record else "sturctural"
    return RawQuestion(
        qid=cells.name(record, "question_id"),
        video=cells.name(record, "interval"),
        question=cells.text(record, "question"),
        answer=cells.optional_text(record, "answer"),
        type=cells.optional_text(record, structure),
        categories=tuple(
            value
            for field in ("type", "category", "semantic", structure, "reference")
            for value in cells.names(record, field)
        ),
    )


LAYOUTS: dict[str, Layout] = {
    "hqga-csv": Layout(
        "csv",
        frozenset({"video", "question", "answer", "qid"}),
        frozenset({"video_id", "a0"}),
        _parse_hqga,
    ),
    "open-json": Layout(
        "json",
        frozenset({"id", "video_id", "question"}),
        frozenset({"a0", "choices", "options"}),
        _parse_original,
    ),
    "clipbert-jsonl": Layout(
        "jsonl",
        frozenset({"question", "video_id", "answer_type"}),
        frozenset({"options", "qid", "question_id"}),
        _parse_clipbert,
    ),
    "lavis-keyed": Layout(
        "keyed",
        frozenset({"question", "question_id", "video", "dataset"}),
        frozenset({"options"}),
        _parse_lavis,
    ),
    "agqa-keyed": Layout(
        "keyed",
        frozenset({"question", "video_id", "global", "structural"}),
        frozenset({"choices"}),
        _parse_agqa,
    ),
    "agqa-csv": Layout(
        "csv",
        frozenset({"question", "answer", "gif_name", "vid_id", "key"}),
        frozenset({"a0", "a1"}),
        _parse_agqa_csv,
    ),
    "egotaskqa-json": Layout(
        "json",
        frozenset({"question", "question_id", "interval", "category"}),
        frozenset({"choices"}),
        _parse_egotaskqa,
    ),
}
