"""Questions of one's own: documented fields in any container, and columns named by the caller."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.benchmarks.layouts.custom import ColumnMap
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.readers import ReadResult, read_questions
from stages.core.errors import DataError, UsageError

FLAGS = ["question=Frage", "video=clip", "options=a,b,c", "answer=gold", "type=kind"]
TABLE = (
    "nr;clip;Frage;a;b;c;gold;kind\n"
    "7;x.mp4;Was fällt?;Drachen;Stein;2;0;what\n"
    "8;y.mp4;Wie viele?;1;2;0;2;how\n"
    "9;y.mp4;Wer?;er;sie;es;sie;who\n"
)


def read(path: Path, columns: ColumnMap | None = None) -> ReadResult:
    return read_questions(load_manifest("custom"), "val", path, columns=columns)


def test_named_columns_make_questions_of_any_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(TABLE, encoding="utf-8")
    result = read(path, ColumnMap.from_flags(FLAGS))
    assert result.layout == "custom-columns"
    assert [question.question_id for question in result.questions] == ["0", "1", "2"]
    first, second, third = result.questions
    assert (first.question, first.video, first.options[2]) == ("Was fällt?", "x.mp4", "2")
    assert (first.answer, third.answer, first.type) == (0, 1, "what")
    # `2` is the text of the second option and the index of the third.
    assert second.answer == 1
    assert "both an option's text and an index" in result.warnings[0]
    named = read(path, ColumnMap.from_flags([*FLAGS, "question_id=nr"]))
    assert [question.question_id for question in named.questions] == ["7", "8", "9"]


@pytest.mark.parametrize("container", ["json", "jsonl", "keyed"])
def test_named_fields_work_in_json_too(tmp_path: Path, container: str) -> None:
    rows = [{"Q": "Who?", "V": "x.mp4", "O": ["he", "she"], "A": 1, "S": 1, "E": 2.5}]
    text = {
        "json": json.dumps(rows),
        "jsonl": json.dumps(rows[0]) + "\n",
        "keyed": json.dumps({"7": rows[0]}),
    }[container]
    path = tmp_path / "mine"
    path.write_text(text)
    flags = ["question=Q", "video=V", "options=O", "answer=A", "start=S", "end=E"]
    (question,) = read(path, ColumnMap.from_flags(flags)).questions
    assert (question.question, question.options, question.answer) == ("Who?", ("he", "she"), 1)
    assert (question.start, question.end) == (1.0, 2.5)


def test_tables_with_the_documented_names_need_no_flags(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "question_id,video,question,a0,a1,answer,spans\n"
        'q1,x.mp4,Who?,he,she,1,"[[1, 2]]"\n'
        "q2,x.mp4,Who?,he,she,,\n"
    )
    result = read(path)
    assert result.layout == "custom-csv"
    assert [question.answer for question in result.questions] == [1, None]
    assert result.questions[0].spans == ((1.0, 2.0),)
    path.write_text('question_id,video,question,options\nq1,x.mp4,Who?,"[""he"", ""she""]"\n')
    assert read(path).questions[0].options == ("he", "she")
    path.write_text(json.dumps([{"question_id": 1, "video": "x.mp4", "question": "Who?"}]))
    assert read(path).open_ended


def test_one_column_of_options_that_is_no_list_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("video,question,o\nx.mp4,Who?,he|she\n")
    (bad,) = read(path, ColumnMap(options=("o",))).bad_rows
    assert bad.field == "options"


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(TABLE, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read(path, ColumnMap.from_flags(["question=Frag", "video=clip"]))
    assert "'Frag'" in caught.value.message
    assert "'Frage'" in caught.value.hint


@pytest.mark.parametrize("flag", ["question", "frage=Q", "question=", "=Q"])
def test_a_wrong_flag_is_explained(flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        ColumnMap.from_flags([flag])
    assert "FIELD=COLUMN" in caught.value.hint


def test_a_field_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="twice"):
        ColumnMap.from_flags(["question=a", "question=b"])


def test_columns_are_for_custom_files_only(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(TABLE, encoding="utf-8")
    with pytest.raises(UsageError, match="columns"):
        read_questions(load_manifest("star"), "val", path, columns=ColumnMap())


def test_what_a_map_names_is_what_its_config_says() -> None:
    columns = ColumnMap.from_flags(FLAGS)
    assert columns.as_json() == {
        **{"video": "clip", "question": "Frage", "options": ["a", "b", "c"]},
        **{"answer": "gold", "type": "kind"},
    }


def test_a_file_without_a_known_shape_points_to_what_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(TABLE, encoding="utf-8")
    with pytest.raises(DataError, match="'nr', 'clip', 'Frage'"):
        read(path)


cell = st.text(st.characters(codec="utf-8", exclude_characters="\0\r")).filter(str.strip)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=5),
    delimiter=st.sampled_from([",", ";", "\t"]),
)
def test_whatever_the_cells_hold_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str, str]], delimiter: str
) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["video", "question", "one", "two"])
    writer.writerows(["x.mp4", question, one, two + "!"] for question, one, two in rows)
    path = tmp_path / "mine.csv"
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    result = read(path, ColumnMap(options=("one", "two")))
    found = [(q.question, *q.options) for q in result.questions]
    assert found == [(question, one, two + "!") for question, one, two in rows]
