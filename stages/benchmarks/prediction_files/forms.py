"""The forms in which predictions are handed around, recognised by their fields.

Reads and writes nothing: `record_form` looks at the fields of a file's records, `object_form` at
the values of one JSON object, and both end in `Given` records. Formats: `specs/benchmarks.md` 1
to 12, one paragraph per scorer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.benchmarks.layouts.videos_to_choose import EGOMCQ_TYPES
from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.prediction_files.given import Given
from stages.core.errors import DataError

Record = Mapping[str, Any]
SAMPLE = 20
"""Records looked at to recognise a form."""
QUESTION_FIELDS = frozenset({"question", "q", "query", "choices", "a0", "options", "events"})
"""Fields of annotations: with an `answer` and no prediction the file is one of those."""


@dataclass(frozen=True, slots=True)
class RecordForm:
    """A list, lines or a table of records with one prediction each."""

    name: str
    id: str
    """The field with the question's id."""
    value: str
    """The field with the prediction."""
    truth: tuple[str, ...] = ()
    """Fields that may hold the right answer."""
    needs: frozenset[str] = frozenset()
    """Fields that this form has besides."""

    def fits(self, fields: frozenset[str]) -> bool:
        """Whether records with `fields` may be of this form."""
        return {self.id, self.value} | self.needs <= fields


FORMS = (
    RecordForm("qvhighlights", "qid", "pred_relevant_windows"),
    RecordForm("egomcq", "id", "scores", ("answer",), frozenset({"types"})),
    RecordForm("star-answers", "question_id", "pred_ans_idx", ("true_ans_idx", "true_index")),
    RecordForm("vlep", "example_id", "pred_ans"),
    RecordForm("vlep-pre-ans", "example_id", "pre_ans"),
    RecordForm(
        "egotaskqa", "question_id", "prediction", ("answer",), frozenset({"reasoning_type"})
    ),
    RecordForm("sevila", "qid", "prediction", ("target",), frozenset({"target"})),
    RecordForm("moments", "question_id", "windows"),
    RecordForm("predictions", "question_id", "prediction", ("answer",)),
    *(
        RecordForm(f"{name}-predictions", name, "prediction", ("answer",))
        for name in ("qid", "id", "example_id", "key")
    ),
    RecordForm("scores", "question_id", "scores", ("answer",)),
    RecordForm("answers", "question_id", "answer"),
    *(RecordForm(f"{name}-answers", name, "answer") for name in ("qid", "id", "example_id")),
)
"""Forms of records; the first that fits is taken."""


def record_form(fields: Iterable[str], place: str, as_published: bool) -> RecordForm:
    """The form of records that have `fields`.

    Raises:
        DataError: None of the known ones; says which fields there are.
    """
    there = frozenset(fields)
    found = next((form for form in FORMS if form.fits(there)), None)
    shown = ", ".join(repr(name) for name in sorted(there)[:20]) or "none"
    if found is None:
        raise DataError(
            f"{place}: unknown form of predictions; fields: {shown}",
            "expected an id (question_id, qid, id) and a prediction (prediction, pred_ans_idx, "
            "pred_ans, pred_relevant_windows, scores, answer)",
        )
    if found.value == "answer" and there & QUESTION_FIELDS:
        raise DataError(
            f"{place} looks like annotations, not like predictions; fields: {shown}",
            "a prediction file has a field for the prediction, such as `prediction`",
        )
    if as_published and found.value == "pred_ans":
        if "pre_ans" not in there:
            raise DataError(
                f"{place}: the public scorer reads `pre_ans`, which this file does not have; "
                "it stops there",
                "without --as-published `pred_ans` is read",
            )
        return next(form for form in FORMS if form.value == "pre_ans")
    return found


def record_given(
    form: RecordForm, numbered: Iterable[tuple[str, Record]], manifest: BenchmarkManifest
) -> Iterator[Given]:
    """Each record of a form, with its place, as `Given`.

    Raises:
        DataError: A record has no id.
    """
    for place, record in numbered:
        truth = next((record[name] for name in form.truth if record.get(name) is not None), None)
        question_id = _question_id(form, record, manifest, place)
        failed = record.get("status") == "failed"
        yield Given(
            question_id=question_id,
            value=None if failed else _value(form, record),
            place=place,
            truth=truth,
            type=_type(record, question_id, manifest),
            categories=_categories(record),
            video=_video(record),
            reason=str(record.get("reason") or "") if failed else "",
        )


def _question_id(form: RecordForm, record: Record, manifest: BenchmarkManifest, place: str) -> str:
    """The id that the benchmark's questions have, put together from its parts where they are."""
    if "{video}" in manifest.question_id and _named(record, "video") and _named(record, "qid"):
        made = manifest.question_id.format(video=record["video"], qid=record["qid"])
        # SeViLA's own `qid` is the whole id, not the number within the video.
        if str(record["video"]) not in str(record["qid"]):
            return made
    value = record.get(form.id)
    if not _is_name(value):
        raise DataError(f"{place}: no {form.id!r}, or one that is neither text nor a number")
    return str(value).strip()


