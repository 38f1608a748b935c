"""`vqa train-localizer` and `vqa refine-localizer`: labels, start, tune figure, what changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages.artifacts.pseudo_labels import FrameLabels, read_pseudo_labels
from stages.artifacts.store import Workspace, open_artifact
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.sevila_prompts import localizer_prompt
from stages.localizer import label_agreement
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.folder import BackboneFolder
from stages.systems.build import load_sevila
from stages.training.sevila_batches import LocalizerData, SpanLabels, StoredLabels

QUICK = ("--set", "training.epochs=1", "--set", "training.batch_size=8")
RATE = ("--set", "training.schedule.init_lr=3e-3", "--set", "training.schedule.warmup_steps=0")


@pytest.fixture(scope="module")
def workspace(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A workspace with pseudo-labels."""
    made: Path = sevila_world.copy(tmp_path_factory.mktemp("localizer"))
    assert vqa("pseudo-label", "-b", "shapes", "-w", made).code == 0
    return made


@pytest.fixture(scope="module")
def run(workspace: Path, vqa: Callable[..., Any]) -> Callable[..., Any]:
    """Runs `vqa COMMAND` with quick settings."""

    def run(command: str, *arguments: object, quick: bool = True) -> Any:
        settings = QUICK if quick else ()
        return vqa(command, "-b", "shapes", "-w", workspace, *settings, *arguments)

    return run


