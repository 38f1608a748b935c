"""Questions with several texts to choose from: NExT-QA, STAR, How2QA, TVQA, VLEP, MSRVTT-MC.

Also SeViLA's reduced form, in which five of them are handed around. Formats:
`specs/benchmarks.md` 1 to 5 and 11, `specs/sevila.md` 6.
"""

from __future__ import annotations

import re
from typing import Any

from stages.benchmarks.annotation_files import Record
from stages.benchmarks.layouts import cells
from stages.benchmarks.layouts.layout import Layout, RawQuestion
from stages.benchmarks.questions import refuse

CLIP = re.compile(r"\[[0-9]+(\.[0-9]+)?:[0-9]+(\.[0-9]+)?\]")
HOW2QA_COLUMNS = {f"column {number}" for number in range(1, 8)}
TVQA_PLUS_SHOW = "The Big Bang Theory"


def _parse_nextqa(record: Record) -> RawQuestion:
    """`video,frame_count,width,height,question,answer,qid,type,a0,...`, answer an index."""
    return RawQuestion(
        qid=cells.name(record, "qid"),
        video=cells.name(record, "video"),
        question=cells.text(record, "question"),
        options=cells.option_columns(record),
        answer=cells.index(record, "answer"),
        type=cells.optional_text(record, "type"),
    )


def _parse_nextqa_text(record: Record) -> RawQuestion:
    """The same with `video_id`, and in `answer` the words of the right option."""
    return RawQuestion(
        qid=cells.name(record, "qid"),
        video=cells.name(record, "video_id"),
        question=cells.text(record, "question"),
        options=cells.option_columns(record),
        answer=cells.optional_text(record, "answer"),
        type=cells.optional_text(record, "type"),
    )


def _parse_star(record: Record) -> RawQuestion:
    """`{question_id, question, video_id, start, end, answer, choices: [{choice_id, choice}]}`."""
    return RawQuestion(
        qid=cells.name(record, "question_id"),
        video=cells.name(record, "video_id"),
        question=cells.text(record, "question"),
        options=_choices(record.get("choices")),
        answer=cells.optional_text(record, "answer"),
        start=cells.seconds(record, "start"),
        end=cells.seconds(record, "end"),
    )


def _choices(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(choice, dict) for choice in value):
        raise refuse("choices", f"{cells.shown(value)} is not a list of choices")
    by_id = {choice.get("choice_id"): choice for choice in value}
    if set(by_id) != set(range(len(value))):
        raise refuse("choices", f"choice_id runs not from 0 to {len(value) - 1}")
    return tuple(cells.text(by_id[index], "choice") for index in range(len(value)))


def _parse_sevila(record: Record) -> RawQuestion:
    """`{video, num_option, qid, a0.., answer, question, start, end}`, answer an index.

    VLEP's records have no question; times may be text.
    """
    options = cells.option_columns(record)
    declared = cells.index(record, "num_option")
    if declared is not None and declared != len(options):
        raise refuse("num_option", f"{declared}, but there are {len(options)} options")
    start, end, notes = cells.known_times(
        cells.seconds(record, "start"), cells.seconds(record, "end")
    )
    return RawQuestion(
        qid=cells.name(record, "qid"),
        video=cells.name(record, "video"),
        question=cells.optional_text(record, "question") or "",
        options=options,
        answer=cells.index(record, "answer"),
        start=start,
        end=end,
        notes=notes,
    )


def _parse_how2qa_csv(record: Record) -> RawQuestion:
    """`youtube id, [start:end], wrong, wrong, wrong, question, right`, without a header."""
    if set(record) != HOW2QA_COLUMNS:
        raise refuse("record", f"{len(record)} cells where the file has {len(HOW2QA_COLUMNS)}")
    start, end = cells.time_range(record, "column 2", ":")
    return RawQuestion(
        qid="",
        video=cells.name(record, "column 1"),
        question=record["column 6"],
        wrong=tuple(record[f"column {number}"] for number in (3, 4, 5)),
        answer=record["column 7"],
        start=start,
        end=end,
    )


