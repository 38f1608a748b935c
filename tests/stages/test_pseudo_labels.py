"""`vqa pseudo-label`: which frames alone lead the answerer to the right option."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from stages import pseudo_labels as stage
from stages.artifacts.pseudo_labels import pseudo_label_records, read_pseudo_labels
from stages.artifacts.store import open_artifact
from stages.core.errors import VqaError

SHARDS = ("--set", "questions_per_shard=7", "--set", "batch_size=4")


MANY = ("--max-failures", 1)


class Stop(VqaError):
    """What a test interrupts a run with."""


@pytest.fixture(scope="module")
def label(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Runs `vqa COMMAND` in one workspace of this file."""
    workspace = sevila_world.copy(tmp_path_factory.mktemp("labels"))

    def run(*arguments: object, command: str = "pseudo-label") -> Any:
        return vqa(command, "-b", "shapes", "-w", workspace, *arguments)

    return run


def rows_of(outcome: Any) -> list[dict[str, Any]]:
    assert outcome.code in (0, 1), outcome.json
    return pseudo_label_records(open_artifact(Path(outcome.json["artifact"]["path"])))


def manifest_of(outcome: Any) -> dict[str, Any]:
    text = (Path(outcome.json["artifact"]["path"]) / "manifest.json").read_text()
    return dict(json.loads(text))


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"
    }


@pytest.mark.parametrize("mode", ["rank", "letter"])
def test_labels_are_what_single_frames_answer(mode: str, label: Callable[..., Any]) -> None:
    """`blip2-voting` asks the same answerer about the same frames one by one."""
    labelled = rows_of(label("--answer", mode))
    voting = ("--system", "blip2-voting", "--select", "all", "--split", "train")
    forced = ("--set", "model.first_token=forced")
    outcome = label(*voting, "--answer", mode, *forced, command="eval")
    path = Path(outcome.json["artifact"]["path"]) / "predictions.parquet"
    voted = {row["question_id"]: row for row in pq.read_table(path).to_pylist()}
    by_question: dict[str, list[dict[str, Any]]] = {}
    for row in labelled:
        by_question.setdefault(row["question_id"], []).append(row)
    assert by_question.keys() == voted.keys()
    for name, rows in by_question.items():
        assert [row["predicted"] for row in rows] == voted[name]["by_frame"]
        right = [said == voted[name]["answer"] for said in voted[name]["by_frame"]]
        assert [row["label"] for row in rows] == right
        assert [row["frame"] for row in rows] == voted[name]["frames"]
        assert [row["time"] for row in rows] == voted[name]["times"]
        assert [row["position"] for row in rows] == list(range(8))


def test_the_manifest_and_the_result_count_labels(label: Callable[..., Any]) -> None:
    outcome = label()
    rows, labels = rows_of(outcome), outcome.json["labels"]
    positive = sum(row["label"] for row in rows)
    assert labels["frames"] == len(rows) == 24 * 8
    assert labels["positive"] == positive
    assert labels["share_positive"] == pytest.approx(100 * positive / len(rows))
    hits: dict[str, bool] = {}
    for row in rows:
        hits[row["question_id"]] = hits.get(row["question_id"], False) or row["label"]
    assert labels["without_positive"] == list(hits.values()).count(False)
    assert outcome.json["counts"] == {"total": 24, "done": 24, "failed": 0}
    assert manifest_of(outcome)["labels"] == labels


def test_the_score_is_the_right_options_probability(label: Callable[..., Any]) -> None:
    for row in rows_of(label()):
        assert 0 <= row["score"] <= 1
        if not row["label"]:
            assert row["score"] <= 0.5  # another option is at least as likely
        else:
            assert row["score"] >= 0.25  # the best of four


def test_every_run_gives_the_same_bytes(label: Callable[..., Any]) -> None:
    folder = Path(label(*SHARDS).json["artifact"]["path"])
    before = files_of(folder)
    torch.manual_seed(7)
    again = label(*SHARDS, "--force")
    assert not again.json["reused"]
    assert files_of(folder) == before
    assert label(*SHARDS).json["reused"]