@pytest.fixture(scope="module")
def spans(run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **options: run("train-localizer", *arguments, **options)


@pytest.fixture(scope="module")
def refine(run: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments, **options: run("refine-localizer", *arguments, **options)


def config_of(outcome: Any) -> dict[str, Any]:
    assert outcome.code == 0, outcome.json
    manifest = json.loads((Path(outcome.json["artifact"]["path"]) / "manifest.json").read_text())
    return dict(manifest["config"])


def weights_of(outcome: Any) -> dict[str, torch.Tensor]:
    assert outcome.code == 0, outcome.json
    return load_file(Path(outcome.json["artifact"]["path"]) / "weights.safetensors")


def split_data(workspace: Path, split: str, frames: int = 8) -> QuestionFeatures:
    held = Workspace(workspace)
    (questions,) = [q for q in held.finished("questions") if q.config["split"] == split]
    (features,) = [f for f in held.finished("features") if f.config["split"] == split]
    return QuestionFeatures(questions, features, frames)


# --- on spans -------------------------------------------------------------------------------------


def test_a_localizer_on_spans_holds_one_side_and_says_what_it_is(spans: Callable[..., Any]) -> None:
    outcome = spans()
    config = config_of(outcome)
    assert (config["system"], config["role"]) == ("sevila", "localizer")
    assert (config["trained_on"], config["frames"]) == ("spans", 8)
    assert {name.split(".")[0] for name in weights_of(outcome)} == {"localizer"}
    assert outcome.json["training"]["forward_passes"] == 3
    assert outcome.json["next"] == ["vqa eval --benchmark shapes --system sevila"]


def test_the_tune_figure_is_the_share_of_frames_rightly_judged(
    spans: Callable[..., Any], workspace: Path, sevila_world: Any
) -> None:
    outcome = spans(*RATE)
    artifact = open_artifact(Path(outcome.json["artifact"]["path"]))
    model = load_sevila(
        str(sevila_world.backbone), torch.device("cpu"), "float32", {}, localizer=artifact
    )
    data, rule = split_data(workspace, "val"), load_manifest("shapes").prompt
    right = []
    for index, question in enumerate(data.questions):
        batch = data.batch([index])
        tokens = model.localizer_tokens(torch.from_numpy(batch.features))
        scores = model.score_frames(tokens, [localizer_prompt(question, rule)])
        for said, time in zip(scores.positive[0].tolist(), batch.times[0], strict=True):
            right.append(said == any(low <= time <= high for low, high in question.spans))
    figure = outcome.json["training"]["tune_accuracy"]
    assert figure == pytest.approx(100 * sum(right) / len(right))


def test_frames_at_both_ends_of_a_span_are_in_it(workspace: Path) -> None:
    question = split_data(workspace, "train").questions[0]
    (low, high) = question.spans[0]
    times = np.array([low - 0.01, low, (low + high) / 2, high, high + 0.01])
    labels, weights = SpanLabels().of(question, np.arange(5), times)
    assert labels.tolist() == [False, True, True, True, False]
    assert weights is None


def test_drawn_frames_carry_the_labels_of_their_own_times(
    workspace: Path, sevila_world: Any
) -> None:
    data = split_data(workspace, "train")
    text = Blip2.load(BackboneFolder(sevila_world.backbone)).text
    manifest = load_manifest("shapes")
    drawn = LocalizerData(
        data, data.usable(), text, manifest, 5, frames=4, truth=SpanLabels(), mode=None
    )
    seen = set()
    for epoch in range(4):
        batch = drawn.batch([3, 11], epoch)
        assert batch.labels is not None
        for row, index in enumerate((3, 11)):
            whole = data.batch([index])
            places = [
                next(t for t in range(8) if np.array_equal(whole.features[0, t], frame.numpy()))
                for frame in batch.features[row]
            ]
            assert [place // 2 for place in places] == [0, 1, 2, 3]
            seen.add((index, *places))
            question = data.questions[index]
            truth = [
                any(low <= time <= high for low, high in question.spans)
                for time in whole.times[0][places]
            ]
            assert batch.labels[row].tolist() == truth
    assert len(seen) > 2  # another draw in every epoch


def test_training_on_spans_lowers_the_loss(
    spans: Callable[..., Any], workspace: Path, sevila_world: Any
) -> None:
    fast = ("--set", "training.schedule.init_lr=3e-2", "--set", "training.epochs=2")
    outcome = spans(*RATE, *fast)
    trained = open_artifact(Path(outcome.json["artifact"]["path"]))
    data, rule = split_data(workspace, "train"), load_manifest("shapes").prompt
    batch = data.batch(range(24))
    labels = [
        [any(low <= time <= high for low, high in question.spans) for time in times]
        for question, times in zip(batch.questions, batch.times, strict=True)
    ]
    losses = []
    for weights in (None, trained):
        model = load_sevila(
            str(sevila_world.backbone), torch.device("cpu"), "float32", {}, localizer=weights
        )
        prompts = [localizer_prompt(question, rule) for question in batch.questions]
        output = model.localizer_loss(
            torch.from_numpy(batch.features), prompts, torch.tensor(labels)
        )
        losses.append(output.loss.item())
    assert losses[1] < losses[0]
    lines = (trained.path / "metrics.jsonl").read_text().splitlines()
    assert all("share_positive" in json.loads(line) for line in lines if '"loss"' in line)


def test_a_start_can_be_named_and_is_an_input(spans: Callable[..., Any]) -> None:
    first = spans(*RATE).json["artifact"]["id"]
    again = spans("--init", first, *RATE)
    assert first in again.json["inputs"]
    assert len(spans("--init", "none").json["inputs"]) == 4


def test_nothing_is_learnt_without_spans(
    vqa: Callable[..., Any], sevila_world: Any, tmp_path: Path
) -> None:
    video = next(iter(sorted(sevila_world.workspace.glob("questions/shapes-test-*/**/*.mp4"))))
    row = {"question_id": "q", "video": video.name, "question": "what", "options": ["a", "b"]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row | {"answer": 0}) + "\n")
    line = ("-b", "custom", "-w", tmp_path / "w", "--split", "train", "--workers", 1)
    sources = ("--annotations", tmp_path / "mine.jsonl", "--videos", video.parent)
    assert vqa("prepare", *line, *sources).code == 0
    stored = ("--from-videos", "--frames", 4, "--backbone", sevila_world.backbone)
    assert vqa("extract-features", *line, *stored).code == 0
    outcome = vqa("train-localizer", "-b", "custom", "-w", tmp_path / "w")
    assert outcome.code == 4
    assert "spans" in outcome.json["error"]["message"]


# --- on pseudo-labels -----------------------------------------------------------------------------


def test_a_refinement_says_what_it_read_and_what_changed(
    refine: Callable[..., Any], workspace: Path
) -> None:
    outcome = refine(*RATE)
    config, change = config_of(outcome), outcome.json["change"]
    assert (config["trained_on"], config["round"], config["answer"]) == ("pseudo-labels", 1, "rank")
    assert config["keep"] == 4
    (labels,) = Workspace(workspace).finished("pseudo-labels")
    assert labels.id in outcome.json["inputs"]
    assert (change["round"], change["before"], change["split"]) == (1, None, "val")
    assert 0 < change["keyframes_changed"] <= 100
    for name in ("keyframe_recall", "keyframe_precision"):
        assert 0 <= change[f"{name}_before"] <= 100
        assert 0 <= change[f"{name}_after"] <= 100
    assert {name.split(".")[0] for name in weights_of(outcome)} == {"localizer"}
    assert "vqa pseudo-label --benchmark shapes --round 2" in outcome.json["next"]


def test_the_changed_keyframes_are_those_of_evaluation(
    refine: Callable[..., Any], run: Callable[..., Any]
) -> None:
    outcome = refine(*RATE)
    line = ("--system", "sevila", "--split", "val", "--weights", "none")
    before = run("eval", *line, "--selector", "none", quick=False).json["metrics"]
    refined = outcome.json["artifact"]["id"]
    after = run("eval", *line, "--selector", refined, quick=False).json["metrics"]
    change = outcome.json["change"]
    for name in ("keyframe_recall", "keyframe_precision"):
        assert change[f"{name}_before"] == pytest.approx(before[name])
        assert change[f"{name}_after"] == pytest.approx(after[name])
    assert outcome.json["training"]["tune_accuracy"] == pytest.approx(after["accuracy"])


def test_a_refinement_that_learns_nothing_changes_no_keyframe(refine: Callable[..., Any]) -> None:
    still = ("--set", "training.schedule.init_lr=1e-30", "--set", "training.schedule.min_lr=0")
    none = ("--set", "training.schedule.warmup_lr=0", "--set", "training.schedule.warmup_steps=0")
    change = refine(*still, *none).json["change"]
    assert change["keyframes_changed"] == 0
    assert change["keyframe_recall_before"] == change["keyframe_recall_after"]


def test_stored_labels_go_with_their_frames(workspace: Path) -> None:
    (artifact,) = Workspace(workspace).finished("pseudo-labels")
    table = read_pseudo_labels(artifact)
    data = split_data(workspace, "train")
    question = data.questions[2]
    row = table[question.question_id]
    positions = np.array([1, 4, 7])
    hard, weights = StoredLabels(table, soft=False, threshold=0).of(question, positions, positions)
    assert hard.tolist() == row.labels[positions].tolist()
    assert weights is None
    soft, weights = StoredLabels(table, soft=True, threshold=0.8).of(question, positions, positions)
    assert soft.tolist() == pytest.approx(row.scores[positions].tolist())
    sure = [max(score, 1 - score) >= 0.8 for score in row.scores[positions]]
    assert weights is not None
    assert weights.tolist() == [float(value) for value in sure]


@pytest.mark.parametrize(
    "setting",
    [
        "soft_labels=true", "threshold=0.999", "model.class_balance=true", "frames_per_question=8",
        "on_the_fly=true", "model.frozen_dropout=false", "max_train_questions=9", "seed=3",
    ],
)  # fmt: skip
def test_every_option_changes_what_is_learnt(setting: str, refine: Callable[..., Any]) -> None:
    plain, other = weights_of(refine(*RATE)), weights_of(refine(*RATE, "--set", setting))
    assert any(not torch.equal(plain[name], other[name]) for name in plain)


@pytest.mark.parametrize("mode", ["letter", "rank"])
def test_labels_made_in_every_step_need_no_artifact(
    mode: str, refine: Callable[..., Any], vqa: Callable[..., Any], sevila_world: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    workspace = sevila_world.copy(tmp_path)
    line = ("refine-localizer", "-b", "shapes", "-w", workspace, *QUICK)
    assert vqa(*line).code == 4  # no labels
    outcome = vqa(*line, "--set", "on_the_fly=true", "--answer", mode)
    assert outcome.code == 0, outcome.json
    assert config_of(outcome)["answer"] == mode


def test_rounds_follow_each_other(
    vqa: Callable[..., Any], sevila_world: Any, tmp_path: Path
) -> None:
    workspace = sevila_world.copy(tmp_path)

    def run(command: str, *arguments: object) -> Any:
        line = (command, "-b", "shapes", "-w", workspace, *arguments)
        outcome = vqa(*line, *(() if command == "pseudo-label" else (*QUICK, *RATE)))
        assert outcome.code == 0, outcome.json
        return outcome.json

    outcome = vqa("refine-localizer", "-b", "shapes", "-w", workspace, "--round", 2)
    assert outcome.code == 4
    assert "vqa pseudo-label --benchmark shapes --round 2" in outcome.json["error"]["hint"]
    labels = run("pseudo-label")["artifact"]["id"]
    first = run("refine-localizer")["artifact"]["id"]
    answerer = run("train-answerer")
    assert first in answerer["inputs"]  # its keyframes
    second_labels = run("pseudo-label", "--round", 2)
    assert answerer["artifact"]["id"] in second_labels["inputs"]
    second = run("refine-localizer", "--round", 2)
    change = second["change"]
    assert (change["round"], change["before"]) == (2, first)
    assert change["labels_before"] == labels
    assert {first, second_labels["artifact"]["id"], answerer["artifact"]["id"]} <= set(
        second["inputs"]
    )
    held = Workspace(workspace)
    expected = label_agreement(
        read_pseudo_labels(held.by_reference("pseudo-labels", labels)),
        read_pseudo_labels(held.by_reference("pseudo-labels", second_labels["artifact"]["id"])),
    )
    assert change["label_agreement"] == pytest.approx(expected)
    # The first round is still what it was.
    assert run("refine-localizer")["reused"]
    assert run("pseudo-label")["reused"]


def test_label_agreement_counts_frames_of_questions_labelled_twice() -> None:
    def labels(*values: bool) -> FrameLabels:
        return FrameLabels(np.arange(len(values)), np.array(values), np.ones(len(values)))

    first = {"a": labels(True, False, True, True), "b": labels(True), "c": labels(True, False)}
    second = {"a": labels(True, True, True, True), "c": labels(True), "d": labels(False)}
    assert label_agreement(first, second) == 75.0
    assert label_agreement(first, {}) is None


def test_labels_of_other_frames_are_refused(
    vqa: Callable[..., Any], sevila_world: Any, tmp_path: Path
) -> None:
    workspace = sevila_world.copy(tmp_path)

    def run(command: str, *arguments: object) -> Any:
        return vqa(command, "-b", "shapes", "-w", workspace, "--split", "train", *arguments)

    stored = ("--backbone", sevila_world.backbone, "--from-videos", "--frames", 16)
    name = run("extract-features", *stored, "--name", "other").json["artifact"]["id"]
    assert run("pseudo-label", "--features", name, "--frames", 8).code == 0
    (plain,) = (workspace / "features").glob("shapes-train-*")
    outcome = run("refine-localizer", "--features", plain.name)
    assert outcome.code == 3, outcome.json
    assert "other frames" in outcome.json["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--set", "frames_per_question=9"), 3, "frames_per_question"),
        (("--set", "threshold=1"), 3, "threshold"),
        (("--set", "on_the_fly=true", "--labels", "x"), 2, "--labels"),
        (("--set", "nonsense=1"), 3, "nonsense"),
        (("--set", "model.nonsense=1"), 3, "model.nonsense"),
        (("--set", "training=1"), 3, "training"),
        (("--keep", 9), 3, "keep"),
        (("--labels", "nothing"), 4, "nothing"),
        (("--init", "nothing"), 4, "nothing"),
        (("--weights", "nothing"), 4, "nothing"),
        (("--set", "round=0"), 3, "round"),
        (("--frames", 4), 2, "labels 8 frames, not 4"),
        (("--round", 3), 4, "--round 3"),
    ],
)
def test_a_wrong_setting_of_a_refinement_is_named(
    arguments: tuple[object, ...], code: int, named: str, refine: Callable[..., Any]
) -> None:
    outcome = refine(*arguments, "--labels", "shapes-train") if code == 3 else refine(*arguments)
    assert outcome.code == code, outcome.json
    error = outcome.json["error"]
    assert named in error["message"] + error["hint"]


