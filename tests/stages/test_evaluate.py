"""`vqa eval`: every question has one row, and equal requests have equal bytes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages.benchmarks.exports import nextqa_file, star_file
from stages.benchmarks.questions import Question
from vqa_cli.main import run_command

QUICK = ("--set", "training.epochs=1", "--set", "training.batch_size=4")
STAGE_FIELDS = {"command", "artifact", "reused", "counts", "inputs", "seconds", "next"}
EVAL_FIELDS = {
    "benchmark", "split", "system", "n_questions", "n_scored", "n_failed", "n_unlabelled",
    "metrics", "artifact",
}  # fmt: skip


@pytest.fixture(scope="module")
def workspace(trained_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = trained_world.copy(tmp_path_factory.mktemp("evaluate"))
    return path


@pytest.fixture(scope="module")
def evaluate(workspace: Path, vqa: Callable[..., Any]) -> Callable[..., Any]:
    """Runs `vqa eval` on the shapes of this file's workspace."""

    def run(*arguments: object) -> Any:
        return vqa("eval", "-b", "shapes", "-w", workspace, *arguments)

    return run


def rows_of(outcome: Any) -> list[dict[str, Any]]:
    assert outcome.code in (0, 1), outcome.json
    path = Path(outcome.json["artifact"]["path"]) / "predictions.parquet"
    return list(pq.read_table(path).to_pylist())


def data_files(outcome: Any) -> dict[str, bytes]:
    """Bytes of every data file of the artifact."""
    folder = Path(outcome.json["artifact"]["path"])
    files = json.loads((folder / "manifest.json").read_text())["files"]
    return {name: (folder / name).read_bytes() for name in files}


def input_folder(workspace: Path, outcome: Any, kind: str) -> Path:
    """The folder of what the evaluation read."""
    found = [workspace / kind / name for name in outcome.json["inputs"]]
    return next(path for path in found if path.is_dir())


def assert_same_answers(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], tolerance: float
) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for name in ("question_id", "prediction", "correct", "frames", "times", "status"):
            assert one[name] == other[name], name
        for name in ("scores", "frame_scores"):
            assert other[name] == pytest.approx(one[name], rel=tolerance, abs=tolerance)


# --- what comes out ------------------------------------------------------------------------------


def test_the_json_has_the_documented_fields(evaluate: Callable[..., Any]) -> None:
    outcome = evaluate("--no-blind")
    assert set(outcome.json) == EVAL_FIELDS | STAGE_FIELDS | {"ms_per_video", "memory"}
    assert (outcome.json["benchmark"], outcome.json["split"]) == ("shapes", "test")
    assert outcome.json["system"] == "vlap"
    assert outcome.json["counts"] == {"total": 24, "done": 24, "failed": 0}
    metrics = outcome.json["metrics"]
    assert {"accuracy", "accuracy_all", "by_type", "ci95"} <= set(metrics)
    assert {"keyframe_recall", "keyframe_precision", "keyframe_recall_random"} <= set(metrics)
    low, high = metrics["ci95"]
    assert 0 <= low <= metrics["accuracy"] <= high <= 100


def test_accuracy_is_the_share_of_right_rows(evaluate: Callable[..., Any]) -> None:
    outcome = evaluate()
    rows = rows_of(outcome)
    right = [row["prediction"] == row["answer"] for row in rows]
    assert [row["correct"] for row in rows] == right
    assert outcome.json["metrics"]["accuracy"] == pytest.approx(100 * sum(right) / len(right))


def test_a_student_is_preferred_to_a_start_and_a_teacher(evaluate: Callable[..., Any]) -> None:
    assert "-student-question-8to2" in evaluate().json["artifact"]["id"]
    assert "-start-2f" in evaluate("--role", "start").json["artifact"]["id"]
    assert "-teacher-8f" in evaluate("--role", "teacher").json["artifact"]["id"]


def test_a_student_keeps_k_frames_with_a_score_for_each_of_t(
    evaluate: Callable[..., Any],
) -> None:
    for row in rows_of(evaluate()):
        assert len(row["frames"]) == len(row["times"]) == 2
        assert row["times"] == sorted(row["times"])
        assert len(row["frame_scores"]) == 8
        assert len(row["scores"]) == 4


# --- the same again ------------------------------------------------------------------------------


