"""What has to be known of a question to judge an answer to it, wherever it comes from.

Reads and writes nothing. Questions come from annotations or from a prepared artifact; a prediction
file that carries the right answers (EgoTaskQA, EgoMCQ, STAR and NExT-QA files in the wild) can
stand in for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stages.benchmarks.layouts.keys import KeyRow
from stages.benchmarks.manifest import BenchmarkManifest, Scorer
from stages.benchmarks.prediction_files.given import Given, PredictionFile
from stages.benchmarks.questions import Question
from stages.benchmarks.readers import normal_code
from stages.benchmarks.scorers.rows import has_truth, truth_of, video_of


@dataclass(frozen=True, slots=True)
class Asked:
    """One question without its text."""

    question_id: str
    video: str | None
    type: str | None
    categories: tuple[str, ...]
    answer: int | str | None
    num_options: int | None
    """Options, or videos to choose from; none: an open-ended question, or not known."""
    known: bool
    """Whether an answer can be scored."""
    spans: tuple[tuple[float, float], ...] = ()
    duration: float | None = None
    saliency: tuple[tuple[int, ...], ...] = ()
    source_row: int = 0
    """Number of the record in the annotations, from 1; 0: not known."""

    @property
    def by_index(self) -> bool:
        """Whether answers are indices, not texts."""
        return self.num_options is not None or isinstance(self.answer, int)


def asked_of(question: Question, scorer: Scorer) -> Asked:
    """What a question's judge needs of it."""
    several = len(question.videos) if len(question.videos) > 1 else 0
    return Asked(
        question_id=question.question_id,
        video=video_of(question),
        type=question.type,
        categories=question.categories,
        answer=truth_of(question),
        num_options=len(question.options) or several or None,
        known=has_truth(question, scorer),
        spans=question.spans,
        duration=question.duration,
        saliency=question.saliency,
        source_row=question.source_row,
    )


def asked_from_file(file: PredictionFile, manifest: BenchmarkManifest) -> list[Asked]:
    """The questions of a prediction file that carries its own answers."""
    return [
        Asked(
            question_id=item.question_id,
            video=item.video,
            type=item.type,
            categories=_category_names(item.categories, manifest),
            answer=_own_answer(item, manifest, file.text_cells),
            num_options=manifest.num_options or _num_scores(item.value),
            known=item.truth is not None,
        )
        for item in file.given
    ]


def _category_names(codes: tuple[str, ...], manifest: BenchmarkManifest) -> tuple[str, ...]:
    """The names under which the codes are reported; an unknown one stays as it is."""
    names = manifest.category_names
    plain = [normal_code(code) for code in codes]
    return tuple(dict.fromkeys(names.get(code, code) for code in plain))


def _own_answer(item: Given, manifest: BenchmarkManifest, text_cells: bool) -> int | str | None:
    """The file's own answer; an index into an open-ended vocabulary stands for its word.

    So it goes through the same door as with annotations: an index is no option, and the class of
    unknown answers, where the file tells which it is, is never right.
    """
    answer = truth_as(item.truth, manifest, text_cells)
    if manifest.task == "open-ended" and isinstance(answer, int):
        return str(answer)
    return answer


def truth_as(truth: Any, manifest: BenchmarkManifest, text_cells: bool) -> int | str | None:
    """A file's own answer: a table's cell `3` is a number where the benchmark has options."""
    if isinstance(truth, bool) or not isinstance(truth, int | str):
        return None
    number = isinstance(truth, str) and truth.strip().isdigit()
    if number and (text_cells or manifest.name == "msrvtt-mc") and manifest.num_options:
        return int(truth)
    return truth


def asked_of_key(row: KeyRow, manifest: BenchmarkManifest) -> Asked:
    """What an answer key says of a question."""
    return Asked(
        question_id=row.question_id,
        video=row.video,
        type=row.type,
        categories=row.categories,
        answer=row.answer,
        num_options=row.num_options or manifest.num_options,
        known=True,
    )


def _num_scores(value: Any) -> int | None:
    return len(value) if isinstance(value, list) else None
