"""Texts whose video is to be found: MSR-VTT 1k-A and its train lists, DiDeMo paragraphs.

Formats: `specs/benchmarks.md` 12.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

from stages.benchmarks.annotation_files import Numbered, Record, list_in_object
from stages.benchmarks.layouts import cells
from stages.benchmarks.layouts.layout import Extras, Layout, Raw, RawQuestion, parsed
from stages.benchmarks.questions import refuse
from stages.core.errors import DataError

log = logging.getLogger(__name__)

FILE_NAME = re.compile(r"\S.*\.[A-Za-z0-9]{2,4}")
EXTENSION = re.compile(r"\.[A-Za-z0-9]{0,4}$")
NO_CAPTIONS = (
    "no captions: each video of the list stands for itself, without a text "
    "(give MSRVTT_data.json with --captions, or put it beside the list)"
)


def _parse_msrvtt_test(record: Record) -> RawQuestion:
    """`key,vid_key,video_id,sentence`; sentences repeat, so `key` is the id."""
    return RawQuestion(
        qid=cells.name(record, "key"),
        video=cells.name(record, "video_id"),
        question=cells.filled_text(record, "sentence"),
    )


def _parse_video(record: Record) -> RawQuestion:
    video = cells.name(record, "video_id")
    return RawQuestion(qid=video, video=video, notes=(NO_CAPTIONS,))


def _gather_captions(records: Iterator[Numbered], extras: Extras) -> Iterator[Raw]:
    """Each caption of each listed video, in the caption file's order; then the videos without.

    `source_row` is the video's row in the list.
    """
    if extras.captions is None:
        yield from parsed(records, _parse_video)
        return
    listed: dict[str, int] = {}
    for row, item in parsed(records, _parse_video):
        if isinstance(item, DataError):
            yield row, item
        else:
            listed[item.video] = row
    seen = set()
    for number, sentence in list_in_object(extras.captions, "sentences"):
        raw = _caption(sentence)
        row = listed.get(raw.video, 0) if raw is not None else 0
        if raw is None:
            extras.odd[f"an entry of {extras.captions.name} is no caption"] += 1
            log.debug("%s: sentence %d is no caption", extras.captions, number)
        elif row:
            seen.add(raw.video)
            yield row, raw
    for video, row in listed.items():
        if video not in seen:
            yield row, refuse("caption", f"{extras.captions.name} has none of {video}")


def _caption(sentence: Any) -> RawQuestion | None:
    """`{"caption", "video_id", "sen_id"}` as a question, or none if it is something else."""
    if not isinstance(sentence, dict):
        return None
    try:
        video = cells.name(sentence, "video_id")
        return RawQuestion(
            qid=f"{video}_{cells.name(sentence, 'sen_id')}",
            video=video,
            question=cells.filled_text(sentence, "caption"),
        )
    except DataError:
        return None


def _parse_paragraph(record: Record) -> RawQuestion:
    """`text<TAB>file name`, without a header; the file's extension is often not the real one."""
    if set(record) != {"column 1", "column 2"}:
        raise refuse("record", f"{len(record)} cells where the file has 2")
    video = cells.name(record, "column 2")
    return RawQuestion(qid=_stem(video), video=video, question=record["column 1"])


def _parse_sentence(record: Record) -> RawQuestion:
    """`{annotation_id, description, video, times, num_segments}`, a text of five seconds."""
    video = cells.name(record, "video")
    return RawQuestion(
        qid=_stem(video), video=video, question=cells.filled_text(record, "description")
    )


def _gather_paragraphs(records: Iterator[Numbered], extras: Extras) -> Iterator[Raw]:
    """The sentences of each video as one text, videos in the order of their first sentence.

    Some videos occur with and without their extension (then the name ends in a dot); they are
    one video.
    """
    paragraphs: dict[str, tuple[int, RawQuestion, list[str]]] = {}
    for row, item in parsed(records, _parse_sentence):
        if isinstance(item, DataError):
            yield row, item
            continue
        _, raw, sentences = paragraphs.setdefault(item.qid, (row, item, []))
        sentences.append(item.question)
        # The longer of two spellings has the extension, which says which file it is.
        raw.video = max(raw.video, item.video, key=len)
    for row, raw, sentences in paragraphs.values():
        raw.question = extras.joiner.join(sentences)
        yield row, raw


def _stem(video: str) -> str:
    return EXTENSION.sub("", video)


LAYOUTS: dict[str, Layout] = {
    "msrvtt-1ka-csv": Layout(
        "csv",
        frozenset({"key", "video_id", "sentence"}),
        frozenset({"question"}),
        _parse_msrvtt_test,
    ),
    "video-list-csv": Layout(
        "csv",
        frozenset({"video_id"}),
        frozenset({"question", "sentence", "answer"}),
        _parse_video,
        gather=_gather_captions,
    ),
    "didemo-tsv": Layout(
        "rows",
        frozenset({"column 1", "column 2"}),
        frozenset({"column 3"}),
        _parse_paragraph,
        cells={"column 2": FILE_NAME},
    ),
    "didemo-json": Layout(
        "json",
        frozenset({"annotation_id", "description", "video", "num_segments"}),
        frozenset({"question"}),
        _parse_sentence,
        gather=_gather_paragraphs,
    ),
}
