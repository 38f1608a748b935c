"""`vqa train-answerer`: every way of choosing keyframes, in training and on the tune split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from stages.artifacts.store import Workspace, open_artifact
from stages.artifacts.weights import read_weights
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.manifest import load_manifest
from stages.core.errors import UsageError
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.folder import BackboneFolder
from stages.models.learnt_selectors import sides_of
from stages.models.sevila import Sevila, load_sides, side_state
from stages.systems.face import System
from stages.systems.predict import right_of
from stages.systems.sevila import BlipAnswerer
from stages.systems.trained_selectors import learnt_selector
from stages.systems.tuning import seen_frames
from stages.training.sevila import AnswererForward

QUICK = ("--set", "training.epochs=1", "--set", "training.batch_size=8", "--keep", 2)
RATE = ("--set", "training.schedule.init_lr=1e-2", "--set", "training.schedule.warmup_steps=0")
SELECTS = ("localizer", "uniform", "random", "oracle", "topk", "atp")


@pytest.fixture(scope="module")
def workspace(sevila_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = sevila_world.copy(tmp_path_factory.mktemp("answerer"))
    return made


@pytest.fixture(scope="module")
def run(workspace: Path, vqa: Callable[..., Any]) -> Callable[..., Any]:
    """Runs `vqa COMMAND` in the workspace of this file."""
    return lambda command, *arguments: vqa(command, "-b", "shapes", "-w", workspace, *arguments)


@pytest.fixture(scope="module")
def train(run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: run("train-answerer", *QUICK, *RATE, *arguments)


def config_of(outcome: Any) -> dict[str, Any]:
    assert outcome.code == 0, outcome.json
    manifest = json.loads((Path(outcome.json["artifact"]["path"]) / "manifest.json").read_text())
    return dict(manifest["config"])


def weights_of(outcome: Any) -> dict[str, torch.Tensor]:
    assert outcome.code == 0, outcome.json
    return load_file(Path(outcome.json["artifact"]["path"]) / "weights.safetensors")


@pytest.mark.parametrize("select", SELECTS)
def test_every_selector_trains_an_answerer(select: str, train: Callable[..., Any]) -> None:
    outcome = train("--select", select)
    config = config_of(outcome)
    assert (config["system"], config["role"], config["select"]) == ("sevila", "answerer", select)
    assert config["eval_select"] == ("uniform" if select == "random" else select)
    assert (config["frames"], config["keep"], config["answer"]) == (8, 2, "rank")
    parts = {name.split(".")[0] for name in weights_of(outcome)}
    assert parts == ({"answerer", "frame_selector"} if select in ("topk", "atp") else {"answerer"})
    assert outcome.json["training"]["forward_passes"] == 3


def test_all_frames_are_kept_where_all_are_chosen(run: Callable[..., Any]) -> None:
    line = ("train-answerer", *QUICK[:4], *RATE, "--select", "all")
    assert config_of(run(*line))["keep"] == 8
    outcome = run(*line, "--keep", 2)
    assert outcome.code == 3
    assert "all 8 frames" in outcome.json["error"]["message"]


def test_no_two_selectors_teach_the_same(train: Callable[..., Any]) -> None:
    learnt = [weights_of(train("--select", select)) for select in SELECTS]
    name = "answerer.query_tokens"
    for first in range(len(learnt)):
        for second in range(first):
            assert not torch.equal(learnt[first][name], learnt[second][name])


@pytest.mark.parametrize(
    ("select", "tuned"),
    [("localizer", "localizer"), ("uniform", "uniform"), ("random", "uniform"),
     ("localizer", "uniform"), ("random", "localizer"), ("uniform", "oracle")],
)  # fmt: skip
def test_the_tune_figure_is_what_evaluation_says(
    select: str, tuned: str, train: Callable[..., Any], run: Callable[..., Any]
) -> None:
    outcome = train("--select", select, "--eval-select", tuned)
    weights = outcome.json["artifact"]["id"]
    line = ("--system", "sevila", "--split", "val", "--weights", weights, "--select", tuned)
    judged = run("eval", *line, "--keep", 2)
    figure = outcome.json["training"]["tune_accuracy"]
    assert figure == pytest.approx(judged.json["metrics"]["accuracy"])


def test_keyframes_chosen_once_are_those_of_evaluation(
    train: Callable[..., Any], run: Callable[..., Any], workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What the answerer reads in training are the features of the localizer's frames."""
    seen: dict[bytes, int] = {}
    honest = AnswererForward.__call__

    def watched(self: AnswererForward, model: Any, batch: Any, moment: Any) -> Any:
        assert batch.chosen_for is None
        for row in batch.features:
            seen[row.numpy().tobytes()] = seen.get(row.numpy().tobytes(), 0) + 1
        return honest(self, model, batch, moment)

    with monkeypatch.context() as patch:
        patch.setattr(AnswererForward, "__call__", watched)
        assert train("--seed", 31).code == 0
    line = ("--system", "sevila", "--split", "train", "--keep", 2, "--weights", "none")
    judged = run("eval", *line, "--selector", "none")
    path = Path(judged.json["artifact"]["path"]) / "predictions.parquet"
    kept = {row["question_id"]: row["frames"] for row in pq.read_table(path).to_pylist()}
    data = split_data(workspace, "train")
    expected: dict[bytes, int] = {}
    for index, question in enumerate(data.questions):
        whole = data.batch([index])
        frames = whole.frames[0].tolist()
        places = [frames.index(frame) for frame in kept[question.question_id]]
        key = whole.features[0][places].tobytes()
        expected[key] = expected.get(key, 0) + 1
    assert seen == expected