def test_an_equal_request_is_reused(evaluate: Callable[..., Any]) -> None:
    first, again = evaluate("--seed", 1), evaluate("--seed", 1)
    assert again.json["reused"]
    assert again.json["metrics"] == first.json["metrics"]


@pytest.mark.parametrize("noise", [False, True])
def test_evaluating_again_writes_the_same_bytes(noise: bool, evaluate: Callable[..., Any]) -> None:
    line = ("--seed", 2, "--set", f"model.eval_noise={json.dumps(noise)}")
    before = data_files(evaluate(*line))
    outcome = evaluate(*line, "--force")
    assert not outcome.json["reused"]
    assert data_files(outcome) == before


def test_the_batch_size_changes_no_prediction(evaluate: Callable[..., Any]) -> None:
    batches = [rows_of(evaluate("--set", f"batch_size={size}")) for size in (16, 1, 5)]
    for rows in batches[1:]:
        assert_same_answers(batches[0], rows, tolerance=1e-4)


def test_the_number_of_shards_changes_no_prediction(evaluate: Callable[..., Any]) -> None:
    whole = rows_of(evaluate())
    for size in (1, 7, 24):
        rows = rows_of(evaluate("--set", f"questions_per_shard={size}"))
        assert_same_answers(whole, rows, tolerance=1e-4)


@pytest.mark.parametrize("noise", [False, True])
def test_shards_built_by_several_runs_are_the_shards_of_one(
    noise: bool, evaluate: Callable[..., Any], trained_world: Any, vqa: Callable[..., Any],
    tmp_path: Path,
) -> None:  # fmt: skip
    """With noise too: a shard's draws do not depend on the shards before it."""
    line = ("--set", "questions_per_shard=5", "--set", f"model.eval_noise={json.dumps(noise)}")
    other = trained_world.copy(tmp_path)
    first = vqa("eval", "-b", "shapes", "-w", other, *line, "--shard", "1/2")
    assert (first.code, first.json["artifact"]["finished"]) == (0, False)
    second = vqa("eval", "-b", "shapes", "-w", other, *line, "--shard", "0/2")
    assert second.json["artifact"]["finished"]
    assert data_files(second) == data_files(evaluate(*line, "--seed", 42))


# --- selectors, blind runs, answer modes ---------------------------------------------------------


@pytest.mark.parametrize(
    ("select", "keep"), [("uniform", 4), ("random", 3), ("oracle", 2), ("all", 8)]
)
def test_any_selector_crosses_with_the_answerer(
    select: str, keep: int, evaluate: Callable[..., Any]
) -> None:
    arguments = ("--keep", keep) if select != "all" else ()
    rows = rows_of(evaluate("--select", select, *arguments))
    assert {len(set(row["times"])) for row in rows} == {keep}


def test_uniform_keeps_the_middle_frames_of_its_segments(evaluate: Callable[..., Any]) -> None:
    """2 frames are not stored: the midpoint rule on the 8 that are."""
    every = rows_of(evaluate("--select", "all"))
    uniform = rows_of(evaluate("--select", "uniform", "--keep", 2))
    for all_frames, kept in zip(every, uniform, strict=True):
        assert kept["times"] == [all_frames["times"][index] for index in (2, 6)]
        assert (all_frames["frame_rule"], kept["frame_rule"]) == ("all", "midpoint")


def test_uniform_takes_the_stored_sampling_of_k_frames_where_there_is_one(
    evaluate: Callable[..., Any], workspace: Path
) -> None:
    outcome = evaluate("--select", "uniform", "--keep", 4)
    rows = rows_of(outcome)
    assert {row["frame_rule"] for row in rows} == {"stored"}
    folder = input_folder(workspace, outcome, "features")
    index = pq.read_table(folder / "rows.parquet").to_pydict()
    clips = pq.read_table(folder / "clips.parquet").to_pylist()
    sampled = {
        clip["video"]: [index["frame"][row] for row in clip["rows"]]
        for clip in clips
        if (clip["frames"], clip["view"]) == (4, 0)
    }
    asked = pq.read_table(input_folder(workspace, outcome, "questions") / "questions.parquet")
    videos = {row["question_id"]: row["videos"][0] for row in asked.to_pylist()}
    assert [row["frames"] for row in rows] == [sampled[videos[r["question_id"]]] for r in rows]
    assert outcome.json["metrics"]["keyframe_recall_random"] > 0


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ((), "prompter"),
        (("--role", "start"), "midpoint"),
        (("--role", "teacher"), "all"),
        (("--select", "random"), "random"),
        (("--select", "oracle"), "oracle"),
    ],
)
def test_every_row_says_how_its_frames_were_chosen(
    arguments: tuple[str, ...], rule: str, evaluate: Callable[..., Any]
) -> None:
    assert {row["frame_rule"] for row in rows_of(evaluate(*arguments))} == {rule}


