"""Retrieval: trained both ways, every pair scored, resumed, shared, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from stages.artifacts.store import Workspace
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.scorers.retrieval import places_of_texts, retrieval_metrics
from stages.core.errors import VqaError
from stages.models.backbones.folder import BackboneFolder
from stages.models.sentences import Sentences
from stages.models.videodistill import VideoFeatures
from stages.systems.retrieval import PairScorer
from stages.systems.videodistill import load_network

QUICK = ("--set", "questions_per_shard=2", "--set", "batch_size=4")


@pytest.fixture(scope="module")
def world(retrieval_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return retrieval_world.copy(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def contrastive(world: Any) -> dict[str, Any]:
    found: dict[str, Any] = world.train("msrvtt-retrieval", "--set", "tune_texts=4")
    return found


@pytest.fixture(scope="module")
def matching(world: Any) -> dict[str, Any]:
    found: dict[str, Any] = world.train("msrvtt-retrieval", "--task", "matching")
    return found


def config_of(found: dict[str, Any]) -> dict[str, Any]:
    manifest = json.loads((Path(found["artifact"]["path"]) / "manifest.json").read_text())
    config: dict[str, Any] = manifest["config"]
    return config


def scores_of(found: dict[str, Any]) -> np.ndarray:
    table = pq.read_table(Path(found["artifact"]["path"]) / "predictions.parquet")
    return np.array(table["scores"].to_pylist())


def data_files(found: dict[str, Any]) -> dict[str, bytes]:
    folder = Path(found["artifact"]["path"])
    names = json.loads((folder / "manifest.json").read_text())["files"]
    return {name: (folder / name).read_bytes() for name in names}


def test_both_ways_learn_what_they_say(
    contrastive: dict[str, Any], matching: dict[str, Any]
) -> None:
    assert config_of(contrastive)["task"] == "contrastive"
    assert 0 <= contrastive["training"]["tune_accuracy"] <= 100
    model = config_of(matching)["model"]
    weights = [model[f"{name}_weight"] for name in ("vtm", "contrastive", "mlm")]
    assert weights == [1.0, 0.0, 0.0]
    lines = (Path(matching["artifact"]["path"]) / "metrics.jsonl").read_text().splitlines()
    assert "vtm" in json.loads(lines[0])
    assert "contrastive" not in json.loads(lines[0])


@pytest.mark.parametrize("task", ["contrastive", "matching"])
def test_every_text_ranks_every_video(
    task: str, world: Any, request: pytest.FixtureRequest
) -> None:
    weights = request.getfixturevalue(task)["artifact"]["id"]
    found = world.answer("msrvtt-retrieval", "--weights", weights, *QUICK)
    scores = scores_of(found)
    assert scores.shape == (6, 6)
    expected = retrieval_metrics(places_of_texts(scores, np.arange(6)))
    for name, value in expected.items():
        assert found["metrics"][name] == pytest.approx(value)
    back = retrieval_metrics(places_of_texts(scores.T, np.arange(6)))
    assert found["metrics"]["video_to_text"]["MeanR"] == pytest.approx(back["MeanR"])
    assert found["videos"] == 6
    assert abs(scores).max() <= 1 + 1e-6 or task == "matching"


def test_the_scores_are_those_of_single_forward_passes(
    world: Any, contrastive: dict[str, Any]
) -> None:
    """Each pair by itself, with the patches of all frames in memory."""
    found = world.answer("msrvtt-retrieval", "--weights", contrastive["artifact"]["id"], *QUICK)
    workspace = Workspace(world.workspace)
    weights = workspace.by_reference("weights", contrastive["artifact"]["id"])
    questions, features = (
        next(i for i in workspace.finished(kind) if i.config["split"] == "test")
        for kind in ("questions", "features")
    )
    data = QuestionFeatures(questions, features, 8)
    network = load_network(weights, torch.device("cpu"))
    sentences = Sentences.load(BackboneFolder(world.backbone))
    alone = np.zeros((6, 6))
    with torch.no_grad():
        for row, question in enumerate(data.questions):
            text = network.encode_text(sentences.encode([question.question]))
            for column in range(6):
                rows = data.clip(column).rows
                cls, patches = data.reader.read_cls(rows), data.reader.read(rows)
                video = VideoFeatures(
                    torch.from_numpy(cls)[None].float(), torch.from_numpy(patches)[None].float()
                )
                seen = network.see(video, text)
                alone[row, column] = network.similarity(seen.v_cls, text).item()
    assert scores_of(found) == pytest.approx(alone, abs=1e-5)


def test_the_cost_is_known_before_the_start(
    world: Any, matching: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from vqa_cli.main import run_command

    weights = matching["artifact"]["id"]
    plan = world.answer("msrvtt-retrieval", "--weights", weights, "--dry-run")["plan"]
    assert (plan["texts"], plan["videos"], plan["pairs"]) == (6, 6, 36)
    assert plan["tflop"] == pytest.approx(36 * plan["gflop_per_pair"] / 1000)
    line = ["eval", "-b", "msrvtt-retrieval", "--system", "videodistill", "--weights", weights]
    assert run_command([*line, "-w", str(world.workspace), "--force"]) == 0
    assert "6 texts x 6 videos = 36 forward passes" in capsys.readouterr().err


def test_an_interrupted_ranking_goes_on_with_the_same_bytes(
    world: Any, matching: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = ("--weights", matching["artifact"]["id"])
    whole = world.answer("msrvtt-retrieval", *weights, *QUICK)
    other = world.copy(tmp_path)
    for path in (other.workspace / "predictions").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    score, done = PairScorer.scores, 0

    def interrupted(self: PairScorer, *rest: Any) -> Any:
        nonlocal done
        done += 1
        if done == 2:
            raise VqaError("interrupted")
        return score(self, *rest)

    line = ("eval", "-b", "msrvtt-retrieval", "--system", "videodistill", *weights, *QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(PairScorer, "scores", interrupted)
        assert other.run(*line).code == 1
    part = other.done(*line, "--shard", "1/2")
    assert not part["artifact"]["finished"]
    assert data_files(other.done(*line)) == data_files(whole)


def test_texts_without_a_video_are_failed_rows(world: Any, matching: dict[str, Any]) -> None:
    found = world.answer("msrvtt-retrieval", "--weights", matching["artifact"]["id"], *QUICK)
    assert (found["n_scored"], found["n_failed"]) == (6, 0)
    capped = world.run(
        "eval", "-b", "msrvtt-retrieval", "--system", "videodistill", "--weights",
        matching["artifact"]["id"], "--blind", "gaussian",
    )  # fmt: skip
    assert capped.code == 2


def test_the_ranking_is_exported_best_first(
    world: Any, matching: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "ranked.json"
    found = world.answer(
        "msrvtt-retrieval", "--weights", matching["artifact"]["id"], *QUICK,
        "--export", "official", "--export-to", file,
    )  # fmt: skip
    ranked = json.loads(file.read_text())
    names = json.loads((Path(found["artifact"]["path"]) / "videos.json").read_text())
    for row, text in zip(scores_of(found), ranked.values(), strict=True):
        assert text[0] == names[int(row.argmax())]
        assert sorted(text) == sorted(names)


def test_two_rankings_can_be_reported_and_compared(
    world: Any, contrastive: dict[str, Any], matching: dict[str, Any]
) -> None:
    made = [
        world.answer("msrvtt-retrieval", "--weights", item["artifact"]["id"], *QUICK)
        for item in (contrastive, matching)
    ]
    names = [item["artifact"]["id"] for item in made]
    compared = world.done("compare", *names)
    assert compared["difference"] == pytest.approx(
        made[0]["metrics"]["R@1"] - made[1]["metrics"]["R@1"]
    )
    assert world.run("report").code == 0


@pytest.mark.parametrize("kind", ["weights", "predictions"])
def test_what_is_damaged_is_made_again(kind: str, retrieval_world: Any, tmp_path: Path) -> None:
    world = retrieval_world.copy(tmp_path)
    found = world.train("msrvtt-retrieval", "--task", "matching")
    if kind == "predictions":
        found = world.answer("msrvtt-retrieval", *QUICK)
    folder = Path(found["artifact"]["path"])
    named = {"weights": "weights.safetensors", "predictions": "predictions-00001.parquet"}
    file = folder / named[kind]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    line = ("verify", found["artifact"]["id"], "-w", world.workspace)
    assert world.vqa("artifacts", *line).code == 6
    assert world.vqa("artifacts", *line, "--repair").code == 0
    assert file.read_bytes() == whole


def test_other_systems_say_that_they_cannot_rank(world: Any) -> None:
    refused = world.run("eval", "-b", "msrvtt-retrieval", "--system", "vlap")
    assert refused.code in (2, 4)