def split_data(workspace: Path, split: str) -> QuestionFeatures:
    held = Workspace(workspace)
    (questions,) = [q for q in held.finished("questions") if q.config["split"] == split]
    (features,) = [f for f in held.finished("features") if f.config["split"] == split]
    return QuestionFeatures(questions, features, 8)


def test_random_frames_differ_between_epochs_and_uniform_ones_do_not(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[str, set[bytes]] = {}
    honest = AnswererForward.__call__
    for select in ("random", "uniform"):
        seen = shown.setdefault(select, set())

        def watched(
            self: AnswererForward, model: Any, batch: Any, moment: Any, seen: Any = seen
        ) -> Any:
            seen |= {row.numpy().tobytes() for row in batch.features}
            return honest(self, model, batch, moment)

        with monkeypatch.context() as patch:
            patch.setattr(AnswererForward, "__call__", watched)
            assert train("--select", select, "--set", "training.epochs=3", "--seed", 8).code == 0
    assert len(shown["uniform"]) <= 8 < len(shown["random"])  # 8 videos


def test_the_localizer_can_choose_afresh_with_dropout(train: Callable[..., Any]) -> None:
    once, afresh = train(), train("--set", "dropout_in_choice=true")
    name = "answerer.query_tokens"
    assert not torch.equal(weights_of(once)[name], weights_of(afresh)[name])
    again = train("--set", "dropout_in_choice=true", "--force")
    assert torch.equal(weights_of(again)[name], weights_of(afresh)[name])


def test_the_workspaces_localizer_chooses_and_can_be_left_out(
    vqa: Callable[..., Any], sevila_world: Any, tmp_path: Path
) -> None:
    line = ("-b", "shapes", "-w", sevila_world.copy(tmp_path), *QUICK[:4], *RATE)
    localizer = vqa("train-localizer", *line).json["artifact"]["id"]
    assert localizer in vqa("train-answerer", *line).json["inputs"]
    assert localizer in vqa("train-answerer", *line, "--selector", localizer).json["inputs"]
    assert localizer not in vqa("train-answerer", *line, "--selector", "none").json["inputs"]
    assert localizer not in vqa("train-answerer", *line, "--select", "uniform").json["inputs"]
    outcome = vqa("train-answerer", *line, "--select", "uniform", "--selector", localizer)
    assert outcome.code == 2


@pytest.mark.parametrize("mode", ["letter", "rank"])
def test_both_answer_modes_train(mode: str, train: Callable[..., Any]) -> None:
    outcome = train("--answer", mode, "--select", "uniform")
    assert config_of(outcome)["answer"] == mode
    assert outcome.json["training"]["tune_accuracy"] >= 0


def test_another_network_option_is_kept_with_the_weights(train: Callable[..., Any]) -> None:
    config = config_of(train("--set", "model.frozen_dropout=false", "--select", "uniform"))
    assert config["model"]["frozen_dropout"] is False


@pytest.mark.parametrize("kind", ["topk", "atp"])
def test_a_learnt_selector_is_read_back_and_answers_as_in_training(
    kind: str, train: Callable[..., Any], workspace: Path, sevila_world: Any
) -> None:
    outcome = train("--select", kind)
    weights = open_artifact(Path(outcome.json["artifact"]["path"]))
    manifest, device = load_manifest("shapes"), torch.device("cpu")
    model = Sevila(Blip2.load(BackboneFolder(sevila_world.backbone)), with_localizer=False)
    load_sides(model, sides_of(read_weights(weights)))
    model.eval()
    selector = learnt_selector(weights, model.backbone, manifest, device)
    assert selector.rule == kind
    data = split_data(workspace, "val")
    answerer = BlipAnswerer(model, "rank", manifest, uniform=True)
    system = System("sevila", selector, answerer, 8, 2, device)
    right, total = right_of(system, data, data.usable(), 16)
    figure = outcome.json["training"]["tune_accuracy"]
    assert figure == pytest.approx(100 * right / total)
    chosen = selector.select(seen_frames(data, [0, 5], device), 2)
    assert chosen.scores is not None
    for row in range(2):
        best = set(chosen.scores[row].topk(2).indices.tolist())
        assert set(chosen.indices[row].tolist()) == best


def test_weights_without_a_selector_say_so(train: Callable[..., Any], sevila_world: Any) -> None:
    outcome = train("--select", "uniform")
    weights = open_artifact(Path(outcome.json["artifact"]["path"]))
    backbone = Blip2.load(BackboneFolder(sevila_world.backbone))
    with pytest.raises(UsageError, match="holds no trained frame selector"):
        learnt_selector(weights, backbone, load_manifest("shapes"), torch.device("cpu"))


@pytest.mark.parametrize("kind", ["topk", "atp"])
def test_the_answerers_loss_teaches_the_selector(kind: str, train: Callable[..., Any]) -> None:
    still = ("--set", "training.optimizer.new_parts_factor=1e-20")
    moved, kept = weights_of(train("--select", kind)), weights_of(train("--select", kind, *still))
    name = "frame_selector.scorer.score.weight"
    assert not torch.equal(moved[name], kept[name])


@pytest.mark.parametrize("kind", ["topk", "atp"])
def test_a_selector_can_learn_before_an_answerer_that_stays_as_it_is(
    kind: str, train: Callable[..., Any], run: Callable[..., Any], sevila_world: Any
) -> None:
    """SeViLA's Table 6: the answerer there is zero-shot."""
    outcome = train("--select", kind, "--freeze-answerer")
    assert config_of(outcome)["freeze_answerer"] is True
    frozen = weights_of(outcome)
    untrained = Sevila(Blip2.load(BackboneFolder(sevila_world.backbone)), with_localizer=False)
    for name, value in side_state(untrained, "answerer").items():
        assert torch.equal(frozen[name], value), name
    still = ("--set", "training.optimizer.new_parts_factor=1e-20")
    kept = weights_of(train("--select", kind, "--freeze-answerer", *still))
    name = "frame_selector.scorer.score.weight"
    assert not torch.equal(frozen[name], kept[name])
    weights = outcome.json["artifact"]["id"]
    judged = run("eval", "--system", "blip2-concat", "--select", kind, "--weights", weights)
    assert judged.code == 0, judged.json


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--select", "uniform", "--freeze-answerer"), 3, "freeze_answerer"),
        (("--select", "best"), 2, "best"),
        (("--eval-select", "best"), 2, "best"),
        (("--set", "select=best"), 2, "best"),
        (("--set", "eval_select=best"), 2, "best"),
        (("--select", "uniform", "--eval-select", "topk"), 3, "topk is not trained"),
        (("--select", "uniform", "--set", "dropout_in_choice=true"), 3, "dropout_in_choice"),
        (("--set", "nonsense=1"), 3, "nonsense"),
        (("--set", "keep=9"), 3, "keep"),
        (("--set", "keep=0"), 3, "keep"),
        (("--set", "frames=many"), 3, "frames"),
        (("--frames", 16), 4, "--frames 16"),
        (("--selector", "nobody"), 4, "nobody"),
        (("--backbone", "tiny"), 4, "tiny-blip2"),
        (("--set", "frame_selector.width=0", "--select", "topk"), 3, "frame_selector.width"),
    ],
)
def test_a_wrong_setting_is_named(
    arguments: tuple[object, ...], code: int, named: str, run: Callable[..., Any]
) -> None:
    outcome = run("train-answerer", *arguments)
    assert outcome.code == code, outcome.json
    error = outcome.json["error"]
    assert named in error["message"] + error["hint"]


def test_a_dry_run_tells_what_it_would_do_and_writes_nothing(train: Callable[..., Any]) -> None:
    plan = train("--seed", 99, "--select", "uniform", "--dry-run").json["plan"]
    assert (plan["questions"], plan["forward_passes"], plan["reused"]) == (24, 3, False)
    outcome = train("--seed", 99, "--select", "uniform")
    assert not outcome.json["reused"]
    assert outcome.json["artifact"]["id"] == plan["artifact"]
    assert train("--seed", 99, "--select", "uniform").json["reused"]


@pytest.mark.parametrize("select", ["localizer", "topk"])
def test_damaged_answerer_weights_are_trained_again(
    select: str, train: Callable[..., Any], vqa: Callable[..., Any], workspace: Path
) -> None:
    made = train("--select", select)
    path = Path(made.json["artifact"]["path"]) / "weights.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-8] + b"\0" * 8)
    line = ("artifacts", "verify", made.json["artifact"]["id"], "-w", workspace)
    assert vqa(*line).code == 6
    assert vqa(*line, "--repair").code == 0
    assert path.read_bytes() == before