def _named(record: Record, field: str) -> bool:
    return _is_name(record.get(field))


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and str(value) != ""


def _value(form: RecordForm, record: Record) -> Any:
    if form.value == "pred_relevant_windows":
        return {"windows": record.get(form.value), "saliency": record.get("pred_saliency_scores")}
    if form.value == "windows":  # our own artifact, in which no saliency is an empty list
        return {"windows": record.get(form.value), "saliency": record.get("saliency") or None}
    return record.get(form.value)


def _type(record: Record, question_id: str, manifest: BenchmarkManifest) -> str | None:
    """The question's type as far as a prediction file tells it."""
    code = record.get("types")
    if isinstance(code, int):
        return EGOMCQ_TYPES.get(code)
    if manifest.types.source == "id-prefix" and "_" in question_id:
        return question_id.partition("_")[0]
    found = record.get("type")
    return found if isinstance(found, str) and found else None


def _categories(record: Record) -> tuple[str, ...]:
    """EgoTaskQA's `descriptive$world$object$query$direct`, one name per part."""
    joined = record.get("reasoning_type")
    return tuple(dict.fromkeys(joined.split("$"))) if isinstance(joined, str) and joined else ()


def _video(record: Record) -> str | None:
    for name in ("video", "video_id", "vid"):
        if _named(record, name):
            return str(record[name])
    return None


# --- one JSON object -------------------------------------------------------------------------


def object_form(value: Mapping[str, Any], place: str) -> str:
    """The form of one JSON object, from its values that are not null.

    `keyed-predictions` {id: {prediction, answer}}, `grouped-answers` {type: [{question_id,
    answer}]}, `keyed-lists` {id: [...]}: ranked videos or scores, `keyed-answers` {id: answer}.

    Raises:
        DataError: Something else, or a mixture.
    """
    shapes: dict[str, str] = {}
    for key, item in value.items():
        if item is not None and item != []:  # an empty type or an empty ranking
            shapes.setdefault(_shape(item), key)
    if len(shapes) == 1:
        return next(iter(shapes))
    if not shapes:
        raise DataError(f"{place} holds no prediction")
    (one, first), (other, second) = list(shapes.items())[:2]
    raise DataError(
        f"{place}: unknown form of predictions: {first!r} holds {_WORDS.get(one, one)}, "
        f"{second!r} holds {_WORDS.get(other, other)}"
    )


_WORDS = {
    "keyed-predictions": "an object with a prediction",
    "grouped-answers": "a list of objects",
    "keyed-lists": "a list",
    "keyed-answers": "a single value",
}


def _shape(item: Any) -> str:
    if isinstance(item, dict):
        return "keyed-predictions" if "prediction" in item else "an object without a prediction"
    if isinstance(item, list):
        records = all(isinstance(part, dict) for part in item)
        return "grouped-answers" if records else "keyed-lists"
    return "keyed-answers"


def object_given(
    form: str, value: Mapping[str, Any], manifest: BenchmarkManifest, place: str
) -> Iterator[Given]:
    """The entries of one JSON object of a form that `object_form` found.

    Raises:
        DataError: An object of another shape than the form says.
    """
    read: dict[str, Callable[..., Iterator[Given]]] = {
        "keyed-predictions": _keyed_predictions,
        "grouped-answers": _grouped,
        "keyed-lists": _keyed,
        "keyed-answers": _keyed,
    }
    if form not in read:
        raise DataError(
            f"{place}: unknown form of predictions: its values are {_WORDS.get(form, form)}"
        )
    return read[form](value, manifest, place)


def _keyed(value: Mapping[str, Any], manifest: BenchmarkManifest, place: str) -> Iterator[Given]:
    for key, item in value.items():
        yield Given(key, item, f"{place}: {key!r}", type=_type({}, key, manifest))


def _keyed_predictions(
    value: Mapping[str, Any], manifest: BenchmarkManifest, place: str
) -> Iterator[Given]:
    for key, item in value.items():
        record = item or {}
        yield Given(
            key,
            record.get("prediction"),
            f"{place}: {key!r}",
            truth=record.get("answer"),
            type=_type(record, key, manifest),
            video=_video(record),
        )


def _grouped(value: Mapping[str, Any], manifest: BenchmarkManifest, place: str) -> Iterator[Given]:
    for group, items in value.items():
        numbered = [
            (f"{place}: {group!r} entry {n}", item) for n, item in enumerate(items or [], 1)
        ]
        if not numbered:
            continue
        form = record_form(fields_of([item for _, item in numbered]), place, as_published=False)
        yield from record_given(form, numbered, manifest)


def fields_of(records: Sequence[Any]) -> frozenset[str]:
    """The fields that the first records have."""
    sample = [record for record in records[:SAMPLE] if isinstance(record, dict)]
    return frozenset().union(*sample) if sample else frozenset()