@pytest.mark.parametrize("stop", [0, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    stop: int,
    label: Callable[..., Any],
    sevila_world: Any,
    vqa: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Path(label(*SHARDS).json["artifact"]["path"])
    line = ("pseudo-label", "-b", "shapes", "-w", sevila_world.copy(tmp_path), *SHARDS)
    honest, calls = stage._Run._batch, 0

    def failing(self: Any, indices: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise Stop("interrupted")
        return honest(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(stage._Run, "_batch", failing)
        assert vqa(*line).code == 1
    outcome = vqa(*line)
    assert not outcome.json["reused"]
    assert files_of(Path(outcome.json["artifact"]["path"])) == files_of(whole)


def test_parts_of_the_shards_make_the_same_artifact(
    label: Callable[..., Any], sevila_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    line = ("pseudo-label", "-b", "shapes", "-w", sevila_world.copy(tmp_path), *SHARDS)
    first = vqa(*line, "--shard", "1/2")
    assert not first.json["artifact"]["finished"]
    assert (first.code, first.json["counts"]["done"]) == (0, 10)
    last = vqa(*line, "--shard", "0/2")
    assert last.json["artifact"]["finished"]
    whole = Path(label(*SHARDS).json["artifact"]["path"])
    assert files_of(Path(last.json["artifact"]["path"])) == files_of(whole)


def test_shards_do_not_decide_the_labels(label: Callable[..., Any]) -> None:
    def table(outcome: Any) -> dict[str, list[bool]]:
        artifact = open_artifact(Path(outcome.json["artifact"]["path"]))
        return {name: row.labels.tolist() for name, row in read_pseudo_labels(artifact).items()}

    assert table(label()) == table(label(*SHARDS))


def test_the_first_questions_can_be_labelled_alone(label: Callable[..., Any]) -> None:
    outcome = label("--set", "max_questions=5", "--frames", 4)
    rows = rows_of(outcome)
    assert outcome.json["counts"]["total"] == 5
    assert len(rows) == 5 * 4


def test_trained_weights_label_otherwise_and_are_named(label: Callable[..., Any]) -> None:
    lr = ("--set", "training.schedule.init_lr=1e-2", "--set", "training.epochs=2")
    trained = label("--select", "uniform", *lr, "--seed", 1, command="train-answerer")
    weights = trained.json["artifact"]["id"]
    zero = label()
    outcome = label("--weights", weights, "--round", 2)
    assert weights in outcome.json["inputs"]
    assert rows_of(outcome) != rows_of(zero)
    found = label("--round", 2)  # the workspace's answerer
    assert found.json["artifact"] == outcome.json["artifact"]
    assert found.json["reused"]
    assert weights not in label("--weights", "none", "--round", 2).json["inputs"]


def test_a_later_round_without_an_answerer_says_how_to_make_one(
    sevila_world: Any, vqa: Callable[..., Any]
) -> None:
    outcome = vqa("pseudo-label", "-b", "shapes", "-w", sevila_world.workspace, "--round", 2)
    assert outcome.code == 4
    assert "vqa train-answerer" in outcome.json["error"]["hint"]


def test_a_dry_run_tells_the_cost_and_writes_nothing(label: Callable[..., Any]) -> None:
    plan = label("--dry-run", "--set", "batch_size=5").json["plan"]
    assert (plan["questions"], plan["frames"], plan["forward_passes"]) == (24, 192, 5)
    assert not plan["reused"]
    outcome = label("--set", "batch_size=5")
    assert outcome.json["artifact"]["id"] == plan["artifact"]
    again = label("--dry-run", "--set", "batch_size=5").json["plan"]
    assert (again["reused"], again["forward_passes"]) == (True, 0)


def test_damaged_labels_are_made_again(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = sevila_world.copy(tmp_path)
    made = vqa("pseudo-label", "-b", "shapes", "-w", workspace, *SHARDS)
    folder = Path(made.json["artifact"]["path"])
    before = files_of(folder)
    with (folder / "pseudo-labels-00001.parquet").open("r+b") as file:
        file.seek(60)
        file.write(b"\0\0\0\0")
    line = ("artifacts", "verify", made.json["artifact"]["id"], "-w", workspace)
    assert vqa(*line).code == 6
    assert vqa(*line, "--repair").code == 0
    assert files_of(folder) == before


# --- questions that cannot be labelled ------------------------------------------------------------


@pytest.fixture(scope="module")
def custom(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """`vqa COMMAND` on four questions: plain, of a broken video, unlabelled, with six options."""
    root = tmp_path_factory.mktemp("custom-labels")
    videos = root / "videos"
    videos.mkdir()
    good = next(iter(sorted(sevila_world.workspace.glob("questions/shapes-test-*/**/*.mp4"))))
    shutil.copy(good, videos / "good.mp4")
    (videos / "broken.mp4").write_bytes(b"not a video" * 100)
    plain = {"video": "good.mp4", "question": "what color", "options": ["red", "blue"], "answer": 1}
    rows = [
        plain,
        plain | {"video": "broken.mp4"},
        {name: value for name, value in plain.items() if name != "answer"},
        plain | {"options": list("abcdef")},
    ]
    rows = [{"question_id": f"q{number}", **row} for number, row in enumerate(rows)]
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(command: str, *arguments: object) -> Any:
        return vqa(command, "-b", "custom", "-w", root / "workspace", *arguments)

    sources = ("--annotations", root / "mine.jsonl", "--videos", videos, *MANY, "--workers", 1)
    assert run("prepare", "--split", "train", *sources).code == 0
    stored = ("--from-videos", "--frames", 4, "--backbone", sevila_world.backbone, *MANY)
    assert run("extract-features", "--split", "train", *stored, "--workers", 1).code == 0
    return run


@pytest.mark.parametrize(("mode", "failed"), [("rank", [1, 2]), ("letter", [1, 2, 3])])
def test_a_question_that_cannot_be_labelled_is_one_failed_row(
    mode: str, failed: list[int], custom: Callable[..., Any]
) -> None:
    outcome = custom("pseudo-label", "--answer", mode, *MANY)
    assert outcome.code == 0
    rows = rows_of(outcome)
    wrong = [row for row in rows if row["status"] == "failed"]
    assert sorted(row["question_id"] for row in wrong) == [f"q{number}" for number in failed]
    assert all(row["reason"] for row in wrong)
    assert {row["label"] for row in wrong} == {row["frame"] for row in wrong} == {None}
    assert len(rows) == 4 * (4 - len(failed)) + len(failed)
    assert outcome.json["counts"] == {"total": 4, "done": 4 - len(failed), "failed": len(failed)}
    listed = pq.read_table(Path(outcome.json["artifact"]["path"]) / "failures.parquet")
    assert sorted(listed["id"].to_pylist()) == sorted(row["question_id"] for row in wrong)


def test_strict_stops_at_the_first_question_that_cannot_be_labelled(
    custom: Callable[..., Any],
) -> None:
    outcome = custom("pseudo-label", "--strict", "--set", "batch_size=3")
    assert outcome.code == 3
    assert "q1" in outcome.json["error"]["message"]


def test_questions_that_were_not_labelled_are_not_learnt_from(custom: Callable[..., Any]) -> None:
    labels = custom("pseudo-label", *MANY).json["artifact"]["id"]
    outcome = custom("refine-localizer", "--labels", labels, "--dry-run")
    assert outcome.json["plan"]["questions"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--set", "model.score=yes"), 2, "model.score"),
        (("--set", "nonsense=1"), 3, "nonsense"),
        (("--set", "round=0"), 3, "round"),
        (("--frames", 64), 4, "64"),
        (("--weights", "nobody"), 4, "nobody"),
        (("--set", "questions_per_shard=0"), 3, "questions_per_shard"),
    ],
)
def test_a_wrong_setting_is_named(
    arguments: tuple[object, ...], code: int, named: str, label: Callable[..., Any]
) -> None:
    outcome = label(*arguments)
    assert outcome.code == code, outcome.json
    error = outcome.json["error"]
    assert named in error["message"] + error["hint"]