def test_random_frames_follow_the_seed(evaluate: Callable[..., Any]) -> None:
    def kept(seed: int) -> list[list[float]]:
        line = ("--select", "random", "--keep", 3, "--seed", seed)
        return [row["times"] for row in rows_of(evaluate(*line, "--force"))]

    assert kept(1) == kept(1)
    assert kept(1) != kept(2)


def test_the_oracle_finds_every_moment_that_has_a_frame(evaluate: Callable[..., Any]) -> None:
    best = evaluate("--select", "oracle", "--keep", 2).json["metrics"]["keyframe_recall"]
    possible = evaluate("--select", "all").json["metrics"]["keyframe_recall"]
    assert best == possible


def test_a_blind_run_sees_noise_and_is_the_same_in_any_batch(evaluate: Callable[..., Any]) -> None:
    seeing, blind = evaluate("--role", "start"), evaluate("--role", "start", "--blind", "gaussian")
    assert "blind-gaussian" in blind.json["artifact"]["id"]
    scores = [[row["scores"] for row in rows_of(item)] for item in (seeing, blind)]
    assert scores[0] != scores[1]
    small = evaluate("--role", "start", "--blind", "gaussian", "--set", "batch_size=5")
    assert_same_answers(rows_of(blind), rows_of(small), tolerance=1e-4)


def test_letter_and_rank_are_two_ways_to_read_one_model(evaluate: Callable[..., Any]) -> None:
    rank = rows_of(evaluate("--answer", "rank"))
    letter = rows_of(evaluate("--answer", "letter"))
    assert {len(row["scores"]) for row in rank + letter} == {4}
    assert [row["scores"] for row in rank] != [row["scores"] for row in letter]
    assert all(math.isfinite(score) for row in rank + letter for score in row["scores"])


def test_options_that_do_not_exist_cannot_be_chosen(evaluate: Callable[..., Any]) -> None:
    free = rows_of(evaluate("--answer", "letter", "--set", "model.restrict_options=false"))
    assert {len(row["scores"]) for row in free} == {5}
    held = rows_of(evaluate("--answer", "letter"))
    assert all(row["prediction"] in range(4) for row in held)
    for one, other in zip(free, held, strict=True):
        assert other["prediction"] == one["scores"][:4].index(max(one["scores"][:4]))


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--select", "magic"), 2, "magic"),
        (("--select", "uniform", "--keep", 9), 2, "9 of 8"),
        (("--keep", 4), 2, "keeps 2 frames, not 4"),
        (("--system", "none"), 2, "none"),
        (("--split", "nowhere"), 2, "nowhere"),
        (("--weights", "nothing"), 4, "nothing"),
        (("--role", "answerer"), 2, "answerer"),
        (("--blind", "folded"), 2, "blind"),
        (("--set", "blind=folded"), 3, "blind"),
        (("--answer", "maybe"), 2, "answer"),
        (("--set", "answer=maybe"), 3, "answer"),
        (("--set", "seed=-1"), 3, "seed"),
        (("--select", "all", "--keep", 2), 2, "all 8 frames, not 2"),
        (("--device", "meta"), 2, "meta"),
        (("--questions", "nothing"), 4, "nothing"),
        (("--backbone", "instructblip-flan-t5-xl"), 4, "instructblip-flan-t5-xl"),
        (("--set", "keep=many"), 3, "keep"),
        (("--set", "batch_size=0"), 3, "batch_size"),
        (("--set", "nonsense=1"), 3, "nonsense"),
        (("--set", "model.nonsense=1"), 3, "model.nonsense"),
        (("--set", "model.keep=4"), 3, "model.keep"),
        (("--set", "model.rank_norm=median"), 3, "rank_norm"),
        (("--shard", "2/2"), 2, "2/2"),
        (("--export", "homely"), 2, "homely"),
        (("--export", "official"), 2, "shapes"),
        (("--export-to", "x.json"), 2, "--export"),
    ],
)
def test_a_wrong_request_is_named_and_leaves_nothing(
    arguments: tuple[object, ...], code: int, named: str, evaluate: Callable[..., Any],
    workspace: Path,
) -> None:  # fmt: skip
    before = sorted((workspace / "predictions").glob("*"))
    outcome = evaluate(*arguments)
    assert outcome.code == code, outcome.json
    assert named in outcome.json["error"]["message"]
    assert sorted((workspace / "predictions").glob("*")) == before


