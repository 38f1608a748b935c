"""Every trap of the published annotation files, with the counts that were taken on them."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.benchmarks.manifest import benchmark_names, load_manifest, split_name
from stages.benchmarks.questions import Question
from stages.benchmarks.readers import ReadResult, read_questions
from stages.core.errors import DataError

Read = Callable[[str, str, str], ReadResult]

FILES = [
    ("nextqa", "val", "nextqa/val.csv.gz", 4996),
    ("nextqa", "test", "nextqa/variant_textanswer_test.csv.gz", 8564),
    ("star", "val", "star/val_sevila_format.json.gz", 7098),
    ("star", "test", "star/test_sevila_format.json.gz", 7377),
    ("how2qa", "val", "how2qa/how2QA_val_release.csv.gz", 2852),
    ("how2qa", "test_public", "how2qa/how2QA_test_public_release.csv.gz", 2937),
    ("how2qa", "val", "how2qa/how2qa_val_release.jsonl.gz", 3115),
    ("tvqa", "test_public", "tvqa/tvqa_test_public.jsonl.gz", 7623),
    ("tvqa", "val", "tvqa/tvqa_plus_val.json.gz", 3017),
    ("vlep", "dev", "vlep/vlep_dev_release.jsonl.gz", 4392),
    ("vlep", "dev", "vlep/vlep_dev_archive_VALUE.jsonl.gz", 4392),
    ("vlep", "test", "vlep/vlep_test_release.jsonl.gz", 4192),
    ("qvhighlights", "train", "qvhighlights/highlight_train_release.jsonl.gz", 7218),
    ("qvhighlights", "val", "qvhighlights/highlight_val_release.jsonl.gz", 1550),
    ("qvhighlights", "test", "qvhighlights/highlight_test_release.jsonl", 1542),
    ("qvhighlights", "test", "qvhighlights/highlight_test_with_gt.jsonl.gz", 1542),
    ("msrvtt-qa", "val", "msrvtt_qa/val_qa.json.gz", 12278),
    ("msrvtt-qa", "val", "msrvtt_qa/val_hqga.csv.gz", 12278),
    ("msrvtt-qa", "val", "msrvtt_qa/val_clipbert.jsonl.gz", 12278),
    ("msrvtt-qa", "val", "msrvtt_qa/val_lavis.json.gz", 12278),
    ("msvd-qa", "train", "msvd_qa/train_qa.json.gz", 30933),
    ("msvd-qa", "val", "msvd_qa/val_qa.json.gz", 6415),
    ("msvd-qa", "val", "msvd_qa/val_hqga.csv.gz", 6415),
    ("msvd-qa", "test", "msvd_qa/test_qa.json.gz", 13157),
    ("msvd-qa", "test", "msvd_qa/test_hqga.csv.gz", 13157),
    ("msvd-qa", "test", "msvd_qa/test_lavis.json.gz", 13157),
    ("msrvtt-mc", "test", "msrvtt_mc/msrvtt_mc_test.jsonl.gz", 2990),
    ("msrvtt-retrieval", "test", "msrvtt_retrieval/MSRVTT_JSFUSION_test.csv", 1000),
    ("msrvtt-retrieval", "test", "msrvtt_retrieval/MSRVTT_JSFUSION_test_variant.csv", 1000),
    ("msrvtt-retrieval", "train_9k", "msrvtt_retrieval/MSRVTT_train.9k.csv", 9000),
    ("msrvtt-retrieval", "train_7k", "msrvtt_retrieval/MSRVTT_train.7k.csv", 7010),
    ("didemo", "train", "didemo/paragraph_DiDeMo_train.tsv.gz", 8392),
    ("didemo", "val", "didemo/paragraph_DiDeMo_val.tsv.gz", 1065),
    ("didemo", "test", "didemo/paragraph_DiDeMo_test.tsv", 1004),
    ("didemo", "val", "didemo/val_data.json.gz", 1065),
    ("didemo", "test", "didemo/test_data.json.gz", 1004),
]
"""Benchmark, split, file and the number of questions in it."""


@pytest.fixture(scope="session")
def read(shared: Path) -> Read:
    """Reads a real file once for all tests."""
    known: dict[tuple[str, str, str], ReadResult] = {}

    def read_file(benchmark: str, split: str, relative: str) -> ReadResult:
        key = (benchmark, split, relative)
        if key not in known:
            path = shared / "data" / relative
            if not path.exists():
                pytest.skip(f"{relative} is not at hand")
            known[key] = read_questions(load_manifest(benchmark), split, path)
        return known[key]

    return read_file


@pytest.mark.parametrize(("benchmark", "split", "relative", "questions"), FILES)
def test_every_row_of_every_file_is_read_and_the_counts_are_the_published_ones(
    read: Read, benchmark: str, split: str, relative: str, questions: int
) -> None:
    result = read(benchmark, split, relative)
    manifest = load_manifest(benchmark)
    expected = manifest.splits[split_name(manifest, split)]
    videos = {video for question in result.questions for video in question.videos}
    assert not result.bad_rows
    assert len(result.questions) == questions
    assert expected.differences(questions, len(videos), result.layout) == []
    assert len({question.question_id for question in result.questions}) == questions


@pytest.mark.parametrize(("benchmark", "split", "relative", "questions"), FILES)
def test_a_file_of_one_benchmark_is_refused_by_all_others(
    shared: Path, benchmark: str, split: str, relative: str, questions: int
) -> None:
    path = shared / "data" / relative
    if not path.exists():
        pytest.skip(f"{relative} is not at hand")
    for other in sorted(set(benchmark_names()) - {benchmark, "shapes"}):
        manifest = load_manifest(other)
        with pytest.raises(DataError, match=re.escape(str(path))):
            read_questions(manifest, manifest.report_split, path)


# --- How2QA ------------------------------------------------------------------------------------


def test_the_option_none_is_a_word(read: Read) -> None:
    for split, relative, rows in (
        ("val", "how2qa/how2QA_val_release.csv.gz", 5),
        ("test", "how2qa/how2QA_test_public_release.csv.gz", 8),
    ):
        questions = read("how2qa", split, relative).questions
        assert sum("None" in question.options for question in questions) == rows


def test_how2qa_options_that_are_equal_are_kept_and_the_answer_stays_the_files(read: Read) -> None:
    val = read("how2qa", "val", "how2qa/how2QA_val_release.csv.gz").questions
    test = read("how2qa", "test_public", "how2qa/how2QA_test_public_release.csv.gz").questions
    value = read("how2qa", "val", "how2qa/how2qa_val_release.jsonl.gz").questions
    assert [sum(repeats(question) for question in part) for part in (val, test, value)] == [
        14,
        32,
        29,
    ]
    assert sum(right_text_twice(question) for question in val) == 3
    assert sum(right_text_twice(question) for question in value) == 3


def repeats(question: Question) -> bool:
    return len(set(question.options)) < len(question.options)


def right_text_twice(question: Question) -> bool:
    return question.options.count(question.target_text or "") > 1


def test_the_two_releases_of_how2qa_are_told_apart(read: Read) -> None:
    official = read("how2qa", "val", "how2qa/how2QA_val_release.csv.gz")
    value = read("how2qa", "val", "how2qa/how2qa_val_release.jsonl.gz")
    assert (official.release, value.release) == ("official", "VALUE")
    ids = [{question.question_id for question in result.questions} for result in (official, value)]
    assert not ids[0] & ids[1]
    places = Counter(question.answer for question in official.questions)
    assert all(600 < places[place] < 830 for place in range(4)), places


def test_how2qa_spans_of_no_length_and_names_with_letters_are_kept(read: Read) -> None:
    questions = read("how2qa", "val", "how2qa/how2qa_val_release.jsonl.gz").questions
    flat = {q.question_id: q.start for q in questions if q.start == q.end}
    assert flat == {"7773": 61.14, "17983": 1.70}
    assert {"e_367c", "1141i"} <= {question.video for question in questions}
    assert max(question.end or 0 for question in questions) == 65.95


def test_how2qa_times_of_the_official_file_count_in_the_source_video(read: Read) -> None:
    questions = read("how2qa", "val", "how2qa/how2QA_val_release.csv.gz").questions
    assert max(question.end or 0 for question in questions) > 66
    assert all((q.start or 0) <= (q.end or 0) for q in questions)


def test_how2qa_names_are_tried_as_numbers_and_as_youtube_ids(shared: Path) -> None:
    from stages.benchmarks.readers import QuestionStream

    path = shared / "data/how2qa/how2qa_val_release.jsonl.gz"
    stream = QuestionStream(load_manifest("how2qa"), "val", path)
    videos = {item.video for item in stream if isinstance(item, Question)}
    assert stream.candidates("25848")[0] == "25848"
    assert re.fullmatch(r".{11}_[0-9]+_[0-9]+", stream.candidates("25848")[1])
    questions = [item for item in stream if isinstance(item, Question)]
    unmapped = [q for q in questions if len(stream.candidates(q.video)) == 1]
    assert len(unmapped) == 176
    assert len(videos) == 3058


# --- TVQA and VLEP -----------------------------------------------------------------------------


def test_tvqa_times_that_are_nan_mean_the_whole_video(read: Read) -> None:
    result = read("tvqa", "test_public", "tvqa/tvqa_test_public.jsonl.gz")
    unknown = [q for q in result.questions if q.start is None]
    assert [q.question_id for q in unknown] == ["137648", "142453", "142977"]
    assert all(q.end is None for q in unknown)
    assert result.warnings == ["the clip's times are NaN, the whole video is taken (3 rows)"]
    flat = {q.question_id for q in result.questions if q.start is not None and q.start == q.end}
    assert flat == {"139509", "145670"}


def test_tvqa_options_keep_their_blanks_and_their_repetitions(read: Read) -> None:
    questions = read("tvqa", "test_public", "tvqa/tvqa_test_public.jsonl.gz").questions
    assert sum(text != text.strip() for q in questions for text in q.options) == 4054
    assert sum(repeats(question) for question in questions) == 16
    assert not any(question.labelled for question in questions)


def test_tvqa_plus_answers_equal_the_key(read: Read, shared: Path) -> None:
    plus = read("tvqa", "val", "tvqa/tvqa_plus_val.json.gz")
    solution = json.loads((shared / "data/tvqa/tvqa_val_solution.json").read_text())["solution"]
    key = solution["The Big Bang Theory"]
    assert plus.release == "TVQA+"
    assert {q.question_id: q.answer for q in plus.questions} == key
    assert sum(q.start == q.end for q in plus.questions) == 2
    assert {q.type for q in plus.questions} == {"The Big Bang Theory"}


def test_vlep_release_and_archive_hold_the_same_questions(read: Read) -> None:
    release = read("vlep", "dev", "vlep/vlep_dev_release.jsonl.gz").questions
    archive = read("vlep", "dev", "vlep/vlep_dev_archive_VALUE.jsonl.gz").questions
    assert release == archive
    assert Counter(question.type for question in release) == {"youtube": 1054, "tv": 3338}
    assert Counter(question.answer for question in release) == {1: 2247, 0: 2145}
    assert [q.question_id for q in release if repeats(q)] == ["23171"]
    test = read("vlep", "test", "vlep/vlep_test_release.jsonl.gz").questions
    assert Counter(question.type for question in test) == {"youtube": 1020, "tv": 3172}
    assert not any(question.labelled for question in test)


def test_vlep_names_are_tried_where_their_videos_lie(read: Read) -> None:
    rule = load_manifest("vlep").videos
    questions = read("vlep", "dev", "vlep/vlep_dev_release.jsonl.gz").questions
    youtube = next(q.video for q in questions if q.type == "youtube")
    assert ":" in youtube
    assert rule.candidates(youtube)[:2] == [youtube, f"vlep_ytb_clips/{youtube}"]
    tv = next(q.video for q in questions if q.video.startswith("friends"))
    clip = tv.removesuffix("_ep")
    tried = rule.candidates(tv)
    assert tried[1:] == [clip, f"videos_3fps_with_audio/{clip}", f"friends_frames/{clip}"]


# --- QVHighlights ------------------------------------------------------------------------------


def test_qvhighlights_ratings_are_dense_and_agree_with_the_windows(read: Read) -> None:
    for split in ("train", "val"):
        relative = f"qvhighlights/highlight_{split}_release.jsonl.gz"
        for question in read("qvhighlights", split, relative).questions:
            assert question.duration is not None
            assert len(question.saliency) == int(question.duration / 2)
            inside = {
                clip
                for low, high in question.spans
                for clip in range(int(low // 2), int(high // 2))
            }
            rated = {clip for clip, ratings in enumerate(question.saliency) if any(ratings)}
            assert rated <= inside
            assert question.spans == tuple(sorted(question.spans))
            assert question.spans[-1][1] <= question.duration


def test_qvhighlights_test_files_differ_in_the_ground_truth_only(read: Read) -> None:
    bare = read("qvhighlights", "test", "qvhighlights/highlight_test_release.jsonl").questions
    full = read("qvhighlights", "test", "qvhighlights/highlight_test_with_gt.jsonl.gz").questions
    assert [(q.question_id, q.question, q.video, q.duration) for q in bare] == [
        (q.question_id, q.question, q.video, q.duration) for q in full
    ]
    assert not any(question.spans or question.saliency for question in bare)
    assert all(question.spans and question.saliency for question in full)
    spans = [len(q.spans) for q in read("qvhighlights", "val", VAL_MOMENTS).questions]
    assert (min(spans), max(spans)) == (1, 25)


VAL_MOMENTS = "qvhighlights/highlight_val_release.jsonl.gz"


# --- open-ended --------------------------------------------------------------------------------


def test_the_four_msrvtt_dialects_hold_the_same_questions(read: Read) -> None:
    def rows(relative: str) -> list[tuple[str, str, str | None, str | None]]:
        questions = read("msrvtt-qa", "val", relative).questions
        return [(q.video, q.question.removesuffix("?"), q.answer_text, q.type) for q in questions]

    original = rows("msrvtt_qa/val_qa.json.gz")
    for relative in ("val_hqga.csv.gz", "val_clipbert.jsonl.gz", "val_lavis.json.gz"):
        assert rows(f"msrvtt_qa/{relative}") == original
    assert Counter(kind for *_, kind in original)["what"] == 8337
    numbered = read("msrvtt-qa", "val", "msrvtt_qa/val_clipbert.jsonl.gz").questions
    assert [numbered[0].question_id, numbered[-1].question_id] == ["0", "12277"]


def test_the_msvd_dialects_hold_the_same_questions(read: Read) -> None:
    def rows(split: str, relative: str) -> list[tuple[str, str, str | None]]:
        questions = read("msvd-qa", split, relative).questions
        # HQGA's form has lost all punctuation (`timing/temperature`, `neck-deep`).
        return [(q.video, re.sub(r"[^a-z0-9]", "", q.question), q.answer_text) for q in questions]

    assert rows("val", "msvd_qa/val_qa.json.gz") == rows("val", "msvd_qa/val_hqga.csv.gz")
    original = rows("test", "msvd_qa/test_qa.json.gz")
    assert rows("test", "msvd_qa/test_hqga.csv.gz") == original
    lavis = rows("test", "msvd_qa/test_lavis.json.gz")
    assert lavis == original
    assert all(re.fullmatch(r".{11}_[0-9]+_[0-9]+", video) for video, _, _ in original)


def test_questions_that_come_again_with_other_answers_are_all_kept(read: Read) -> None:
    for benchmark, split, relative, repeated in (
        ("msrvtt-qa", "test", "msrvtt_qa/test_hqga.csv.gz", 2640),
        ("msrvtt-qa", "val", "msrvtt_qa/val_qa.json.gz", 484),
        ("msvd-qa", "test", "msvd_qa/test_qa.json.gz", 519),
        ("msvd-qa", "train", "msvd_qa/train_qa.json.gz", 1309),
    ):
        questions = read(benchmark, split, relative).questions
        asked = Counter((question.video, question.question) for question in questions)
        assert sum(count - 1 for count in asked.values()) == repeated


def test_the_agqa_file_with_a_brace_too_many_reads_like_the_mended_one(read: Read) -> None:
    raw = read("agqa", "test", "agqa_v2/test_balanced_example.json")
    mended = read("agqa", "test", "agqa_v2/test_balanced_example_fixed.json")
    assert raw.questions == mended.questions
    assert mended.warnings == []
    assert len(raw.warnings) == 1
    assert "surplus bracket" in raw.warnings[0]
    by_id = {question.question_id: question for question in raw.questions}
    assert set(by_id) == {"YSKX3-8", "YSKX3-9", "YSKX3-11", "LSKA2-2205"}
    several = by_id["LSKA2-2205"]
    wanted = ("Relation-action", "Sequencing", "relation", "compare", "binary")
    assert (several.categories, several.type, several.video) == (wanted, "binary", "LSKA2")


# --- MSRVTT-MC and retrieval -------------------------------------------------------------------


def test_msrvtt_mc_indices_are_text_in_the_file(read: Read) -> None:
    questions = read("msrvtt-mc", "test", "msrvtt_mc/msrvtt_mc_test.jsonl.gz").questions
    assert {question.answer for question in questions} == set(range(5))
    assert not any(repeats(question) for question in questions)
    assert questions[0].question_id == "mc0"


def test_the_copy_with_semicolons_is_the_same_list(read: Read, shared: Path) -> None:
    folder = "msrvtt_retrieval"
    plain = read("msrvtt-retrieval", "test", f"{folder}/MSRVTT_JSFUSION_test.csv")
    copy = read("msrvtt-retrieval", "test", f"{folder}/MSRVTT_JSFUSION_test_variant.csv")
    assert plain.questions == copy.questions
    texts = Counter(question.question for question in plain.questions)
    assert sum(count - 1 for count in texts.values()) == 5
    train = read("msrvtt-retrieval", "train", f"{folder}/MSRVTT_train.9k.csv")
    assert "no captions" in train.warnings[0]
    listed = {question.video for question in train.questions}
    assert not listed & {question.video for question in plain.questions}


def test_didemo_paragraphs_with_line_breaks_are_whole(read: Read) -> None:
    for split, relative, broken in (
        ("test", "didemo/paragraph_DiDeMo_test.tsv", 7),
        ("val", "didemo/paragraph_DiDeMo_val.tsv.gz", 8),
        ("train", "didemo/paragraph_DiDeMo_train.tsv.gz", 81),
    ):
        questions = read("didemo", split, relative).questions
        assert (
            sum(bool(re.search(r"[\r\n]", question.question)) for question in questions) == broken
        )


@pytest.mark.parametrize(("split", "suffix"), [("val", ".gz"), ("test", "")])
def test_didemo_paragraphs_are_the_official_sentences(read: Read, split: str, suffix: str) -> None:
    listed = read("didemo", split, f"didemo/paragraph_DiDeMo_{split}.tsv{suffix}").questions
    joined = read("didemo", split, f"didemo/{split}_data.json.gz").questions
    by_id = {question.question_id: question.question for question in joined}
    assert {question.question_id for question in listed} == set(by_id)
    assert all(q.question == by_id[q.question_id] + ", " for q in listed)


def test_didemo_names_are_tried_without_their_extension() -> None:
    rule = load_manifest("didemo").videos
    assert rule.candidates("1@N00_2_3.mp4") == ["1@N00_2_3.mp4", "1@N00_2_3"]
    assert rule.candidates("1@N00_2_3.") == ["1@N00_2_3.", "1@N00_2_3"]


# --- SeViLA's reduced form ---------------------------------------------------------------------


def test_the_reduced_form_of_nextqa_gives_the_official_questions(
    read: Read, shared: Path, tmp_path: Path
) -> None:
    official = read("nextqa", "val", "nextqa/val.csv.gz").questions
    reduced = [
        {
            "video": question.video,
            "num_option": 5,
            "qid": f"{question.type}_{question.question_id}",
            **{f"a{number}": text + "." for number, text in enumerate(question.options)},
            "answer": question.answer,
            "question": question.question + "?",
        }
        for question in official
    ]
    path = tmp_path / "val.json.gz"
    path.write_bytes(gzip.compress(json.dumps(reduced).encode()))
    result = read_questions(load_manifest("nextqa"), "val", path)
    assert result.layout == "sevila-json"
    assert result.questions == official
