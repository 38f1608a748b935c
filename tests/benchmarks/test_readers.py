"""Every annotation layout, written here in the published format with rows of our own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.benchmarks.manifest import load_manifest, parse_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.readers import (
    BadRow,
    QuestionStream,
    ReadResult,
    detect_layout,
    read_questions,
)
from stages.core.errors import DataError, MissingInput, UsageError

NEXTQA_HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
NEXTQA_ROWS = [
    "9001,300,640,480,why did the robot wave,2,0,CW,to swim,to dig,to greet,to hide,to eat",
    "9001,300,640,480,what did the robot do next,0,1,TN,None,NA,nan,null,sit ",
    "9002,120,320,240,where is this,4,0,DL,moon,sea,barn,cave,roof",
]
STAR_QUESTION: dict[str, Any] = {
    "question_id": "Sequence_T1_1",
    "question": "What happened after the robot lifted the kite?",
    "video_id": "AAA01",
    "start": 1.5,
    "end": 9,
    "answer": "Dug a hole.",
    "question_program": [{"function": "Situations", "value_input": []}],
    "choices": [
        {"choice_id": 1, "choice": "Dug a hole.", "choice_program": []},
        {"choice_id": 0, "choice": "Ate a stone.", "choice_program": []},
        {"choice_id": 2, "choice": "Sang.", "choice_program": []},
        {"choice_id": 3, "choice": "Slept.", "choice_program": []},
    ],
    "situations": {"000012": {"rel_pairs": [["o1", "o2"]], "bbox": [[0.0, 1.0, 2.0, 3.0]]}},
}
SEVILA_QUESTION: dict[str, Any] = {
    "video": "AAA01",
    "num_option": 4,
    "qid": "Feasibility_T3_2",
    "a0": "Fly.",
    "a1": "Dig.",
    "a2": "Swim.",
    "a3": "Sing.",
    "answer": 3,
    "question": "What can the robot do?",
    "start": 0.0,
    "end": 4.25,
}
OPEN_QUESTION: dict[str, Any] = {
    "answer": "robot",
    "category_id": 3,
    "id": 77,
    "question": "who digs a hole?",
    "video_id": 12,
}
CUSTOM_QUESTION: dict[str, Any] = {
    "question_id": "q1",
    "video": "clips/one.mp4",
    "question": "What colour is the kite?",
    "options": ["red", "blue"],
    "answer": 1,
}

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        data = text.encode("utf-8", "surrogateescape")
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write_file


def read(benchmark: str, path: Path, split: str = "val", **options: Any) -> ReadResult:
    return read_questions(load_manifest(benchmark), split, path, **options)


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def csv_text(*rows: str) -> str:
    return "\n".join([NEXTQA_HEADER, *rows]) + "\n"


@pytest.mark.parametrize("name", ["val.csv", "val.csv.gz", "answers.json"])
def test_nextqa_with_index_answers_is_read_whatever_the_file_is_called(
    write: Write, name: str
) -> None:
    result = read("nextqa", write(name, csv_text(*NEXTQA_ROWS)), "dev")
    assert result.layout == "nextqa-csv"
    assert not result.bad_rows
    assert not result.warnings
    first, second, third = result.questions
    assert (first.question_id, first.video, first.answer) == ("9001_0", "9001", 2)
    assert (first.type, first.split, first.source_row) == ("CW", "val", 1)
    assert second.options == ("None", "NA", "nan", "null", "sit ")
    assert third.target_text == "roof"
    assert (first.start, first.end, first.spans) == (None, None, ())


def test_nextqa_with_text_answers_gives_the_same_questions(write: Write) -> None:
    by_index = read("nextqa", write("a.csv", csv_text(*NEXTQA_ROWS))).questions
    spelled = []
    for row in NEXTQA_ROWS:
        cells = row.split(",")
        cells[5] = cells[8 + int(cells[5])]
        spelled.append(",".join(cells))
    text = csv_text(*spelled).replace("video,", "video_id,", 1)
    result = read("nextqa", write("b.csv", text))
    assert result.layout == "nextqa-text-csv"
    assert result.questions == by_index


def test_an_answer_text_that_fits_two_options_is_counted(write: Write) -> None:
    row = "9001,300,640,480,who waves,happy,0,CW,sad,happy,blue,happy,red"
    result = read("nextqa", write("b.csv", csv_text(row).replace("video,", "video_id,", 1)))
    assert result.questions[0].answer == 1
    assert len(result.warnings) == 1
    assert "1 rows" in result.warnings[0]


def test_an_exact_answer_text_is_preferred_to_one_without_blanks(write: Write) -> None:
    rows = [
        "9001,300,640,480,who waves,happy ,0,CW,happy,happy ,blue,red,sad",
        "9001,300,640,480,who waves, sad,1,CW,happy,happy ,blue,red,sad",
    ]
    result = read("nextqa", write("b.csv", csv_text(*rows).replace("video,", "video_id,", 1)))
    assert [question.answer for question in result.questions] == [1, 4]
    assert not result.warnings


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ("nextqa-csv", csv_text(*NEXTQA_ROWS)),
        ("nextqa-text-csv", csv_text(*NEXTQA_ROWS).replace("video,", "video_id,", 1)),
        ("hqga-csv", "video,question,answer,qid\n12,who digs,robot,77\n"),
        ("star-json", json.dumps([STAR_QUESTION])),
        ("sevila-json", json.dumps([SEVILA_QUESTION])),
        ("open-json", json.dumps([OPEN_QUESTION])),
        ("open-json", json.dumps([None, 3, OPEN_QUESTION])),
        ("custom-jsonl", lines(CUSTOM_QUESTION)),
        ("custom-jsonl", '{"broken\n' + lines(CUSTOM_QUESTION)),
    ],
)
def test_each_layout_is_told_from_all_others_by_its_content(
    write: Write, layout: str, text: str
) -> None:
    assert detect_layout(write("file", text)) == layout


def test_the_video_map_beside_the_annotations_is_found(write: Write, tmp_path: Path) -> None:
    annotations = write("val.csv", csv_text(*NEXTQA_ROWS))
    write("map_vid_vidorID.json.gz", json.dumps({"9001": "0101/9001"}))
    result = read("nextqa", annotations)
    assert [question.video for question in result.questions] == ["0101/9001", "0101/9001", "9002"]
    assert "9002" not in str(result.bad_rows)
    assert "video map" in result.warnings[0]
    other = write("other.json", json.dumps({"9001": "x/1", "9002": "x/2"}))
    given = read("nextqa", annotations, mapping=other)
    assert [question.video for question in given.questions] == ["x/1", "x/1", "x/2"]
    assert [question.question_id for question in given.questions] == ["9001_0", "9001_1", "9002_0"]


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}', "{", "[" * 100_000])
def test_a_broken_video_map_is_named(write: Write, text: str) -> None:
    annotations = write("val.csv", csv_text(*NEXTQA_ROWS))
    with pytest.raises(DataError, match="video map"):
        read("nextqa", annotations, mapping=write("map.json", text))


@pytest.mark.parametrize("indent", [None, 1])
def test_star_official_layout(write: Write, indent: int | None) -> None:
    path = write("STAR_val.json", json.dumps([STAR_QUESTION], indent=indent))
    (question,) = read("star", path).questions
    assert question.options == ("Ate a stone.", "Dug a hole.", "Sang.", "Slept.")
    assert (question.answer, question.type, question.video) == (1, "Sequence", "AAA01")
    assert (question.start, question.end) == (1.5, 9.0)


def test_star_takes_the_last_of_equal_choices_as_its_preparation_does(write: Write) -> None:
    choices = [{"choice_id": i, "choice": text} for i, text in enumerate(["Sat.", "Ran."] * 2)]
    record = STAR_QUESTION | {"choices": choices, "answer": "Sat."}
    result = read("star", write("v.json", json.dumps([record])))
    assert result.questions[0].answer == 2
    assert "the last one" in result.warnings[0]


def test_star_without_answers_is_unlabelled(write: Write) -> None:
    unlabelled = {key: value for key, value in STAR_QUESTION.items() if key != "answer"}
    (question,) = read("star", write("t.json", json.dumps([unlabelled])), "test").questions
    assert not question.labelled
    assert question.target_text is None


def test_star_reduced_layout(write: Write) -> None:
    (question,) = read("star", write("v.json", json.dumps([SEVILA_QUESTION]))).questions
    assert (question.question_id, question.type) == ("Feasibility_T3_2", "Feasibility")
    assert question.target_text == "Sing."
    assert (question.start, question.end) == (0.0, 4.25)


def test_msrvtt_in_both_layouts_gives_the_same_answers(write: Write) -> None:
    a = read("msrvtt-qa", write("qa.json", json.dumps([OPEN_QUESTION])))
    b = read("msrvtt-qa", write("qa.csv", "video,question,answer,qid,type\n12,who digs,robot,77,3"))
    assert (a.layout, b.layout) == ("open-json", "hqga-csv")
    assert a.open_ended
    assert b.open_ended
    for result in (a, b):
        (question,) = result.questions
        assert (question.question_id, question.video) == ("77", "video12")
        assert (question.type, question.answer, question.answer_text) == ("who", None, "robot")
        assert question.truth == question.target_text == "robot"


def test_custom_questions_with_everything_optional(write: Write) -> None:
    full = CUSTOM_QUESTION | {
        "question_id": "q2",
        "answer": "red",
        "start": 1,
        "end": 2.5,
        "type": "colour",
        "spans": [[1, 1.5], [2.0, 2.25]],
    }
    unlabelled = {k: v for k, v in CUSTOM_QUESTION.items() if k != "answer"} | {"question_id": 3}
    result = read("custom", write("mine.jsonl", lines(CUSTOM_QUESTION, full, unlabelled)))
    assert not result.bad_rows
    assert not result.open_ended
    one, two, three = result.questions
    assert (one.answer, one.video, one.start) == (1, "clips/one.mp4", None)
    assert (two.answer, two.type, two.spans) == (0, "colour", ((1.0, 1.5), (2.0, 2.25)))
    assert (three.question_id, three.labelled) == ("3", False)


def test_a_custom_file_is_open_ended_when_its_first_question_is(write: Write) -> None:
    open_ended = {"question_id": "a", "video": "v.mp4", "question": "Who?", "answer": "nobody"}
    result = read("custom", write("mine.jsonl", lines(open_ended, CUSTOM_QUESTION)))
    assert result.open_ended
    assert [question.answer_text for question in result.questions] == ["nobody"]
    assert result.bad_rows[0].field == "options"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer": 2}, "answer"),
        ({"answer": -1}, "answer"),
        ({"answer": True}, "answer"),
        ({"answer": 1.0}, "answer"),
        ({"answer": "green"}, "answer"),
        ({"video": None}, "video"),
        ({"video": " "}, "video"),
        ({"video": 7}, "video"),
        ({"question": ""}, "question"),
        ({"question": "lone \ud800 surrogate"}, "question"),
        ({"question_id": ["x"]}, "question_id"),
        ({"options": ["red"]}, "options"),
        ({"options": "red"}, "options"),
        ({"options": ["red", None]}, "options"),
        ({"options": ["red", ""]}, "options[1]"),
        ({"options": [str(number) for number in range(27)]}, "options"),
        ({"start": "soon"}, "start"),
        ({"start": -1}, "start"),
        ({"start": float("nan")}, "start"),
        ({"end": float("inf")}, "end"),
        ({"start": 3, "end": 2}, "end"),
        ({"spans": [[2, 1]]}, "spans"),
        ({"spans": [[1]]}, "spans"),
        ({"spans": 3}, "spans"),
        ({"type": 3}, "type"),
    ],
)
def test_a_bad_custom_row_costs_itself_and_names_its_field(
    write: Write, change: dict[str, Any], field: str
) -> None:
    good = CUSTOM_QUESTION | {"question_id": "good"}
    last = CUSTOM_QUESTION | {"question_id": "last"}
    path = write("mine.jsonl", lines(good, CUSTOM_QUESTION | change, last))
    result = read("custom", path)
    assert [question.question_id for question in result.questions] == ["good", "last"]
    (bad,) = result.bad_rows
    assert (bad.file, bad.row, bad.field) == ("mine.jsonl", 2, field)
    assert bad.reason


def test_equal_start_and_end_are_allowed(write: Write) -> None:
    path = write("mine.jsonl", lines(CUSTOM_QUESTION | {"start": 2, "end": 2}))
    assert len(read("custom", path).questions) == 1


def test_lines_that_are_no_objects_cost_themselves(write: Write) -> None:
    text = (
        '{"question_id": oops}\n'
        + lines(CUSTOM_QUESTION)
        + "\n[1]\n"
        + "[" * 200_000
        + "\n"
        + '{"n": '
        + "9" * 6000
        + "}\n"
    )
    result = read("custom", write("mine.jsonl", text))
    assert len(result.questions) == 1
    assert [bad.row for bad in result.bad_rows] == [1, 4, 5, 6]


def test_an_id_that_comes_again_is_a_bad_row(write: Write) -> None:
    result = read("custom", write("mine.jsonl", lines(CUSTOM_QUESTION, CUSTOM_QUESTION)))
    assert len(result.questions) == 1
    assert result.bad_rows[0].field == "question_id"
    assert "second time" in result.bad_rows[0].reason


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("9003,1,1,1,why,five,0,CW,a,b,c,d,e", "answer"),
        ("9003,1,1,1,why,5,0,CW,a,b,c,d,e", "answer"),
        ("9003,1,1,1,why,1,0,CW,a,b,c,d", "record"),
        ("9003,1,1,1,why,1,0,CW,a,b,c,d,e,f", "record"),
        ('9003,1,1,1,"why,1,0,CW,a,b,c,d,e', "record"),
        ("9003,1,1,1,why,1,0,CW,a,b,,d,e", "options[2]"),
        ("9003,1,1,1,why\udcff,1,0,CW,a,b,c,d,e", "question"),
        (",1,1,1,why,1,0,CW,a,b,c,d,e", "video"),
    ],
)
def test_a_bad_csv_row_costs_itself(write: Write, row: str, field: str) -> None:
    path = write("val.csv", csv_text(NEXTQA_ROWS[0], row, *NEXTQA_ROWS[1:]))
    result = read("nextqa", path)
    assert [question.source_row for question in result.questions] == [1, 3, 4]
    (bad,) = result.bad_rows
    assert (bad.row, bad.field) == (2, field)


def test_quoted_cells_may_hold_commas_quotes_and_lines(write: Write) -> None:
    row = '9003,1,1,1,"who said ""no"", and\nwhy",1.0,0,CW,a,b,c,d,e'
    result = read("nextqa", write("val.csv", csv_text(row, NEXTQA_ROWS[0])))
    assert [question.source_row for question in result.questions] == [1, 2]
    assert result.questions[0].question == 'who said "no", and\nwhy'
    assert result.questions[0].answer == 1


def test_windows_line_ends_and_a_byte_order_mark_are_read(write: Write) -> None:
    text = "\ufeff" + csv_text(*NEXTQA_ROWS).replace("\n", "\r\n")
    result = read("nextqa", write("val.csv", text))
    assert len(result.questions) == 3
    assert result.questions[0].options[4] == "to eat"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer": "Flew."}, "answer"),
        ({"end": None}, "end"),
        ({"choices": []}, "options"),
        ({"choices": None}, "choices"),
        ({"choices": STAR_QUESTION["choices"][:3]}, "choices"),
        ({"choices": [{"choice_id": 0}]}, "choices"),
        ({"video_id": None}, "video_id"),
        ({"question_id": None}, "question_id"),
    ],
)
def test_a_bad_star_row_names_its_field(write: Write, change: dict[str, Any], field: str) -> None:
    path = write("v.json", json.dumps([STAR_QUESTION, STAR_QUESTION | change]))
    result = read("star", path)
    assert len(result.questions) == 1
    # A row without three of its four choices is caught where the gap shows first.
    assert result.bad_rows[0].row == 2
    assert result.bad_rows[0].field in {field, "options", "choice"}


def test_a_declared_number_of_options_must_be_true(write: Write) -> None:
    path = write("v.json", json.dumps([SEVILA_QUESTION | {"num_option": 5}]))
    assert read("star", path).bad_rows[0].field == "num_option"


def test_an_unknown_type_is_kept_and_warned_about(write: Write) -> None:
    path = write("v.json", json.dumps([SEVILA_QUESTION | {"qid": "Riddle_T1_1"}, SEVILA_QUESTION]))
    result = read("star", path)
    assert result.questions[0].type == "Riddle"
    assert "Riddle" in result.warnings[0]


def test_a_list_that_breaks_off_names_the_row(write: Write) -> None:
    text = json.dumps([STAR_QUESTION, STAR_QUESTION | {"question_id": "Sequence_T1_2"}])
    with pytest.raises(DataError, match="row 2 is not JSON"):
        read("star", write("v.json", text[:-40]))


@pytest.mark.parametrize("rest", ["]{", "x", ", {}]", '"'])
def test_text_after_a_list_is_refused(write: Write, rest: str) -> None:
    with pytest.raises(DataError, match="after the list"):
        read("star", write("v.json", json.dumps([STAR_QUESTION]) + rest))


@pytest.mark.parametrize("rest", ["]", "}", "\n}\n", " ] }"])
def test_a_bracket_too_many_at_the_end_is_only_warned_about(write: Write, rest: str) -> None:
    result = read("star", write("v.json", json.dumps([STAR_QUESTION]) + rest))
    assert len(result.questions) == 1
    assert "surplus bracket" in result.warnings[0]


@pytest.mark.parametrize(
    ("benchmark", "text", "words"),
    [
        ("star", lines(CUSTOM_QUESTION), ["custom-jsonl", "question_id"]),
        ("nextqa", json.dumps([STAR_QUESTION]), ["star-json", "choices"]),
        ("star", "a;b;c\n1;2;3\n", ["unknown layout", "'a', 'b', 'c'"]),
        (
            "star",
            json.dumps({"0": STAR_QUESTION}, indent=1),
            ["unknown layout", "keyed", "choices"],
        ),
        ("star", "[]", ["unknown layout", "no readable"]),
        ("star", "[1, 2]", ["unknown layout"]),
        ("nextqa", "video,video,question\n", ["twice"]),
        ("star", " \n ", ["empty"]),
        ("star", "", ["empty"]),
    ],
)
def test_an_unknown_layout_says_what_was_seen(
    write: Write, benchmark: str, text: str, words: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        read(benchmark, write("file", text))
    assert all(word in caught.value.message for word in words)


def test_a_layout_that_fits_twice_is_ambiguous(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.benchmarks import readers

    monkeypatch.setitem(readers.LAYOUTS, "copy", readers.LAYOUTS["open-json"])
    with pytest.raises(DataError, match="ambiguous"):
        detect_layout(write("qa.json", json.dumps([OPEN_QUESTION])), ("open-json", "copy"))


def test_a_new_benchmark_with_a_known_layout_needs_no_code(write: Write) -> None:
    toml = """
        name = "kitchen"
        title = "Kitchen"
        task = "multiple-choice"
        citation = ""
        licence = ""
        get = []
        layouts = ["sevila-json"]
        num_options = 4
        question_id = "{video}-{qid}"
        clip = "whole"
        answer_default = "rank"
        splits.val.roles = ["report"]
        types.source = "first-word"
        videos.template = "clips/{video}"
    """
    manifest = parse_manifest(toml, "kitchen.toml")
    (question,) = read_questions(
        manifest, "val", write("k.json", json.dumps([SEVILA_QUESTION]))
    ).questions
    assert question.question_id == "AAA01-Feasibility_T3_2"
    assert (question.video, question.type) == ("clips/AAA01", "what")
    assert question.start is None


def test_the_wrong_split_and_the_missing_file_are_told_apart(write: Write) -> None:
    path = write("v.json", json.dumps([SEVILA_QUESTION]))
    with pytest.raises(UsageError):
        read("star", path, "minival")
    with pytest.raises(MissingInput):
        read("star", path.with_name("absent.json"))


def test_a_stream_gives_rows_one_by_one_in_the_files_order(write: Write) -> None:
    path = write("mine.jsonl", lines(CUSTOM_QUESTION, {}, CUSTOM_QUESTION | {"question_id": "z"}))
    stream = QuestionStream(load_manifest("custom"), "val", path)
    kinds = [type(item) for item in stream]
    assert kinds == [Question, BadRow, Question]
    again = [item for item in stream if isinstance(item, BadRow)]
    assert [str(bad) for bad in again] == ["mine.jsonl: row 2: question_id: missing"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from([*CUSTOM_QUESTION, "start", "end", "spans", "type"]), json_values
        )
    )
)
def test_whatever_a_row_holds_each_row_is_a_question_or_a_bad_row(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path / "fuzz.jsonl"
    path.write_text(lines(CUSTOM_QUESTION | {"question_id": "the first one"}, *rows))
    result = read("custom", path)
    assert result.num_rows == len(rows) + 1
    assert len({question.question_id for question in result.questions}) == len(result.questions)
