"""Questions and a prediction file -> one row a question, in the questions' order.

Reads and writes nothing. Every question gets a row: a usable prediction, a counted failure with
its reason, or an unlabelled one. Predictions for questions that there are not are an error, and
the file's own answers never replace the annotations' unless the public scorer does so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.prediction_files.asked import Asked, truth_as
from stages.benchmarks.prediction_files.given import Given, PredictionFile
from stages.benchmarks.prediction_files.score_matrix import join_matrix, join_ranking
from stages.benchmarks.prediction_files.values import (
    NOTHING,
    answer_text,
    best_option,
    moments,
    option_index,
    ranked_video,
)
from stages.benchmarks.prediction_files.vocabulary import (
    OUTSIDE,
    IndexWords,
    words_from_answers,
    words_from_vocabulary,
)
from stages.benchmarks.scorers.retrieval import Places
from stages.benchmarks.scorers.rows import Predicted, ScoredRow
from stages.benchmarks.scorers.rules import Rules
from stages.benchmarks.statistics import Status
from stages.core.errors import DataError, UsageError

SHOWN = 5
ID_PREFIXES = frozenset({"VLEP", "QVHighlight", "QVHighlights"})
"""What SeViLA puts before the ids of benchmarks without types."""
ROW_PREFIXES = frozenset({"HOW2QA", "TVQA"})
"""Before the number of the row, from 0, where SeViLA makes ids of its own."""
TEXT_INDICES = frozenset({"msrvtt-mc"})
"""Benchmarks whose files write indices as text (`"answer": "3"`)."""

Reader = Callable[[Given, Asked], tuple[Predicted, str]]


@dataclass(frozen=True, slots=True)
class Joined:
    """Rows for the judge, and what was noticed on the way."""

    rows: list[ScoredRow]
    notes: list[str] = field(default_factory=list)
    videos: Places | None = None
    """Where each video's captions lie, from a score matrix."""


def join(
    asked: Sequence[Asked],
    file: PredictionFile,
    manifest: BenchmarkManifest,
    rules: Rules,
    vocabulary: Path | None = None,
) -> Joined:
    """One row for each of `asked`, in their order.

    Args:
        asked: The questions of the split; empty only for a score matrix, whose rows and columns
            are then in order.
        file: What was predicted.
        manifest: The benchmark.
        rules: The public scorer's way, or ours.
        vocabulary: Words of an open-ended system that predicts indices.

    Raises:
        DataError: Predictions for unknown questions, a vocabulary that does not fit, or not one
            usable prediction. UsageError: A vocabulary where no index is predicted.
    """
    if file.matrix is not None:
        if manifest.scorer != "retrieval":
            raise DataError(
                f"{file.path} is a score matrix, and {manifest.name} is not scored by retrieval"
            )
        rows, videos, notes = join_matrix(asked, file.matrix, file.path, rules)
        return Joined(_usable(rows, file), notes, videos)
    given, notes = _by_question(asked, file, manifest, rules)
    if file.videos:
        rows, videos = join_ranking(asked, given, file.videos, rules)
        notes += [f"ranked among {len(file.videos)} videos"]
        return Joined(_usable(rows, file), notes, videos)
    truths, truth_notes = _truths(asked, given, file, manifest, rules)
    read, read_notes = _reader(asked, given, file, manifest, rules, vocabulary)
    rows = [_row(item, given.get(item.question_id), read) for item in truths]
    notes += [*truth_notes, *read_notes]
    if rules.as_published and manifest.scorer in ("accuracy", "categories"):
        rows, wrong = _wrong_rather_than_failed(rows, given)
        notes += [f"{wrong} unusable predictions count as wrong answers"] if wrong else []
    return Joined(_usable(rows, file), notes)


def _wrong_rather_than_failed(
    rows: Sequence[ScoredRow], given: Mapping[str, Given]
) -> tuple[list[ScoredRow], int]:
    """Rows of public scorers, which compare whatever was predicted and find it wrong."""
    changed = [
        replace(row, status="ok" if row.answer is not None else "unlabelled", reason="")
        if row.status == "failed" and _says_something(given.get(row.question_id))
        else row
        for row in rows
    ]
    before = sum(row.status == "failed" for row in rows)
    return changed, before - sum(row.status == "failed" for row in changed)