# --- questions that fail, or have no answer ------------------------------------------------------


def test_the_tokens_of_an_option_are_summed_or_averaged(evaluate: Callable[..., Any]) -> None:
    summed, mean = (
        rows_of(evaluate("--answer", "rank", "--rank-norm", how)) for how in ("sum", "mean")
    )
    assert summed == rows_of(evaluate("--answer", "rank"))
    assert [row["scores"] for row in summed] != [row["scores"] for row in mean]


# --- choosing what is read -----------------------------------------------------------------------


def test_what_was_chosen_is_printed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["eval", "-b", "shapes", "-w", str(workspace)]) == 0
    printed = capsys.readouterr().err
    for kind in ("questions: shapes-test-", "features: shapes-test-", "weights: shapes-vlap-"):
        assert kind in printed


def test_a_dry_run_tells_what_it_would_do_and_writes_nothing(
    evaluate: Callable[..., Any], workspace: Path
) -> None:
    before = sorted(workspace.rglob("*"))
    plan = evaluate("--dry-run", "--seed", 991, "--set", "batch_size=10").json["plan"]
    assert sorted(workspace.rglob("*")) == before
    assert (plan["questions"], plan["with_features"], plan["forward_passes"]) == (24, 24, 3)
    assert not plan["reused"]
    assert len(plan["inputs"]) == 3
    written = evaluate("--seed", 991, "--set", "batch_size=10").json["artifact"]["id"]
    assert written == plan["artifact"]
    assert evaluate("--dry-run", "--seed", 991, "--set", "batch_size=10").json["plan"]["reused"]