@pytest.mark.parametrize("setting", ["on_the_fly=true", "soft_labels=true", "threshold=0.5"])
def test_spans_are_labels_as_they_are(setting: str, spans: Callable[..., Any]) -> None:
    outcome = spans("--set", setting)
    assert outcome.code == 3
    assert setting.split("=")[0] in outcome.json["error"]["message"]


@pytest.mark.parametrize("command", ["train-localizer", "refine-localizer"])
def test_a_dry_run_tells_what_it_would_do_and_writes_nothing(
    command: str, run: Callable[..., Any]
) -> None:
    labels = ("--labels", "shapes-train") if command == "refine-localizer" else ()
    plan = run(command, "--seed", 99, *labels, "--dry-run").json["plan"]
    assert (plan["questions"], plan["forward_passes"], plan["reused"]) == (24, 3, False)
    outcome = run(command, "--seed", 99, *labels)
    assert not outcome.json["reused"]
    assert outcome.json["artifact"]["id"] == plan["artifact"]
    assert run(command, "--seed", 99, *labels, "--dry-run").json["plan"]["reused"]


def test_damaged_localizer_weights_are_trained_again(
    run: Callable[..., Any], vqa: Callable[..., Any], workspace: Path
) -> None:
    for command, labels in (
        ("train-localizer", ()),
        ("refine-localizer", ("--labels", "shapes-train")),
    ):
        made = run(command, "--seed", 5, *labels)
        path = Path(made.json["artifact"]["path"]) / "weights.safetensors"
        before = path.read_bytes()
        path.write_bytes(before[:-8] + b"\0" * 8)
        line = ("artifacts", "verify", made.json["artifact"]["id"], "-w", workspace)
        assert vqa(*line).code == 6
        assert vqa(*line, "--repair").code == 0
        assert path.read_bytes() == before