def _says_something(given: Given | None) -> bool:
    return given is not None and given.value is not None


def _usable(rows: list[ScoredRow], file: PredictionFile) -> list[ScoredRow]:
    """The rows, unless every one failed: then something is wrong with all of them."""
    if rows and all(row.status == "failed" for row in rows):
        reason = next((row for row in rows if row.reason != NOTHING), rows[0])
        raise DataError(
            f"{file.path}: not one of {len(rows):,} questions has a usable prediction; "
            f"{reason.question_id}: {reason.reason}",
            f"the file was read as {file.form}; is it of this benchmark and split?",
        )
    return rows


# --- whose prediction is it ------------------------------------------------------------------


def _by_question(
    asked: Sequence[Asked], file: PredictionFile, manifest: BenchmarkManifest, rules: Rules
) -> tuple[dict[str, Given], list[str]]:
    """Predictions by the questions' own ids; others are an error, for TVQA's scorer nothing."""
    known = {item.question_id for item in asked}
    strange = [item for item in file.given if item.question_id not in known]
    if not strange:
        return {item.question_id: item for item in file.given}, []
    renamed = _renamed(strange, asked, manifest)
    given: dict[str, Given] = {}
    unknown = []
    for item in file.given:
        name = renamed.get(item.question_id, item.question_id)
        if name not in known:
            unknown.append(item)
        elif name in given:
            raise DataError(
                f"{file.path}: {given[name].question_id!r} and {item.question_id!r} are both "
                f"predictions for {name}",
                "keep one prediction per question",
            )
        else:
            given[name] = item
    notes = [f"{len(renamed)} ids of SeViLA's form were recognised"] if renamed else []
    if unknown and not (rules.as_published and manifest.name == "tvqa"):
        raise DataError(*_unknown_error(unknown, file, manifest))
    if unknown:
        notes.append(f"{len(unknown)} predictions for other questions are ignored")
    return given, notes


def _unknown_error(
    unknown: Sequence[Given], file: PredictionFile, manifest: BenchmarkManifest
) -> tuple[str, str]:
    shown = ", ".join(repr(item.question_id) for item in unknown[:SHOWN])
    hint = "are --split and --annotations those that the predictions were made for?"
    if manifest.name == "tvqa":
        hint += " (--as-published ignores them)"
    return (
        f"{file.path}: {len(unknown):,} of {len(file.given):,} predictions are for unknown "
        f"questions: {shown}",
        hint,
    )


def _renamed(
    strange: Sequence[Given], asked: Sequence[Asked], manifest: BenchmarkManifest
) -> dict[str, str]:
    """SeViLA's names of questions -> ours: `{type}_{id}`, `VLEP_{id}`, `HOW2QA_{row}`."""
    known = {item.question_id for item in asked}
    by_row = {item.source_row - 1: item.question_id for item in asked if item.source_row}
    prefixes = {*manifest.types.names, *ID_PREFIXES}
    found = {}
    for item in strange:
        prefix, _, rest = item.question_id.partition("_")
        if prefix in prefixes and rest in known:
            found[item.question_id] = rest
        elif prefix in ROW_PREFIXES and rest.isdecimal() and int(rest) in by_row:
            found[item.question_id] = by_row[int(rest)]
    return found


# --- which answer is right -------------------------------------------------------------------


def _truths(
    asked: Sequence[Asked],
    given: Mapping[str, Given],
    file: PredictionFile,
    manifest: BenchmarkManifest,
    rules: Rules,
) -> tuple[list[Asked], list[str]]:
    """The questions with the answers that count, and how often the file says otherwise."""
    differing, told = {}, 0
    for item in asked:
        there = given.get(item.question_id)
        truth = None if there is None else truth_as(there.truth, manifest, file.text_cells)
        if (
            truth is None
            or item.answer is None
            or isinstance(truth, str) != isinstance(item.answer, str)
        ):  # an index into a vocabulary is no other opinion about a word
            continue
        told += 1
        if truth != item.answer:
            differing[item.question_id] = truth
    if not differing:
        return list(asked), []
    count = f"{len(differing):,} of {told:,}"
    if rules.as_published and manifest.name == "nextqa":
        changed = [
            replace(item, answer=differing.get(item.question_id, item.answer)) for item in asked
        ]
        return changed, [f"the file's own answers count; {count} differ from the annotations'"]
    return list(asked), [
        f"the annotations' answers count; the file's own answers differ in {count} questions"
    ]


