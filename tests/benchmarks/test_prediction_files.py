"""Prediction files of every form: recognised, joined with the questions, and nothing lost."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.prediction_files.asked import Asked, asked_from_file, asked_of
from stages.benchmarks.prediction_files.given import PredictionFile
from stages.benchmarks.prediction_files.joining import Joined, join
from stages.benchmarks.prediction_files.reading import read_predictions
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.moments import Moments
from stages.benchmarks.scorers.retrieval import Place
from stages.benchmarks.scorers.rules import Rules
from stages.core.errors import DataError, MissingInput, UsageError

PUBLISHED = Rules(as_published=True)


def question(name: str, **values: Any) -> Asked:
    """A five-option question whose right option is 0, unless `values` say otherwise."""
    defaults: dict[str, Any] = {
        "question_id": name, "video": f"v{name}", "type": None, "categories": (),
        "answer": 0, "num_options": 5, "known": True,
    }  # fmt: skip
    return Asked(**(defaults | values))


def open_question(name: str, answer: str | None, **values: Any) -> Asked:
    return question(name, answer=answer, num_options=None, known=answer is not None, **values)


def written(folder: Path, value: Any, name: str = "predictions.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def lines(records: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def read(path: Path, benchmark: str, rules: Rules = Rules()) -> PredictionFile:
    return read_predictions(path, load_manifest(benchmark), as_published=rules.as_published)


def joined(
    path: Path, benchmark: str, asked: list[Asked], rules: Rules = Rules(), **values: Any
) -> Joined:
    return join(asked, read(path, benchmark, rules), load_manifest(benchmark), rules, **values)


def answers(result: Joined) -> list[Any]:
    return [row.prediction for row in result.rows]


# --- forms -----------------------------------------------------------------------------------

TWO = [question("1"), question("2")]

FORMS = [
    ("nextqa", {"1": {"prediction": 3, "answer": 0}, "2": {"prediction": 1, "answer": 0}}),
    ("how2qa", {"1": 3, "2": 1}),
    ("star", {"Sequence": [{"question_id": "1", "answer": 3}],
              "Feasibility": [{"question_id": "2", "answer": 1}], "Prediction": []}),
    ("star", [{"question_id": 1, "pred_ans_idx": 3, "true_ans_idx": 0},
              {"question_id": 2, "pred_ans_idx": 1, "true_ans_idx": 0}]),
    ("nextqa", [{"qid": "1", "prediction": 3, "target": 0},
                {"qid": "2", "prediction": 1, "target": 0}]),
    ("nextqa", [{"question_id": "1", "prediction": 3}, {"question_id": "2", "prediction": 1.0}]),
    ("msrvtt-mc", [{"qid": "1", "answer": "3"}, {"qid": "2", "answer": 1}]),
    ("egomcq", [{"id": "1", "scores": [0, 1, 2, 5, 5], "answer": 0, "types": 1},
                {"id": "2", "scores": [0, 9, -2, 5, 5], "answer": 0, "types": 2}]),
    ("egomcq", {"1": [0, 1, 2, 5.5, 5], "2": [0, 9, -2, 5, 5]}),
]  # fmt: skip


@pytest.mark.parametrize(("benchmark", "value"), FORMS)
def test_every_form_gives_the_same_predictions(benchmark: str, value: Any, tmp_path: Path) -> None:
    assert answers(joined(written(tmp_path, value), benchmark, TWO)) == [3, 1]


@pytest.mark.parametrize(
    ("benchmark", "value"), [item for item in FORMS if isinstance(item[1], list)]
)
def test_a_list_may_stand_in_lines_and_be_packed(
    benchmark: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "predictions.jsonl.gz"
    path.write_bytes(gzip.compress(lines(value).encode()))
    assert answers(joined(path, benchmark, TWO)) == [3, 1]
    one = written(tmp_path, lines(value[:1]), "one.jsonl")
    assert answers(joined(one, benchmark, TWO[:1])) == [3]


def test_tables_of_text_and_parquet_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, "question_id;prediction;note\n1;3;a\n2;1.0;b\n", "p.csv")
    assert answers(joined(path, "nextqa", TWO)) == [3, 1]
    table = pa.table({"question_id": ["1", "2"], "prediction": [3, 1], "status": ["ok", "ok"]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert answers(joined(tmp_path / "p.parquet", "nextqa", TWO)) == [3, 1]


def test_a_failed_row_of_ours_stays_one_with_its_reason(tmp_path: Path) -> None:
    table = pa.table(
        {
            "question_id": ["1", "2"],
            "prediction": pa.array([3, None], pa.int64()),
            "status": ["ok", "failed"],
            "reason": ["", "video missing"],
        }
    )
    pq.write_table(table, tmp_path / "p.parquet")
    rows = joined(tmp_path / "p.parquet", "nextqa", TWO).rows
    assert [(row.status, row.reason) for row in rows] == [("ok", ""), ("failed", "video missing")]


def test_vlep_is_read_under_the_key_of_its_readme(tmp_path: Path) -> None:
    asked = [question("20142", num_options=2), question("20143", num_options=2)]
    prescribed = [{"example_id": 20142, "pred_ans": 0}, {"example_id": 20143, "pred_ans": 1}]
    other = [{"example_id": item["example_id"], "pre_ans": item["pred_ans"]} for item in prescribed]
    good = written(tmp_path, lines(prescribed), "a.jsonl")
    assert answers(joined(good, "vlep", asked)) == [0, 1]
    renamed = written(tmp_path, lines(other), "b.jsonl")
    assert answers(joined(renamed, "vlep", asked)) == [0, 1]
    assert answers(joined(renamed, "vlep", asked, PUBLISHED)) == [0, 1]
    with pytest.raises(DataError, match="reads `pre_ans`"):
        read(good, "vlep", PUBLISHED)


def test_nextqa_ids_are_put_together_from_a_tables_columns(tmp_path: Path) -> None:
    asked = [question("4010069381_6", type="CW"), question("77_0", type="TN")]
    with (tmp_path / "p.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "video", "qid", "type", "answer", "prediction"])
        writer.writerow(["CW_6_4010069381", "4010069381", "6", "CW", "0", "2"])
        writer.writerow(["TN_0_77", "77", "0", "TN", "0", "0"])
    assert answers(joined(tmp_path / "p.csv", "nextqa", asked)) == [2, 0]
    own = asked_from_file(read(tmp_path / "p.csv", "nextqa"), load_manifest("nextqa"))
    assert [(item.question_id, item.type, item.answer, item.video) for item in own] == [
        ("4010069381_6", "CW", 0, "4010069381"),
        ("77_0", "TN", 0, "77"),
    ]


def test_names_that_sevila_gives_are_recognised(tmp_path: Path) -> None:
    asked = [question("4010069381_6"), question("77_0")]
    value = [
        {"qid": "CW_4010069381_6", "prediction": 2, "target": 0},
        {"qid": "TN_77_0", "prediction": 1, "target": 0},
    ]
    result = joined(written(tmp_path, value), "nextqa", asked)
    assert answers(result) == [2, 1]
    assert result.notes == ["2 ids of SeViLA's form were recognised"]
    rows = [
        question("311", source_row=1, num_options=4),
        question("9", source_row=2, num_options=4),
    ]
    value = [{"qid": "HOW2QA_1", "prediction": 3, "target": 0}]
    assert answers(joined(written(tmp_path, value), "how2qa", rows)) == [None, 3]


def test_egotaskqa_lists_carry_categories_and_answers(tmp_path: Path) -> None:
    value = [
        {"question_id": 0, "reasoning_type": "prediction$world$query$direct", "answer": "cup",
         "prediction": "Cup"},
        {"question_id": 1, "reasoning_type": "descriptive$verify", "answer": "no",
         "prediction": "yes"},
    ]  # fmt: skip
    file = read(written(tmp_path, value), "egotaskqa")
    own = asked_from_file(file, load_manifest("egotaskqa"))
    assert own[0].categories == ("predictive", "world", "query", "direct")
    rows = join(own, file, load_manifest("egotaskqa"), Rules()).rows
    assert [row.correct for row in rows] == [True, False]


def test_moments_keep_their_order(tmp_path: Path) -> None:
    asked = [question("7", answer=None, num_options=None, spans=((0.0, 2.0),))]
    record = {
        "qid": 7, "query": "a", "vid": "v", "pred_relevant_windows": [[4, 6, 0.1], [0, 2, 0.9]],
        "pred_saliency_scores": [0.5, -1],
    }  # fmt: skip
    path = written(tmp_path, lines([record]))
    expected = Moments(((4.0, 6.0, 0.1), (0.0, 2.0, 0.9)), (0.5, -1.0))
    assert answers(joined(path, "qvhighlights", asked)) == [expected]


def test_moments_of_our_own_artifact_are_read(tmp_path: Path) -> None:
    rows = [
        {"question_id": "7", "prediction": None, "windows": [[4.0, 6.0, 0.1]], "saliency": [0.5]},
        {"question_id": "8", "prediction": None, "windows": [], "saliency": []},
        {"question_id": "9", "prediction": None, "windows": None, "saliency": None},
    ]
    path = tmp_path / "predictions.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    asked = [question(name, answer=None, num_options=None, spans=((0.0, 2.0),)) for name in "789"]
    assert answers(joined(path, "qvhighlights", asked)) == [
        Moments(((4.0, 6.0, 0.1),), (0.5,)), Moments(()), None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("benchmark_rules", "correct"),
    [(Rules(), [True, False, True, False]), (PUBLISHED, [True, False, False, False])],
)
def test_an_open_ended_file_of_indices_alone_is_judged_by_its_own_answers(
    benchmark_rules: Rules, correct: list[bool], tmp_path: Path
) -> None:
    pairs = [(3, 3), (2, 3), (0, 0), (-1, -1)]  # 0-based, -1 is the unknown class
    value = {str(n): {"prediction": said, "answer": own} for n, (said, own) in enumerate(pairs)}
    file = read(written(tmp_path, value), "msvd-qa")
    manifest = load_manifest("msvd-qa")
    rows = join(asked_from_file(file, manifest), file, manifest, benchmark_rules).rows
    assert [row.correct for row in rows] == correct


def test_ranked_lists_put_unnamed_videos_behind(tmp_path: Path) -> None:
    asked = [question(name, answer=None, num_options=None) for name in "abc"]
    value = {"a": ["vc", "va"], "b": ["va"], "c": []}
    result = joined(written(tmp_path, value), "didemo", asked)
    assert answers(result) == [Place(1), Place(1, tied=2), Place(0, tied=3)]
    bad = {"a": ["vx"], "b": ["va", "va"], "c": ["vc"]}
    rows = joined(written(tmp_path, bad), "didemo", asked).rows
    assert [row.reason for row in rows] == [
        "'vx' is not one of the split's videos", "a video is named twice", "",
    ]  # fmt: skip


# --- matrices --------------------------------------------------------------------------------


def text(name: str, video: str) -> Asked:
    return question(name, video=video, answer=None, num_options=None)


def test_a_matrix_follows_the_order_of_the_annotations(tmp_path: Path) -> None:
    asked = [text("t0", "b"), text("t1", "a"), text("t2", "b")]
    scores = np.array([[0.9, 0.1], [0.8, 0.3], [0.2, 0.7]])
    np.savez(tmp_path / "s.npz", sim=scores)
    result = joined(tmp_path / "s.npz", "msrvtt-retrieval", asked)
    assert [row.prediction for row in result.rows] == [Place(0), Place(1), Place(1)]
    assert result.videos is not None
    assert [result.videos[v] for v in range(2)] == [Place(0), Place(1)]


def test_a_matrix_alone_is_ordered_by_video(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.array([[2.0, 1], [2, 1], [2, 1], [2, 1]]))
    result = joined(tmp_path / "s.npy", "didemo", [])
    assert [row.prediction.better for row in result.rows] == [0, 0, 1, 1]  # type: ignore[union-attr]
    assert result.notes == ["matrix without annotations: row i belongs to column i // 2"]


def test_a_score_that_is_no_number_costs_its_text_and_its_video(tmp_path: Path) -> None:
    scores = np.eye(3)
    scores[1, 2] = np.nan
    np.save(tmp_path / "s.npy", scores)
    result = joined(tmp_path / "s.npy", "didemo", [])
    assert [row.status for row in result.rows] == ["ok", "failed", "ok"]
    assert result.rows[1].reason == "a score is NaN or infinite"
    assert result.videos is not None
    assert len(result.videos) == 2


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3)), "matrix of 2 x 3, and the split has 3 texts of 2 videos"),
        (np.zeros(4), "not a matrix of numbers"),
        (np.array([["a", "b"]]), "not a matrix of numbers"),
        (np.array([[object()]]), "cannot be read as a score matrix"),
    ],
)
def test_other_arrays_are_refused(array: Any, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", array, allow_pickle=True)
    asked = [text("t0", "b"), text("t1", "a"), text("t2", "b")]
    with pytest.raises(DataError, match=words):
        joined(tmp_path / "s.npy", "didemo", asked)


def test_a_matrix_of_several_arrays_needs_a_known_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", sims=np.eye(2), other=np.eye(2))
    assert len(joined(tmp_path / "s.npz", "didemo", []).rows) == 2
    np.savez(tmp_path / "t.npz", one=np.eye(2), other=np.eye(2))
    with pytest.raises(DataError, match="holds 2 arrays: one, other"):
        read(tmp_path / "t.npz", "didemo")
    with pytest.raises(DataError, match="not scored by retrieval"):
        joined(tmp_path / "s.npz", "nextqa", TWO)


# --- counted failures ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, "option 5 is out of range 0 to 4"),
        (-1, "option -1 is out of range 0 to 4"),
        ("3", "'3' is not an option's index"),
        (2.5, "2.5 is not an option's index"),
        (float("nan"), "nan is not an option's index"),
        (True, "True is not an option's index"),
        (None, "no prediction"),
        ({"a": 1}, "{'a': 1} is not an option's index"),
    ],
)
def test_an_unusable_answer_is_a_counted_failure(value: Any, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path, [{"question_id": "1", "prediction": value},
                              {"question_id": "2", "prediction": 0}])  # fmt: skip
    first, second = joined(path, "nextqa", TWO).rows
    assert (first.status, first.prediction, first.reason) == ("failed", None, reason)
    assert (second.status, second.correct) == ("ok", True)


def test_as_published_an_unusable_answer_is_wrong_and_a_missing_one_fails(tmp_path: Path) -> None:
    asked = [question(name) for name in "1234"]
    value = [{"question_id": name, "prediction": n} for name, n in (("1", 0), ("2", 7), ("3", "0"))]
    result = joined(written(tmp_path, value), "nextqa", asked, PUBLISHED)
    assert [row.correct for row in result.rows] == [True, False, False, None]
    assert result.notes == ["2 unusable predictions count as wrong answers"]


def test_a_missing_question_is_a_counted_failure(tmp_path: Path) -> None:
    rows = joined(written(tmp_path, {"2": 0}), "how2qa", TWO).rows
    assert [(row.status, row.reason) for row in rows] == [("failed", "no prediction"), ("ok", "")]


@pytest.mark.parametrize(
    ("windows", "saliency", "reason"),
    [
        ([[0, 2]], None, "window [0, 2]: not [start, end, score]"),
        ([[4, 2, 0.5]], None, "window [4, 2, 0.5] ends before it starts"),
        ([[0, 2, float("inf")]], None, "window [0, 2, inf]: a score is inf"),
        ("0-2", None, "'0-2' is not a list of windows"),
        ([[0, 2, 0.5]], [0.1, float("nan")], "saliency: a score is nan"),
        ([[0, 2, 0.5]], ["x"], "saliency: 'x' is not a number"),
        (None, [0.1], "no prediction"),
    ],
)
def test_unusable_moments_are_counted_failures(
    windows: Any, saliency: Any, reason: str, tmp_path: Path
) -> None:
    asked = [question(n, answer=None, num_options=None, spans=((0.0, 2.0),)) for n in "12"]
    records = [
        {"qid": 1, "pred_relevant_windows": windows, "pred_saliency_scores": saliency},
        {"qid": 2, "pred_relevant_windows": []},
    ]
    rows = joined(written(tmp_path, lines(records)), "qvhighlights", asked).rows
    assert (rows[0].status, rows[0].reason) == ("failed", reason)
    assert rows[1].prediction == Moments(())


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([0, 1, 2], "3 scores for 5 options"),
        ([0, 1, 2, 3, float("nan")], "a score is nan"),
        ([0, 1, 2, 3, None], "None is not a number"),
    ],
)
def test_unusable_scores_are_counted_failures(scores: Any, reason: str, tmp_path: Path) -> None:
    value = [{"id": "1", "scores": scores, "answer": 0, "types": 1},
             {"id": "2", "scores": [1] * 5, "answer": 0, "types": 1}]  # fmt: skip
    rows = joined(written(tmp_path, value), "egomcq", TWO).rows
    assert (rows[0].status, rows[0].reason) == ("failed", reason)
    assert rows[1].prediction == 0


def test_a_file_without_one_usable_answer_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not one of 2 questions.*2: option 9 is out of range"):
        joined(written(tmp_path, {"2": 9}), "how2qa", TWO)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_every_question_has_one_row_whatever_the_file_says(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = [str(n) for n in range(data.draw(st.integers(1, 8)))]
    asked = [question(name, answer=data.draw(st.none() | st.integers(0, 4))) for name in names]
    asked = [Asked(**{**_fields(item), "known": item.answer is not None}) for item in asked]
    value = st.none() | st.integers(-2, 7) | st.booleans() | st.text(max_size=2) | st.floats()
    said = {name: data.draw(value) for name in names if data.draw(st.booleans())}
    said["0"] = 0
    path = written(tmp_path_factory.mktemp("joined"), said)
    rows = joined(path, "how2qa", asked).rows
    assert [row.question_id for row in rows] == names
    counts = Counter(row.status for row in rows)
    assert sum(counts.values()) == len(names)
    for row, item in zip(rows, asked, strict=True):
        usable = type(said.get(row.question_id)) in (int, float)
        assert row.status != "failed" or row.reason
        assert row.status == "failed" or (usable and (row.status == "ok") is item.known)


def _fields(item: Asked) -> dict[str, Any]:
    return {name: getattr(item, name) for name in Asked.__dataclass_fields__}


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("{}", "holds no prediction"),
        ("[]", "holds no prediction"),
        ('{"1": null, "2": null}', "holds no prediction"),
        ('{"1": 2,', "is not JSON"),
        ('[{"question_id": "1", "prediction": 2}', "is not JSON"),
        ('{"question_id": "1", "prediction": 2}\n{"question_id": ', "line 2 is not JSON"),
        ('[{"question_id": "1", "prediction": 2}] x', "text follows"),
        ("[1, 2]", "entry 1 is not a JSON object"),
        ('[{"who": "1", "prediction": 2}]', "unknown form of predictions; fields: 'prediction'"),
        ('[{"question_id": null, "prediction": 2}]', "entry 1: no 'question_id'"),
        ('{"1": {"answer": 2}, "2": {"answer": 1}}', "unknown form"),
        ('{"1": 2, "2": [1]}', "'1' holds a single value, '2' holds a list"),
        ("video,qid,question,answer\n1,2,why,0\n", "looks like annotations"),
        ("question_id,prediction\n1,2,3\n", "row 1: 3 cells"),
        ('{"1": 2, "2": 3, "1": 4}', "1 keys of one JSON object occur more than once: '1'"),
        ('[{"question_id": "1", "prediction": 2}, {"question_id": 1, "prediction": 2}]',
         "1 questions occur more than once: '1'; '1' at .*entry 1 and .*entry 2"),
    ],
)  # fmt: skip
def test_what_is_no_prediction_file_is_one_clear_error(
    content: str, words: str, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=words) as raised:
        read(path, "nextqa")
    assert path.name in raised.value.message


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="prediction file not found"):
        read(tmp_path / "no.json", "nextqa")
    with pytest.raises(DataError, match="not a regular file"):
        read(tmp_path, "nextqa")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="cannot be read as a score matrix"):
        read(tmp_path / "bad.npz", "didemo")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"bad\.parquet"):
        read(tmp_path / "bad.parquet", "nextqa")


def test_predictions_for_unknown_questions_are_an_error_that_names_some(tmp_path: Path) -> None:
    value = {str(n): 0 for n in range(10)}
    with pytest.raises(DataError, match="8 of 10 predictions are for unknown questions: '0', '3'"):
        joined(written(tmp_path, value), "tvqa", TWO)
    with pytest.raises(DataError, match="unknown questions"):
        joined(written(tmp_path, value), "how2qa", TWO, PUBLISHED)
    result = joined(written(tmp_path, value), "tvqa", TWO, PUBLISHED)
    assert answers(result) == [0, 0]
    assert result.notes == ["8 predictions for other questions are ignored"]


def test_one_question_under_two_names_is_an_error(tmp_path: Path) -> None:
    value = [{"qid": name, "prediction": 1, "target": 0} for name in ("77_0", "TN_77_0")]
    with pytest.raises(DataError, match="both predictions for 77_0"):
        joined(written(tmp_path, value), "nextqa", [question("77_0")])


# --- whose answer counts ---------------------------------------------------------------------


def test_the_files_own_answers_count_only_as_published(tmp_path: Path) -> None:
    value = {"1": {"prediction": 3, "answer": 3}, "2": {"prediction": 0, "answer": 0}}
    path = written(tmp_path, value)
    ours = joined(path, "nextqa", TWO)
    assert [row.correct for row in ours.rows] == [False, True]
    assert "differ in 1 of 2 questions" in ours.notes[0]
    published = joined(path, "nextqa", TWO, PUBLISHED)
    assert [row.correct for row in published.rows] == [True, True]
    assert "the file's own answers count" in published.notes[0]
    assert joined(path, "star", TWO, PUBLISHED).rows[0].correct is False


# --- indices into a vocabulary ---------------------------------------------------------------

WORDS = ["man", "dog", "cat"]
OPEN = [open_question(str(n), word) for n, word in enumerate(["man", "dog", "cat", "emu", "owl"])]


def index_file(base: int, predictions: list[int]) -> dict[str, Any]:
    """Answers 3 and 4 are outside the vocabulary: `base - 1`."""
    truth = [base, base + 1, base + 2, base - 1, base - 1]
    return {
        str(n): {"prediction": predicted, "answer": truth[n]}
        for n, predicted in enumerate(predictions)
    }


@pytest.mark.parametrize("base", [0, 1])
def test_indices_are_decoded_through_the_files_own_answers(base: int, tmp_path: Path) -> None:
    value = index_file(base, [base, base + 2, base + 2, base - 1, base + 17])
    result = joined(written(tmp_path, value), "msvd-qa", OPEN)
    assert [row.correct for row in result.rows] == [True, False, True, False, False]
    assert answers(result)[:3] == ["man", "cat", "cat"]
    assert f"{base}-based, {base - 1} is the unknown class (2 answers" in result.notes[0]


@pytest.mark.parametrize("base", [0, 1])
@pytest.mark.parametrize("listed", [True, False])
def test_indices_are_decoded_through_a_vocabulary(base: int, listed: bool, tmp_path: Path) -> None:
    value = index_file(base, [base, base + 2, base + 2, base - 1, base + 17])
    words: Any = WORDS if listed else {word: n + base for n, word in enumerate(WORDS)}
    vocabulary = written(tmp_path, words, "words.json")
    result = joined(written(tmp_path, value), "msvd-qa", OPEN, vocabulary=vocabulary)
    assert [row.correct for row in result.rows] == [True, False, True, False, False]


def test_as_published_index_zero_is_never_right(tmp_path: Path) -> None:
    path = written(tmp_path, index_file(0, [0, 1, 2, 0, 0]))
    assert [row.correct for row in joined(path, "msvd-qa", OPEN, PUBLISHED).rows] == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_indices_without_a_key_to_them_are_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, {str(n): n for n in range(5)})
    with pytest.raises(DataError, match="indices into a vocabulary"):
        joined(path, "msvd-qa", OPEN)
    words = written(tmp_path, "\n".join(WORDS), "words.txt")
    result = joined(path, "msvd-qa", OPEN, vocabulary=words)
    assert [row.correct for row in result.rows] == [True, True, True, False, False]


def test_answers_that_do_not_belong_to_the_annotations_are_an_error(tmp_path: Path) -> None:
    value = {str(n): {"prediction": 1, "answer": n % 2} for n in range(5)}
    with pytest.raises(DataError, match="2 answer indices of the file stand for several words"):
        joined(written(tmp_path, value), "msvd-qa", OPEN)
    strange = written(tmp_path, ["x", "y", "z"], "words.json")
    with pytest.raises(DataError, match="does not fit"):
        joined(written(tmp_path, index_file(1, [1] * 5)), "msvd-qa", OPEN, vocabulary=strange)


def test_a_vocabulary_is_refused_where_answers_are_words(tmp_path: Path) -> None:
    path = written(tmp_path, {str(n): "dog" for n in range(5)})
    assert answers(joined(path, "msvd-qa", OPEN)) == ["dog"] * 5
    with pytest.raises(UsageError, match="--vocabulary is for predictions by index"):
        joined(path, "msvd-qa", OPEN, vocabulary=written(tmp_path, WORDS, "w.json"))
    bad = written(tmp_path, {"a": "b"}, "bad.json")
    by_index = written(tmp_path, index_file(1, [1] * 5))
    with pytest.raises(DataError, match="neither a list of words"):
        joined(by_index, "msvd-qa", OPEN, vocabulary=bad)


def test_a_number_among_words_is_a_counted_failure(tmp_path: Path) -> None:
    path = written(tmp_path, {"0": "man", "1": "dog", "2": 3, "3": "emu", "4": "Owl "})
    rows = joined(path, "msvd-qa", OPEN).rows
    assert [row.reason for row in rows] == ["", "", "3 is not a text", "", ""]
    assert rows[4].correct


def test_what_a_judge_needs_of_a_question(tmp_path: Path) -> None:
    asked = Question(
        "0", ("a", "b"), "#C C opens it", ("video 1", "video 2"), 1, None, None, None,
        "inter", (), "val", 1,
    )  # fmt: skip
    made = asked_of(asked, "inter-intra")
    assert (made.answer, made.num_options, made.known, made.video) == (1, 2, True, "b")
    hidden = Question("0", ("a",), "who?", (), None, None, None, None, None, (), "test", 1)
    assert not asked_of(hidden, "accuracy").known
    assert asked_of(hidden, "retrieval").known
    assert not asked_of(hidden, "moments").known