@pytest.fixture(scope="module")
def several(
    trained_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A workspace with a second test split, and that one's id."""
    path = trained_world.copy(tmp_path_factory.mktemp("several"))
    line = ("-b", "shapes", "-w", path, "--split", "test", "--workers", 1)
    outcome = vqa("prepare", *line, "--size", 4, "--seed", 12345)
    assert outcome.code == 0, outcome.json
    return path, outcome.json["artifact"]["id"]


def test_questions_without_features_do_not_make_the_choice_ambiguous(
    several: tuple[Path, str], vqa: Callable[..., Any], tmp_path: Path
) -> None:
    path, _ = several
    outcome = vqa("eval", "-b", "shapes", "-w", path)
    assert outcome.code == 0, outcome.json
    assert outcome.json["n_questions"] == 24


def test_several_prepared_sets_are_settled_by_questions_or_features(
    several: tuple[Path, str], trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    source, second = several
    path = Path(shutil.copytree(source, tmp_path / "workspace"))
    stored = ("--from-videos", "--frames", 8, "--workers", 1, "--backbone", trained_world.backbone)
    made = vqa("extract-features", "-b", "shapes", "-w", path, "--questions", second, *stored)
    assert made.code == 0, made.json
    outcome = vqa("eval", "-b", "shapes", "-w", path)
    assert outcome.code == 2
    assert "--questions" in outcome.json["error"]["hint"]
    assert second in outcome.json["error"]["message"]
    features = made.json["artifact"]["id"]
    for choice in (("--questions", second), ("--features", features)):
        outcome = vqa("eval", "-b", "shapes", "-w", path, *choice)
        assert outcome.code == 0, outcome.json
        assert {second, features} <= set(outcome.json["inputs"])


def write_questions(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def question_row(number: int, video: str, answer: int | None) -> dict[str, Any]:
    options = ["red", "green", "blue"][: 2 + number % 2]
    row = {"question_id": f"q{number}", "video": video, "question": "what color is the circle"}
    return row | {"options": options} | ({} if answer is None else {"answer": answer})


@pytest.fixture(scope="module")
def videos(tiny_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good videos and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    generated = sorted(tiny_world.workspace.glob("questions/shapes-test-*/**/*.mp4"))
    for number, path in enumerate(generated[:3]):
        shutil.copy(path, folder / f"good{number}.mp4")
    (folder / "broken.mp4").write_bytes(b"not a video" * 100)
    return folder


@pytest.fixture(scope="module")
def custom(
    videos: Path, tiny_world: Any, vqa: Callable[..., Any], tmp_path_factory: Any
) -> Callable[..., Any]:
    """Runs commands on a `custom` workspace: a teacher, a mixed test split, an unlabelled val."""
    root = tmp_path_factory.mktemp("custom")

    def run(command: str, *arguments: object) -> Any:
        return vqa(command, "-b", "custom", "-w", root / "workspace", *arguments)

    def add(split: str, rows: Sequence[dict[str, Any]]) -> None:
        path = write_questions(root / f"{split}.jsonl", rows)
        given = ("--annotations", path, "--videos", videos, "--workers", 1, "--max-failures", 1)
        assert run("prepare", "--split", split, *given).code == 0
        stored = ("--from-videos", "--frames", 4, "--backbone", tiny_world.backbone)
        outcome = run(
            "extract-features", "--split", split, *stored, "--workers", 1, "--max-failures", 1
        )
        assert outcome.code == 0, outcome.json

    add("train", [question_row(number, f"good{number % 3}.mp4", 0) for number in range(8)])
    assert run("train-teacher", *QUICK).code == 0
    mixed = [question_row(number, f"good{number % 3}.mp4", 1) for number in range(5)]
    mixed += [question_row(number, "broken.mp4", 0) for number in (5, 6)]
    mixed += [question_row(number, "good0.mp4", None) for number in (7, 8, 9)]
    add("test", mixed)
    add("val", [question_row(number, "good1.mp4", None) for number in range(4)])
    return run


def test_every_question_is_scored_failed_or_unlabelled(custom: Callable[..., Any]) -> None:
    outcome = custom("eval", "--max-failures", 0.5)
    assert outcome.code == 0
    counted = [outcome.json[name] for name in ("n_scored", "n_failed", "n_unlabelled")]
    assert counted == [5, 2, 3]
    assert outcome.json["n_questions"] == sum(counted) == 10
    rows = rows_of(outcome)
    assert [row["question_id"] for row in rows] == [f"q{number}" for number in range(10)]
    assert [row["status"] for row in rows] == ["ok"] * 5 + ["failed"] * 2 + ["unlabelled"] * 3
    assert all(row["reason"] for row in rows if row["status"] == "failed")
    assert {row["prediction"] for row in rows if row["status"] == "failed"} == {None}
    assert {row["correct"] for row in rows if row["status"] != "ok"} == {None}
    assert all(row["prediction"] is not None for row in rows if row["status"] == "unlabelled")


def test_failed_questions_are_wrong_in_accuracy_all(custom: Callable[..., Any]) -> None:
    outcome = custom("eval", "--max-failures", 0.5)
    right = sum(bool(row["correct"]) for row in rows_of(outcome))
    assert outcome.json["metrics"]["accuracy"] == pytest.approx(100 * right / 5)
    assert outcome.json["metrics"]["accuracy_all"] == pytest.approx(100 * right / 7)


def test_too_many_failures_exit_with_1_and_a_usable_artifact(custom: Callable[..., Any]) -> None:
    outcome = custom("eval")
    assert outcome.code == 1
    assert outcome.json["artifact"]["finished"]
    assert outcome.json["counts"] == {"total": 10, "done": 8, "failed": 2}


def test_strict_stops_at_the_first_failure(custom: Callable[..., Any]) -> None:
    outcome = custom("eval", "--strict", "--seed", 77)
    assert outcome.code == 3
    assert outcome.json["error"]["message"].startswith("q5: ")


def test_questions_keep_their_own_number_of_options(custom: Callable[..., Any]) -> None:
    for mode in ("rank", "letter"):
        rows = rows_of(custom("eval", "--answer", mode, "--max-failures", 1))
        answered = [row for row in rows if row["status"] != "failed"]
        assert [len(row["scores"]) for row in answered] == [2, 3, 2, 3, 2, 3, 2, 3]
        assert all(row["prediction"] < len(row["scores"]) for row in answered)


@pytest.fixture
def own_custom(custom: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs commands on a copy of the `custom` workspace, for tests that add to it."""
    source = Path(custom("eval", "--max-failures", 1).json["artifact"]["path"]).parents[1]
    workspace = shutil.copytree(source, tmp_path / "workspace")

    def run(command: str, *arguments: object) -> Any:
        return custom(command, "-w", workspace, *arguments)

    return run


def test_weights_of_another_benchmark_can_be_named_and_it_is_said(
    own_custom: Callable[..., Any], trained_world: Any, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    weights = next((trained_world.workspace / "weights").glob("shapes-vlap-start-*"))
    outcome = own_custom("eval", "--weights", weights)  # it sees 8 frames, 4 are stored
    assert outcome.code == 4
    assert "--frames 8" in outcome.json["error"]["hint"]
    stored = ("--from-videos", "--frames", 8, "--backbone", trained_world.backbone)
    made = own_custom("extract-features", "--split", "test", *stored, "--max-failures", 1)
    features = made.json["artifact"]["id"]
    line = ["eval", "-b", "custom", "-w", str(tmp_path / "workspace"), "--max-failures", "1"]
    assert run_command([*line, "--weights", str(weights), "--features", features]) == 0
    printed = capsys.readouterr()
    assert "was trained on shapes, not on custom" in printed.err
    assert "5 scored" in printed.out


@pytest.fixture
def odd(own_custom: Callable[..., Any], videos: Path, tiny_world: Any, tmp_path: Path) -> Any:
    """The same with three more questions to a split: plain, six options, and with a true span."""
    rows = [question_row(number, "good0.mp4", 0) for number in range(3)]
    rows[1]["options"] = list("abcdef")
    rows[2]["spans"] = [[0.0, 1.0]]

    def add(split: str) -> Any:
        path = write_questions(tmp_path / f"odd-{split}.jsonl", rows)
        given = ("--annotations", path, "--videos", videos, "--workers", 1, "--name", "odd")
        assert own_custom("prepare", "--split", split, *given).code == 0
        stored = ("--from-videos", "--frames", 4, "--backbone", tiny_world.backbone)
        line = ("--questions", "odd", "--workers", 1, "--name", "odd")
        outcome = own_custom("extract-features", "--split", split, *stored, *line)
        assert outcome.code == 0, outcome.json
        return own_custom

    return add


def test_a_question_with_too_many_options_to_letter_is_one_failed_row(odd: Any) -> None:
    outcome = odd("test")("eval", "--questions", "odd", "--answer", "letter")
    assert outcome.code == 1  # a third of the rows
    rows = rows_of(outcome)
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert "6 options" in rows[1]["reason"]
    assert "rank" in rows[1]["reason"]
    assert rows[1]["frame_rule"] is None


def test_a_question_without_spans_is_one_failed_row_of_the_oracle(odd: Any) -> None:
    outcome = odd("test")("eval", "--questions", "odd", "--select", "oracle", "--keep", 2)
    rows = rows_of(outcome)
    assert [row["status"] for row in rows] == ["failed", "failed", "ok"]
    assert "true spans" in rows[0]["reason"]


def test_an_oracle_without_any_span_is_refused(custom: Callable[..., Any]) -> None:
    outcome = custom("eval", "--select", "oracle", "--keep", 2)
    assert outcome.code == 2
    assert "true spans" in outcome.json["error"]["message"]


def test_training_by_letters_refuses_a_question_with_too_many_options(
    odd: Any, tmp_path: Path
) -> None:
    run = odd("train")
    before = sorted((tmp_path / "workspace/weights").iterdir())
    for command in (("train-teacher",), ("train-teacher", "--dry-run")):
        outcome = run(*command, *QUICK, "--questions", "odd", "--answer", "letter")
        assert outcome.code == 3
        assert "q1: 6 options" in outcome.json["error"]["message"]
    assert sorted((tmp_path / "workspace/weights").iterdir()) == before
    plan = run("train-teacher", *QUICK, "--questions", "odd", "--answer", "rank", "--dry-run")
    assert plan.json["plan"]["questions"] == 3


def test_letters_of_no_option_are_chosen_only_where_nothing_forbids_it(
    custom: Callable[..., Any],
) -> None:
    line = ("--answer", "letter", "--max-failures", 1)
    free = rows_of(custom("eval", *line, "--set", "model.restrict_options=false"))
    held = rows_of(custom("eval", *line))
    answered = [pair for pair in zip(free, held, strict=True) if pair[0]["status"] != "failed"]
    assert any(one["prediction"] >= len(other["scores"]) for one, other in answered)
    assert all(other["prediction"] < len(other["scores"]) for _, other in answered)


def test_a_split_without_answers_has_no_metrics_and_is_no_error(
    custom: Callable[..., Any],
) -> None:
    outcome = custom("eval", "--split", "val")
    assert outcome.code == 0
    assert outcome.json["metrics"] == {}
    assert (outcome.json["n_unlabelled"], outcome.json["n_scored"]) == (4, 0)


# --- open-ended questions and official files -----------------------------------------------------


@pytest.fixture(scope="module")
def open_ended(
    videos: Path, tiny_world: Any, vqa: Callable[..., Any], tmp_path_factory: Any
) -> Callable[..., Any]:
    """Runs commands on an `msrvtt-qa` workspace with a trained teacher."""
    root = tmp_path_factory.mktemp("open-ended")
    for number in range(3):
        shutil.copy(videos / f"good{number}.mp4", root / f"video{number}.mp4")

    def run(command: str, *arguments: object) -> Any:
        return vqa(command, "-b", "msrvtt-qa", "-w", root / "workspace", *arguments)

    for split in ("train", "test"):
        rows = [
            {"answer": "red", "category_id": 1, "id": number, "question": "what color is it?",
             "video_id": number % 3}
            for number in range(6)
        ]  # fmt: skip
        (root / f"{split}.json").write_text(json.dumps(rows))
        given = ("--annotations", root / f"{split}.json", "--videos", root, "--workers", 1)
        assert run("prepare", "--split", split, *given).code == 0
        stored = ("--from-videos", "--frames", 4, "--backbone", tiny_world.backbone)
        assert run("extract-features", "--split", split, *stored, "--workers", 1).code == 0
    assert run("train-teacher", *QUICK).code == 0
    return run


def test_open_ended_questions_get_words(open_ended: Callable[..., Any]) -> None:
    outcome = open_ended("eval")
    assert outcome.code == 0, outcome.json
    rows = rows_of(outcome)
    assert all(isinstance(row["prediction"], str) and row["scores"] == [] for row in rows)
    assert {row["answer"] for row in rows} == {"red"}
    assert outcome.json["n_scored"] == 6


def test_letters_are_refused_where_there_are_no_options(open_ended: Callable[..., Any]) -> None:
    folder = Path(open_ended("eval").json["artifact"]["path"]).parent
    before = sorted(folder.iterdir())
    outcome = open_ended("eval", "--answer", "letter")
    assert outcome.code == 2
    assert "no options" in outcome.json["error"]["message"]
    assert sorted(folder.iterdir()) == before


def test_the_official_file_of_msrvtt_qa_is_written_where_it_is_asked_for(
    open_ended: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "new" / "answers.json"
    outcome = open_ended("eval", "--export", "official", "--export-to", path)
    assert outcome.json["export"] == str(path)
    rows = rows_of(outcome)
    expected = [{"question_id": r["question_id"], "answer": r["prediction"]} for r in rows]
    assert json.loads(path.read_text()) == expected


def test_without_a_place_it_is_called_after_the_artifact(
    open_ended: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = open_ended("eval", "--export", "official")
    assert outcome.json["export"].endswith("-official.json")
    assert [path.name for path in tmp_path.iterdir()] == [outcome.json["export"]]


def a_question(question_id: str, kind: str, answer: int | None) -> Question:
    return Question(
        question_id, ("v",), "what?", ("a", "b"), answer, None, None, None, kind, (), "test", 1
    )


def test_nextqa_files_hold_prediction_and_answer_by_question() -> None:
    questions = [a_question("401_0", "CW", 1), a_question("401_1", "TN", None)]
    assert nextqa_file(questions, [0, None]) == {
        "401_0": {"prediction": 0, "answer": 1},
        "401_1": {"prediction": None, "answer": None},
    }


def test_star_files_list_questions_under_their_four_types() -> None:
    questions = [
        a_question("Prediction_T1_2", "Prediction", None),
        a_question("Interaction_T1_1", "Interaction", 0),
    ]
    assert star_file(questions, [1, None]) == {
        "Interaction": [{"question_id": "Interaction_T1_1", "answer": None}],
        "Sequence": [],
        "Prediction": [{"question_id": "Prediction_T1_2", "answer": 1}],
        "Feasibility": [],
    }