# --- what was predicted ----------------------------------------------------------------------


def _reader(
    asked: Sequence[Asked],
    given: Mapping[str, Given],
    file: PredictionFile,
    manifest: BenchmarkManifest,
    rules: Rules,
    vocabulary: Path | None,
) -> tuple[Reader, list[str]]:
    """How this file's values become predictions."""
    if manifest.scorer == "moments":
        return lambda item, _: _moments(item.value), []
    if manifest.scorer == "retrieval":
        gallery = frozenset(item.video for item in asked if item.video is not None)
        return lambda item, question: ranked_video(item.value, question.video or "", gallery), []
    text_is_number = file.text_cells or manifest.name in TEXT_INDICES
    open_ended = [item for item in asked if not item.by_index]
    words, notes = _index_words(open_ended, given, file, vocabulary)

    def read(item: Given, question: Asked) -> tuple[Predicted, str]:
        if question.by_index:
            options = question.num_options or manifest.num_options
            if isinstance(item.value, list):
                return best_option(item.value, options)
            return option_index(item.value, options, text_is_number=text_is_number)
        if words is None:
            return answer_text(item.value)
        return _word(item.value, words, rules)

    return read, notes


def _moments(value: Any) -> tuple[Predicted, str]:
    return moments(value) if isinstance(value, dict) else (None, f"{value!r} are not windows")


def _index_words(
    open_ended: Sequence[Asked],
    given: Mapping[str, Given],
    file: PredictionFile,
    vocabulary: Path | None,
) -> tuple[IndexWords | None, list[str]]:
    """Which word an index stands for; none where the file answers in words."""
    answered = [given[item.question_id] for item in open_ended if item.question_id in given]
    indices = [item for item in answered if _is_index(item, file)]
    if not indices or 2 * len(indices) < len(answered):
        if vocabulary is not None:
            raise UsageError("--vocabulary is for predictions by index, and these are not")
        return None, []
    # By the questions' own ids, whatever the file calls them.
    named = [
        replace(given[item.question_id], question_id=item.question_id)
        for item in open_ended
        if item.question_id in given
    ]
    if vocabulary is not None:
        words = words_from_vocabulary(vocabulary, named, open_ended)
    else:
        answers = {i.question_id: i.answer for i in open_ended if isinstance(i.answer, str)}
        words = words_from_answers(named, answers)
    return words, [words.note]


def _is_index(item: Given, file: PredictionFile) -> bool:
    if isinstance(item.value, bool):
        return False
    return isinstance(item.value, int) or (file.text_cells and str(item.value).isdecimal())


def _word(value: Any, words: IndexWords, rules: Rules) -> tuple[Predicted, str]:
    index, reason = -1, ""
    if value != -1:  # the unknown class of 0-based files
        found, reason = option_index(value, None, text_is_number=True)
        if found is None:
            return None, reason
        index = found
    if rules.as_published and index == 0:
        return OUTSIDE, ""
    return words.word(index), ""


def _row(question: Asked, given: Given | None, read: Reader) -> ScoredRow:
    prediction: Predicted = None
    reason = NOTHING
    if given is not None:
        prediction, reason = read(given, question)
        reason = given.reason or reason if prediction is None else ""
    answered: Status = "ok" if question.known else "unlabelled"
    return ScoredRow(
        question_id=question.question_id,
        video=question.video,
        type=question.type,
        answer=question.answer,
        prediction=prediction,
        status="failed" if prediction is None else answered,
        spans=question.spans,
        categories=question.categories,
        duration=question.duration,
        saliency=question.saliency,
        reason=reason,
    )