def _parse_timed(record: Record) -> RawQuestion:
    """`{vid_name, ts: "36.58-58.52", qid, q, a0.., answer_idx}`: VALUE's How2QA, TVQA, TVQA+.

    Some copies have no `qid`; the row's number is the id there, as it is in SeViLA.
    """
    start, end, notes = cells.known_times(*cells.time_range(record, "ts"))
    return RawQuestion(
        qid=cells.name(record, "qid") if "qid" in record else "",
        video=cells.name(record, "vid_name"),
        question=cells.text(record, "q"),
        options=cells.option_columns(record),
        answer=cells.index(record, "answer_idx"),
        start=start,
        end=end,
        type=cells.optional_text(record, "show_name"),
        notes=notes,
    )


def _parse_tvqa_plus(record: Record) -> RawQuestion:
    """TVQA+: tokenised text, `answer_idx` as text, `ts` as a list; one show only."""
    raw = _parse_timed(record)
    raw.type = TVQA_PLUS_SHOW
    return raw


def _parse_vlep(record: Record) -> RawQuestion:
    """`{example_id, vid_name, ts: [start, end], events: [text, text], answer}`, no question."""
    video = cells.name(record, "vid_name")
    start, end = cells.time_range(record, "ts")
    return RawQuestion(
        qid=cells.name(record, "example_id"),
        video=video,
        options=cells.option_list(record.get("events")),
        answer=cells.index(record, "answer"),
        start=start,
        end=end,
        # The names of YouTube clips hold a time of day, those of TV clips do not.
        type="youtube" if ":" in video else "tv",
    )


def _parse_msrvtt_mc(record: Record) -> RawQuestion:
    """`{qid: "mc0", clip_name, title, answer: "0", options: [five texts]}`."""
    return RawQuestion(
        qid=cells.name(record, "qid"),
        video=cells.name(record, "clip_name"),
        options=cells.option_list(record.get("options")),
        answer=cells.index(record, "answer"),
    )


LAYOUTS: dict[str, Layout] = {
    "nextqa-csv": Layout(
        "csv",
        frozenset({"video", "question", "answer", "qid", "a0", "a1"}),
        frozenset({"video_id"}),
        _parse_nextqa,
    ),
    "nextqa-text-csv": Layout(
        "csv",
        frozenset({"video_id", "question", "answer", "qid", "a0", "a1"}),
        frozenset({"video"}),
        _parse_nextqa_text,
    ),
    "star-json": Layout(
        "json",
        frozenset({"question_id", "video_id", "question", "choices"}),
        frozenset({"a0"}),
        _parse_star,
        # The reference preparation takes the last equal choice (specs/vlap.md 11.5).
        text_match="last",
    ),
    "sevila-json": Layout(
        "json",
        frozenset({"video", "qid", "a0", "a1"}),
        frozenset({"choices", "vid_name"}),
        _parse_sevila,
    ),
    "how2qa-csv": Layout(
        "rows",
        frozenset(HOW2QA_COLUMNS),
        frozenset({"column 8"}),
        _parse_how2qa_csv,
        cells={"column 2": CLIP},
    ),
    "how2qa-jsonl": Layout(
        "jsonl",
        frozenset({"vid_name", "ts", "q", "a0", "a1"}),
        frozenset({"show_name", "bbox"}),
        _parse_timed,
    ),
    "tvqa-jsonl": Layout(
        "jsonl",
        frozenset({"vid_name", "ts", "q", "a0", "a1", "show_name"}),
        frozenset({"bbox"}),
        _parse_timed,
    ),
    "tvqa-plus-json": Layout(
        "json",
        frozenset({"vid_name", "ts", "q", "a0", "a1", "bbox"}),
        frozenset({"show_name"}),
        _parse_tvqa_plus,
    ),
    "vlep-jsonl": Layout(
        "jsonl",
        frozenset({"example_id", "vid_name", "ts", "events"}),
        frozenset({"a0"}),
        _parse_vlep,
    ),
    "msrvtt-mc-jsonl": Layout(
        "jsonl",
        frozenset({"qid", "clip_name", "options"}),
        frozenset({"question"}),
        _parse_msrvtt_mc,
    ),
}
