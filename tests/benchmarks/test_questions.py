"""Questions survive the way to a Parquet row and back; impossible ones cannot be made."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.questions import Question
from stages.benchmarks.records import from_record, question_schema, to_record
from stages.core.errors import DataError

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)
seconds = st.floats(0, 1e6)


@st.composite
def questions(draw: st.DrawFn, open_ended: bool) -> Question:
    options = () if open_ended else tuple(draw(st.lists(texts, min_size=2, max_size=5)))
    start, end = sorted([draw(seconds), draw(seconds)])
    clipped = draw(st.booleans())
    spans = [sorted([draw(seconds), draw(seconds)]) for _ in range(draw(st.integers(0, 2)))]
    return Question(
        question_id=draw(texts),
        videos=tuple(draw(st.lists(texts, min_size=1, max_size=5))),
        question=draw(texts),
        options=options,
        answer=draw(st.none() | st.integers(0, len(options) - 1)) if options else None,
        answer_text=None if options else draw(st.none() | texts),
        start=start if clipped else None,
        end=end if clipped else None,
        type=draw(st.none() | texts),
        spans=tuple((low, high) for low, high in spans),
        split="val",
        source_row=draw(st.integers(1, 10**9)),
    )


@pytest.mark.parametrize("open_ended", [True, False])
@settings(deadline=None)
@given(data=st.data())
def test_a_question_comes_back_from_parquet_as_it_was(
    open_ended: bool, data: st.DataObject
) -> None:
    made = data.draw(st.lists(questions(open_ended), max_size=4))
    table = pa.Table.from_pylist([to_record(q) for q in made], question_schema(open_ended))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    back = pq.read_table(buffer).to_pylist()
    assert [from_record(record) for record in back] == made


VALID: dict[str, Any] = {
    "question_id": "a",
    "videos": ("v",),
    "question": "Who?",
    "options": ("x", "y"),
    "answer": 1,
    "answer_text": None,
    "start": 1.0,
    "end": 1.0,
    "type": None,
    "spans": (),
    "split": "val",
    "source_row": 1,
}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer": 2}, "answer"),
        ({"answer": -1}, "answer"),
        ({"answer_text": "x"}, "answer"),
        ({"options": ()}, "answer"),
        ({"videos": ()}, "video"),
        ({"videos": ("",)}, "video"),
        ({"question_id": ""}, "question_id"),
        ({"start": 2.0}, "end"),
        ({"start": -0.5}, "start"),
        ({"spans": ((2.0, 1.0),)}, "spans"),
        ({"spans": ((0.0, float("inf")),)}, "spans"),
        ({"answer_text": "\udcff", "options": (), "answer": None}, "answer"),
    ],
)
def test_an_impossible_question_names_its_field(change: dict[str, Any], field: str) -> None:
    Question(**VALID)
    with pytest.raises(DataError) as caught:
        Question(**(VALID | change))
    assert caught.value.message.startswith(f"{field}: ")


def test_truth_and_target_are_the_answer_in_both_forms() -> None:
    question = Question(**VALID)
    assert (question.truth, question.target_text, question.video) == (1, "y", "v")
    unlabelled = Question(**(VALID | {"answer": None}))
    assert (unlabelled.truth, unlabelled.target_text, unlabelled.labelled) == (None, None, False)
