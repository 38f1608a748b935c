"""Each annotation layout, written here in the published format with rows of our own."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.benchmarks.layouts import LAYOUTS
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.readers import (
    QuestionStream,
    ReadResult,
    detect_layout,
    read_questions,
)
from stages.core.errors import DataError, MissingInput, UsageError

HOW2QA_ROW = ["kite0000001", "[7.2:18.0]", "None", "red, blue", "9", "What is flown?", "a kite"]
VALUE_ROW = {
    **{"vid_name": "12", "ts": "1.5-9.25", "qid": 77, "q": "What is flown?"},
    **{"a0": "A kite.", "a1": "None", "a2": "9", "a3": "Red.", "answer_idx": 3},
}
TVQA_ROW = {
    **{"vid_name": "castle_s01e01_seg02_clip_00", "ts": "0.5-60.1", "qid": 5, "q": "Who digs?"},
    **{"a0": "He ", "a1": "She", "a2": "They", "a3": "It", "a4": "We", "answer_idx": 4},
    "show_name": "Castle",
}
TVQA_PLUS_ROW = {
    **{"vid_name": "s01e01_seg02_clip_00", "ts": [0.5, 60.1], "qid": 5, "q": "Who digs ?"},
    **{"a0": "He", "a1": "She", "a2": "They", "a3": "It", "a4": "We", "answer_idx": "2"},
    "bbox": {"1": [{"img_id": 1, "top": 1, "left": 2, "width": 3, "height": 4, "label": "It"}]},
}
VLEP_ROW = {
    **{"example_id": 9, "vid_name": "kite0000001_subs_003_00:04:00_00:05:00_ep", "split": "dev"},
    **{"ts": [1.5, 9.25], "events": ["It will rain.", "It will snow."], "answer": 1},
}
MOMENT_ROW = {
    **{"qid": 31, "query": "A kite falls", "duration": 10, "vid": "kite0000001_60.0_70.0"},
    **{"relevant_windows": [[2, 4], [6, 10]], "relevant_clip_ids": [1, 3, 4]},
    "saliency_scores": [[1, 0, 4], [2, 2, 2], [0, 0, 3]],
}
CLIPBERT_ROW = {
    "answer": "kite",
    "question": "what falls?",
    "video_id": "video7",
    "answer_type": "what",
}
LAVIS_ROW = {
    **{"answer": "kite", "question": "what falls?", "answer_type": "what", "frame_length": 9},
    **{"question_id": "0000004", "dataset": "msrvtt", "video": "video7"},
}
AGQA_ROW = {
    **{"question": "Did it fall?", "answer": "no", "video_id": "AAA01", "global": ["exists"]},
    **{"ans_type": "binary", "semantic": "object", "structural": "verify", "steps": 1},
}
EGOTASK_ROW = {
    **{"question": "What falls?", "answer": "kite", "interval": "1-2|fpv1|48|120"},
    **{"type": ["descriptive", "predictive"], "category": ["world"], "semantic": "object"},
    **{"structural": "query", "reference": "direct", "question_id": 4, "video_id": "1-2"},
}


def egomcq_clip(uid: str, start: float, end: float, text: str = "#C C digs") -> dict[str, Any]:
    return {
        **{"video_uid": uid, "clip_start": start, "clip_end": end, "clip_text": text},
        **{"tag_noun": "[1]", "tag_verb": "[2]"},
    }


EGOMCQ_ROW = {
    "answer": 3,
    "types": 2,
    "query": egomcq_clip("u3", 650.0, 651.5),
    "choices": {
        str(number): egomcq_clip(
            f"u{number}", 598.0 + 26 * (number == 3), 601.0 + 26 * (number == 3)
        )
        for number in range(5)
    },
}
MC_ROW = {
    **{"qid": "mc0", "clip_name": "video7", "title": "msr1", "answer": "4"},
    "options": ["a kite", "a stone", "a hole", "a song", "a robot"],
}
SENTENCE_ROW = {
    **{"annotation_id": 1, "description": "the kite falls", "video": "1@N00_2_3.mov"},
    **{"times": [[0, 0], [1, 1]], "num_segments": 6, "dl_link": "https://example.org"},
}
AGQA_CSV_ROW = {
    "question": "Is it?",
    "answer": "no",
    "gif_name": "AAA01",
    "vid_id": "3",
    "key": "k-1",
}
TEST_LIST_ROW = {"key": "ret0", "vid_key": "msr7", "video_id": "video7", "sentence": "a kite falls"}


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows: list[dict[str, str]], delimiter: str = ",", end: str = "\n") -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def cells(*rows: list[str], delimiter: str = ",") -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return stream.getvalue()


EXAMPLES: dict[str, tuple[str, str, str]] = {
    "how2qa-csv": ("how2qa", "val", cells(HOW2QA_ROW)),
    "how2qa-jsonl": ("how2qa", "val", jsonl(VALUE_ROW)),
    "tvqa-jsonl": ("tvqa", "val", jsonl(TVQA_ROW)),
    "tvqa-plus-json": ("tvqa", "val", json.dumps([TVQA_PLUS_ROW])),
    "vlep-jsonl": ("vlep", "dev", jsonl(VLEP_ROW)),
    "msrvtt-mc-jsonl": ("msrvtt-mc", "test", jsonl(MC_ROW)),
    "clipbert-jsonl": ("msrvtt-qa", "val", jsonl(CLIPBERT_ROW)),
    "lavis-keyed": ("msrvtt-qa", "val", json.dumps({"0000004": LAVIS_ROW}, indent=4)),
    "agqa-keyed": ("agqa", "test", json.dumps({"AAA01-3": AGQA_ROW})),
    "agqa-csv": ("agqa", "test", table([AGQA_CSV_ROW])),
    "egotaskqa-json": ("egotaskqa", "test", json.dumps([EGOTASK_ROW])),
    "qvhighlights-jsonl": ("qvhighlights", "val", jsonl(MOMENT_ROW)),
    "egomcq-keyed": ("egomcq", "val", json.dumps({"0": EGOMCQ_ROW})),
    "msrvtt-1ka-csv": ("msrvtt-retrieval", "test", table([TEST_LIST_ROW])),
    "video-list-csv": ("msrvtt-retrieval", "train", "video_id\nvideo7\n"),
    "didemo-tsv": ("didemo", "test", cells(["a kite,\nfalls, ", "1@N00_2.mp4"], delimiter="\t")),
    "didemo-json": ("didemo", "test", json.dumps([SENTENCE_ROW])),
}
"""Layout -> benchmark, split and a file."""

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return write_file


def read(benchmark: str, path: Path, split: str = "val", **options: Any) -> ReadResult:
    return read_questions(load_manifest(benchmark), split, path, **options)


def one(benchmark: str, path: Path, split: str = "val", **options: Any) -> Question:
    result = read(benchmark, path, split, **options)
    assert not result.bad_rows
    (question,) = result.questions
    return question


@pytest.mark.parametrize("layout", EXAMPLES)
def test_each_layout_is_told_from_all_others_by_its_content(write: Write, layout: str) -> None:
    benchmark, split, text = EXAMPLES[layout]
    path = write("file", text)
    assert detect_layout(path) == layout
    result = read(benchmark, path, split)
    assert result.layout == layout
    assert not result.bad_rows
    assert len(result.questions) == 1


@pytest.mark.parametrize("layout", EXAMPLES)
def test_each_file_is_refused_by_every_benchmark_that_does_not_take_it(
    write: Write, layout: str
) -> None:
    path = write("file", EXAMPLES[layout][2])
    for other in ("nextqa", "star", "tvqa", "agqa", "custom", "didemo", "egomcq"):
        manifest = load_manifest(other)
        if layout not in manifest.layouts:
            with pytest.raises(DataError, match=layout):
                read_questions(manifest, manifest.report_split, path)


def test_every_layout_has_an_example_somewhere() -> None:
    elsewhere = {"nextqa-csv", "nextqa-text-csv", "star-json", "sevila-json", "open-json"}
    elsewhere |= {"hqga-csv", "custom-jsonl", "custom-json", "custom-csv", "captions-jsonl"}
    assert set(LAYOUTS) == set(EXAMPLES) | elsewhere


# --- How2QA ------------------------------------------------------------------------------------


def test_how2qa_without_an_order_of_options_gets_one_that_never_changes(write: Write) -> None:
    path = write("val.csv", cells(*[HOW2QA_ROW] * 400))
    questions = read("how2qa", path).questions
    assert questions == read("how2qa", path).questions
    assert questions[0].question_id == "val_0"
    assert (questions[0].start, questions[0].end) == (7.2, 18.0)
    for question in questions:
        assert question.target_text == "a kite"
        assert [o for o in question.options if o != "a kite"] == ["None", "red, blue", "9"]
    places = Counter(question.answer for question in questions)
    assert all(60 < places[place] < 140 for place in range(4)), places


def test_how2qa_with_the_right_option_among_the_wrong_ones_keeps_the_files_answer(
    write: Write,
) -> None:
    rows = [[*HOW2QA_ROW[:2], "x", "y", "a kite", *HOW2QA_ROW[5:]] for _ in range(20)]
    for question in read("how2qa", write("val.csv", cells(*rows))).questions:
        assert question.target_text == "a kite"
        assert sorted(question.options) == ["a kite", "a kite", "x", "y"]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ([*HOW2QA_ROW, "more"], "record"),
        (HOW2QA_ROW[:6], "record"),
        ([HOW2QA_ROW[0], "[18:7]", *HOW2QA_ROW[2:]], "end"),
        ([HOW2QA_ROW[0], "soon", *HOW2QA_ROW[2:]], "column 2"),
        (["", *HOW2QA_ROW[1:]], "video"),
        ([*HOW2QA_ROW[:5], "", "a kite"], "question"),
    ],
)
def test_a_bad_how2qa_row_costs_itself(write: Write, row: list[str], field: str) -> None:
    result = read("how2qa", write("val.csv", cells(HOW2QA_ROW, HOW2QA_ROW, row)))
    assert [question.question_id for question in result.questions] == ["val_0", "val_1"]
    assert [(bad.row, bad.field) for bad in result.bad_rows] == [(3, field)]


def test_value_release_has_its_own_ids_and_names(write: Write) -> None:
    write("how2_vid_mapping.json", json.dumps({"12": "kite0000001_60_120"}))
    path = write("val.jsonl", jsonl(VALUE_ROW))
    stream = QuestionStream(load_manifest("how2qa"), "val", path)
    (question,) = [item for item in stream if isinstance(item, Question)]
    assert stream.release == "VALUE"
    assert (question.question_id, question.video, question.answer) == ("77", "12", 3)
    assert (question.start, question.end, question.options[1]) == (1.5, 9.25, "None")
    assert stream.candidates("12") == ["12", "kite0000001_60_120"]


def test_a_copy_without_ids_is_numbered_by_row(write: Write) -> None:
    row = {key: value for key, value in VALUE_ROW.items() if key != "qid"}
    questions = read("how2qa", write("val.jsonl", jsonl(row, row))).questions
    assert [question.question_id for question in questions] == ["0", "1"]


# --- TVQA and VLEP -----------------------------------------------------------------------------


def test_tvqa_times_of_nan_are_the_whole_video_and_counted(write: Write) -> None:
    rows = [TVQA_ROW | {"qid": n, "ts": ts} for n, ts in enumerate(["NaN-NaN", "0-0", "3-nan"])]
    result = read("tvqa", write("t.jsonl", jsonl(*rows)))
    spans = [(question.start, question.end) for question in result.questions]
    assert spans == [(None, None), (0.0, 0.0), (None, None)]
    assert result.warnings == ["the clip's times are NaN, the whole video is taken (2 rows)"]


@pytest.mark.parametrize("ts", [None, "", "5", "1-2-3", [1], "b-a", "9-3", {}])
def test_tvqa_times_that_are_none_are_a_bad_row(write: Write, ts: Any) -> None:
    result = read("tvqa", write("t.jsonl", jsonl(TVQA_ROW, TVQA_ROW | {"qid": 6, "ts": ts})))
    assert [bad.field for bad in result.bad_rows] == ["end" if ts == "9-3" else "ts"]


def test_tvqa_plus_index_is_text_and_its_times_a_list(write: Write) -> None:
    path = write("plus.json", json.dumps([TVQA_PLUS_ROW]))
    question = one("tvqa", path)
    assert (question.answer, question.start, question.end) == (2, 0.5, 60.1)
    assert question.type == "The Big Bang Theory"
    assert read("tvqa", path).release == "TVQA+"


def test_tvqa_videos_are_tried_as_files_and_as_frame_folders() -> None:
    rule = load_manifest("tvqa").videos
    castle, bang = "castle_s01e01_seg02_clip_00", "s01e01_seg02_clip_00"
    assert rule.candidates(castle) == [
        castle,
        f"videos_3fps_with_audio/{castle}",
        f"castle_frames/{castle}",
    ]
    assert rule.candidates(bang)[-1] == f"bbt_frames/{bang}"


def test_vlep_asks_the_reference_question_and_prompts_as_it_does(write: Write) -> None:
    from stages.benchmarks.prompts import letter_prompt, target

    manifest = load_manifest("vlep")
    question = one("vlep", write("dev.jsonl", jsonl(VLEP_ROW)))
    assert (question.question_id, question.type, question.answer) == ("9", "youtube", 1)
    assert letter_prompt(question, manifest.prompt) == (
        "Upon observing the provided frames, what is the most probable subsequent event? "
        "Option A: It will rain. Option B: It will snow."
    )
    assert target(question, "letter") == "Option B"


def test_vlep_in_the_reduced_form_gives_the_same_question(write: Write) -> None:
    reduced = {
        **{"video": "/data/vlep_ytb_clips/" + str(VLEP_ROW["vid_name"]), "num_option": 2},
        **{"qid": "VLEP_9", "a0": "It will rain.", "a1": "It will snow.", "answer": 1},
        **{"start": 1.5, "end": 9.25},
    }
    question = one("vlep", write("dev.json", json.dumps([reduced])))
    official = one("vlep", write("dev.jsonl", jsonl(VLEP_ROW)))
    assert (question.question_id, question.question, question.options, question.answer) == (
        official.question_id,
        official.question,
        official.options,
        official.answer,
    )
    assert official.video in load_manifest("vlep").videos.candidates(question.video)


@pytest.mark.parametrize(
    ("benchmark", "qid", "asked"),
    [
        ("star", "Sequence_T1_1", "Sequence_T1_1"),
        ("how2qa", "HOW2QA_3", "HOW2QA_3"),
        ("tvqa", "TVQA_3", "TVQA_3"),
        ("nextqa", "TN_9001_3", "9001_3"),
        ("vlep", "VLEP_3", "3"),
    ],
)
def test_reduced_files_of_the_five_benchmarks_are_not_mixed_up(
    write: Write, benchmark: str, qid: str, asked: str
) -> None:
    options = {"star": 4, "how2qa": 4, "tvqa": 5, "nextqa": 5, "vlep": 2}
    record = {
        **{"video": "clips/9001", "num_option": options[benchmark], "qid": qid, "answer": 0},
        **{f"a{number}": f"text {number}." for number in range(options[benchmark])},
        **{"question": "Why?", "start": "1.5", "end": 2},
    }
    path = write("reduced.json", json.dumps([record]))
    question = one(benchmark, path)
    assert (question.question_id, question.video) == (asked, "clips/9001")
    for other in set(options) - {benchmark}:
        with pytest.raises(DataError, match="is not"):
            read(other, path)


def test_reduced_nextqa_loses_the_endings_that_were_appended(write: Write) -> None:
    record = {
        **{"video": "1150/9001", "num_option": 5, "qid": "TN_9001_3", "answer": 4},
        **{f"a{number}": f"text {number}." for number in range(5)},
        "question": "what is next?",
    }
    write("map_vid_vidorID.json", json.dumps({"9001": "1150/9001"}))
    result = read("nextqa", write("val.json", json.dumps([record])))
    (question,) = result.questions
    assert (question.question, question.options[0]) == ("what is next", "text 0")
    assert (question.type, question.video, result.warnings) == ("TN", "1150/9001", [])


# --- QVHighlights ------------------------------------------------------------------------------


def test_moments_have_spans_and_dense_ratings(write: Write) -> None:
    question = one("qvhighlights", write("val.jsonl", jsonl(MOMENT_ROW)))
    assert (question.question_id, question.question, question.duration) == (
        "31",
        "A kite falls",
        10,
    )
    assert question.spans == ((2.0, 4.0), (6.0, 10.0))
    assert question.saliency == ((0, 0, 0), (1, 0, 4), (0, 0, 0), (2, 2, 2), (0, 0, 3))
    assert (question.options, question.start) == ((), None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"relevant_clip_ids": [1, 3]}, "saliency_scores"),
        ({"relevant_clip_ids": [1, 3, 5]}, "relevant_clip_ids"),
        ({"saliency_scores": [[1], [1, 2], [3]]}, "saliency_scores"),
        ({"saliency_scores": [[1], [5], [3]]}, "saliency_scores"),
        ({"saliency_scores": [1, 2, 3]}, "saliency_scores"),
        ({"relevant_windows": [[4, 2]]}, "spans"),
        ({"relevant_windows": [[4]]}, "relevant_windows"),
        ({"duration": None}, "duration"),
        ({"duration": 0}, "relevant_clip_ids"),
        ({"query": ""}, "question"),
    ],
)
def test_a_bad_moment_names_its_field(write: Write, change: dict[str, Any], field: str) -> None:
    result = read("qvhighlights", write("val.jsonl", jsonl(MOMENT_ROW | change)))
    assert [bad.field for bad in result.bad_rows] == [field]


# --- open-ended --------------------------------------------------------------------------------


def test_msrvtt_dialects_give_one_question(write: Write) -> None:
    original = {
        "answer": "kite",
        "id": 4,
        "category_id": 3,
        "question": "what falls?",
        "video_id": 7,
    }
    files = {
        "open-json": json.dumps([original]),
        "hqga-csv": "video,question,answer,qid,type\n7,what falls,kite,4,3\n",
        "clipbert-jsonl": jsonl(CLIPBERT_ROW),
        "lavis-keyed": json.dumps({"0000004": LAVIS_ROW}),
    }
    for layout, text in files.items():
        path = write("file", text)
        assert read("msrvtt-qa", path).layout == layout
        question = one("msrvtt-qa", path)
        assert (question.video, question.question.rstrip("?")) == ("video7", "what falls")
        assert (question.answer_text, question.type) == ("kite", "what")


def test_msvd_names_come_from_the_mapping_or_are_numbers(write: Write) -> None:
    row = {"answer": "kite", "id": 4, "question": "what falls?", "video_id": 7}
    path = write("val.json", json.dumps([row, row | {"id": 5, "video_id": 8}]))
    assert [q.video for q in read("msvd-qa", path).questions] == ["vid7", "vid8"]
    write("youtube_mapping.txt", "-kite000001_5_15 vid7\n\n")
    result = read("msvd-qa", path)
    assert [question.video for question in result.questions] == ["-kite000001_5_15", "vid8"]
    assert "video map" in result.warnings[0]


def test_a_mapping_of_lines_that_is_none_is_named(write: Write) -> None:
    row = {"answer": "kite", "id": 4, "question": "what falls?", "video_id": 7}
    path = write("val.json", json.dumps([row]))
    write("youtube_mapping.txt", "-kite000001_5_15 vid7\none two three\n")
    with pytest.raises(DataError, match="line 2"):
        read("msvd-qa", path)


@pytest.mark.parametrize(
    ("benchmark", "text"),
    [
        ("msvd-qa", json.dumps([{"id": 1, "video_id": 2, "question": "q", "category_id": 3}])),
        ("msrvtt-qa", json.dumps([{"id": 1, "video_id": 2, "question": "q"}])),
        ("msvd-qa", "video,question,answer,qid,type\n7,what falls,kite,4,3\n"),
        ("msrvtt-qa", "video,width,height,question,answer,qid\n7,1,1,what falls,kite,4\n"),
        ("msvd-qa", json.dumps({"0000004": LAVIS_ROW})),
        ("msrvtt-qa", json.dumps({"0000004": LAVIS_ROW | {"dataset": "msvd"}})),
    ],
)
def test_the_files_of_msrvtt_and_msvd_are_not_mixed_up(
    write: Write, benchmark: str, text: str
) -> None:
    with pytest.raises(DataError, match="is not"):
        read(benchmark, write("file", text))


def test_agqa_categories_overlap_and_unknown_codes_are_said(write: Write) -> None:
    rows = {
        "AAA01-1": AGQA_ROW | {"global": ["obj-rel", "Duration_comparison", "superlative"]},
        "AAA01-2": AGQA_ROW | {"global": ["riddle", "exists"], "ans_type": "open"},
    }
    result = read("agqa", write("test_balanced.txt", json.dumps(rows)), "test")
    first, second = result.questions
    wanted = ("Object-relation", "Duration comparison", "Superlative", "object", "verify", "binary")
    assert first.categories == wanted
    assert second.categories[:2] == ("riddle", "Exists")
    assert (first.question_id, first.type, second.type) == ("AAA01-1", "binary", "open")
    assert len(result.warnings) == 2
    assert "riddle" in str(result.warnings)
    assert "disagree" in str(result.warnings)


def test_warnings_stay_few_however_many_codes_are_unknown(write: Write) -> None:
    rows = {f"AAA01-{n}": AGQA_ROW | {"global": [f"riddle {n}"]} for n in range(100)}
    result = read("agqa", write("test_balanced.txt", json.dumps(rows)), "test")
    assert len(result.warnings) == 31
    assert "further" in result.warnings[-1]
    assert "(70 rows)" in result.warnings[-1]


def test_agqa_csv_form_has_no_categories_and_says_so(write: Write) -> None:
    result = read(
        "agqa", write("Test_frameqa_question-balanced.csv", table([AGQA_CSV_ROW])), "test"
    )
    (question,) = result.questions
    assert (question.question_id, question.video, question.categories) == ("k-1", "AAA01", ())
    assert "no categories" in result.warnings[0]


@pytest.mark.parametrize("structure", ["structural", "sturctural"])
def test_egotaskqa_categories_whichever_way_they_are_spelt(write: Write, structure: str) -> None:
    row = {key: value for key, value in EGOTASK_ROW.items() if key != "structural"}
    row |= {structure: "query", "type": ["prediction"], "question_encode": [1, 2]}
    question = one("egotaskqa", write("q.json", json.dumps([row])), "indirect-test")
    assert question.categories == ("predictive", "world", "object", "query", "direct")
    assert (question.split, question.video) == ("indirect-test", "1-2|fpv1|48|120")
    tried = load_manifest("egotaskqa").videos.candidates(question.video)
    assert tried[1] == "1-2_fpv1_48_120"


def test_egotaskqa_intervals_are_clips_of_the_uncut_videos(write: Write) -> None:
    path = write("q.json", json.dumps([EGOTASK_ROW]))
    question = one("egotaskqa", path, "test", video_rule="lemma")
    assert (question.video, question.start, question.end) == ("1-2/fpv1", 2.0, 5.0)
    broken = write("b.json", json.dumps([EGOTASK_ROW | {"interval": "1-2"}]))
    (bad,) = read("egotaskqa", broken, "test", video_rule="lemma").bad_rows
    assert bad.field == "video"


def test_the_normal_split_has_its_papers_names() -> None:
    from stages.benchmarks.manifest import split_name

    manifest = load_manifest("egotaskqa")
    assert split_name(manifest, "direct-test") == split_name(manifest, "normal-test") == "test"


# --- EgoMCQ ------------------------------------------------------------------------------------


def test_egomcq_has_five_videos_with_their_clips(write: Write) -> None:
    question = one("egomcq", write("egomcq.json", json.dumps({"0": EGOMCQ_ROW}, indent=1)))
    assert question.videos == ("u0", "u1", "u2", "u3", "u4")
    assert question.clips[0] == (598.0, 601.0)
    assert (question.question, question.type, question.answer) == ("#C C digs", "intra", 3)
    assert question.question_id == "0"
    # The candidates' texts would give the answer away.
    assert not any("digs" in option for option in question.options)


@pytest.mark.parametrize(
    ("rule", "videos", "clips"),
    [
        ("egovlp", ["u0/0", "u3/1"], [(598.0, 600.0), (24.0, 27.0)]),
        ("lavila", ["u0.mp4/300", "u3.mp4/600"], [(298.0, 300.0), (24.0, 27.0)]),
    ],
)
def test_egomcq_pieces_are_chosen_by_the_clips_start(
    write: Write, rule: str, videos: list[str], clips: list[tuple[float, float]]
) -> None:
    result = read("egomcq", write("e.json", json.dumps({"0": EGOMCQ_ROW})), video_rule=rule)
    (question,) = result.questions
    assert [question.videos[0], question.videos[3]] == videos
    assert [question.clips[0], question.clips[3]] == clips
    assert result.warnings == [
        "a clip runs over the end of its piece of the video and is cut there (4 rows)"
    ]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"types": 3}, "types"),
        ({"answer": 5}, "answer"),
        ({"choices": {"0": EGOMCQ_ROW["query"]}}, "options"),
        ({"choices": {"a": EGOMCQ_ROW["query"]}}, "choices"),
        ({"query": []}, "query"),
        ({"choices": {str(n): {"video_uid": "u"} for n in range(5)}}, "choices"),
    ],
)
def test_a_bad_egomcq_row_names_its_field(write: Write, change: dict[str, Any], field: str) -> None:
    text = json.dumps({"0": EGOMCQ_ROW, "1": EGOMCQ_ROW | change})
    assert [bad.field for bad in read("egomcq", write("e.json", text)).bad_rows] == [field]


# --- retrieval ---------------------------------------------------------------------------------


def test_lists_with_semicolons_and_windows_line_ends_read_like_plain_ones(write: Write) -> None:
    rows = [TEST_LIST_ROW, TEST_LIST_ROW | {"key": "ret1", "video_id": "video8"}]
    plain = read("msrvtt-retrieval", write("a.csv", table(rows)), "test").questions
    copy = write("b.csv", table(rows, delimiter=";", end="\r\n"))
    assert read("msrvtt-retrieval", copy, "test").questions == plain
    assert [(q.question_id, q.video) for q in plain] == [("ret0", "video7"), ("ret1", "video8")]


def test_a_text_without_words_is_a_bad_row(write: Write) -> None:
    rows = [TEST_LIST_ROW, TEST_LIST_ROW | {"key": "ret1", "sentence": " "}]
    (bad,) = read("msrvtt-retrieval", write("a.csv", table(rows)), "test").bad_rows
    assert (bad.row, bad.field) == (2, "sentence")


def test_captions_of_a_list_of_videos_are_the_texts(write: Write) -> None:
    captions = {
        "info": {"year": 2016},
        "videos": [{"video_id": "video7", "category": 1}],
        "sentences": [
            {"caption": "a kite falls", "video_id": "video7", "sen_id": 3},
            {"caption": "another one", "video_id": "video99", "sen_id": 4},
            {"caption": "it rains", "video_id": "video7", "sen_id": 5},
            {"nothing": 1},
        ],
    }
    path = write("train.csv", "video_id\nvideo6\nvideo7\n")
    bare = read("msrvtt-retrieval", path, "train")
    assert [question.question for question in bare.questions] == ["", ""]
    assert "no captions" in bare.warnings[0]
    elsewhere = write("captions.json", json.dumps(captions))
    given = read("msrvtt-retrieval", path, "train", captions=elsewhere)
    write("MSRVTT_data.json", json.dumps(captions))
    beside = read("msrvtt-retrieval", path, "train")
    for result in (given, beside):
        texts = [(q.question_id, q.question, q.source_row) for q in result.questions]
        assert texts == [("video7_3", "a kite falls", 2), ("video7_5", "it rains", 2)]
        assert [(bad.row, bad.field) for bad in result.bad_rows] == [(1, "caption")]
        assert "is no caption (1 rows)" in result.warnings[0]


def test_a_caption_file_that_is_missing_or_none_is_named(write: Write) -> None:
    path = write("train.csv", "video_id\nvideo7\n")
    with pytest.raises(MissingInput, match="caption file"):
        read("msrvtt-retrieval", path, "train", captions=path.with_name("absent.json"))
    with pytest.raises(UsageError, match="takes no captions"):
        read("star", path, captions=path)
    other = write("other.json", json.dumps({"videos": []}))
    with pytest.raises(DataError, match="sentences"):
        read("msrvtt-retrieval", path, "train", captions=other)


def test_sentences_of_a_video_are_joined_whatever_its_name_ends_in(write: Write) -> None:
    rows = [
        SENTENCE_ROW,
        SENTENCE_ROW | {"description": "rain", "video": "4@N00_5_6.avi"},
        SENTENCE_ROW | {"description": "it lies", "video": "1@N00_2_3."},
    ]
    questions = read("didemo", write("test_data.json", json.dumps(rows)), "test").questions
    assert [(q.question_id, q.video, q.question) for q in questions] == [
        ("1@N00_2_3", "1@N00_2_3.mov", "the kite falls, it lies"),
        ("4@N00_5_6", "4@N00_5_6.avi", "rain"),
    ]


paragraphs = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs"]), min_size=1
).filter(str.strip)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(paragraphs, min_size=2, max_size=6))
def test_whatever_a_paragraph_holds_is_read_back(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "test.tsv"
    rows = [[text, f"video{number}.mp4"] for number, text in enumerate(texts)]
    stream = io.StringIO()
    csv.writer(stream, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    assert [q.question for q in read("didemo", path, "test").questions] == texts


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1).filter(
    str.strip
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(st.text(min_size=1, max_size=80).filter(str.strip), words, min_size=1),
    indent=st.sampled_from([None, 1]),
)
def test_keyed_questions_are_read_back_whatever_their_ids(
    tmp_path: Path, rows: dict[str, str], indent: int | None
) -> None:
    path = tmp_path / "train_balanced.txt"
    records = {key: AGQA_ROW | {"answer": text} for key, text in rows.items()}
    path.write_text(json.dumps(records, indent=indent))
    result = read("agqa", path, "train")
    asked = {question.question_id: question.answer_text for question in result.questions}
    ids = Counter(key.strip() for key in rows)
    assert asked == {k.strip(): v for k, v in rows.items() if ids[k.strip()] == 1} | {
        key: asked[key] for key, count in ids.items() if count > 1
    }
    assert result.num_rows == len(rows)


# --- columns of one's own ----------------------------------------------------------------------


def test_an_unknown_rule_of_names_is_refused(write: Write) -> None:
    with pytest.raises(UsageError, match="video rule"):
        read("egomcq", write("e.json", json.dumps({"0": EGOMCQ_ROW})), video_rule="mine")
