"""train-videodistill and eval on `shapes`: vocabulary and options, slots, bytes read, variants."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages.artifacts.features import FeatureReader
from stages.models.videodistill_config import TABLE_4

FRAMES, KEEP, PATCHES = 8, 3, 4


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    path = Path(found["artifact"]["path"]) / "predictions.parquet"
    return list(pq.read_table(path).to_pylist())


@pytest.fixture(scope="module")
def world(shapes_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return shapes_world.copy(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="module")
def classifier(world: Any) -> dict[str, Any]:
    """A network with an answer vocabulary."""
    found: dict[str, Any] = world.train("shapes", "--task", "open-ended")
    return found


@pytest.fixture(scope="module")
def chooser(world: Any) -> dict[str, Any]:
    """A network that matches options, as `shapes` asks by itself."""
    found: dict[str, Any] = world.train("shapes")
    return found


# --- training ------------------------------------------------------------------------------------


def test_the_vocabulary_is_that_of_the_train_split(world: Any, classifier: dict[str, Any]) -> None:
    folder = Path(classifier["artifact"]["path"])
    kept = json.loads((folder / "vocabulary.json").read_text())
    told = classifier["vocabulary"]
    assert told["answers"] == len(kept["answers"]) == len(set(kept["answers"]))
    assert told["train"] == {"labelled": 24, "covered": 24, "percent": 100.0}
    assert told["tune"]["labelled"] == 24
    assert sum(kept["counts"]) == 24
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["vocabulary"] == told
    assert manifest["config"]["model"]["answers"] == told["answers"]
    assert "vocabulary.json" in manifest["files"]


def test_a_small_vocabulary_leaves_questions_out_and_says_so(world: Any) -> None:
    found = world.train("shapes", "--task", "open-ended", "--set", "vocabulary_size=2")
    assert found["vocabulary"]["answers"] == 2
    covered = found["vocabulary"]["train"]["covered"]
    assert 0 < covered < 24
    assert found["counts"]["total"] == covered


def test_multiple_choice_is_learnt_by_matching_unless_told_otherwise(
    chooser: dict[str, Any],
) -> None:
    config = json.loads((Path(chooser["artifact"]["path"]) / "manifest.json").read_text())["config"]
    assert (config["role"], config["task"], config["model"]["answers"]) == (
        "trained",
        "choice",
        None,
    )


def test_the_papers_optimisation_is_the_default(world: Any) -> None:
    plan = world.done("train-videodistill", "-b", "shapes", "--dry-run")["plan"]
    assert plan["task"] == "choice"
    assert plan["questions"] == 24
    found = world.done(
        "train-videodistill", "-b", "shapes", "--keep", 2, "--set", "model.width=8",
        "--set", "model.layers=1", "--set", "training.epochs=1", "--set", "max_train_questions=4",
    )  # fmt: skip
    config = json.loads((Path(found["artifact"]["path"]) / "manifest.json").read_text())["config"]
    training = config["training"]
    assert training["schedule"]["kind"] == "step_linear"
    assert training["schedule"]["init_lr"] == 3e-5
    assert training["optimizer"]["weight_decay"] == 1e-3
    assert training["batch_size"] == 128


def test_the_features_of_another_backbone_are_not_in_the_way(world: Any) -> None:
    """The workspace holds InstructBLIP features of the same questions."""
    plan = world.done("train-videodistill", "-b", "shapes", "--dry-run")["plan"]
    assert any("toy-clip" in name for name in plan["inputs"])
    plan = world.done("train-teacher", "-b", "shapes", "--dry-run")["plan"]
    assert any("random-tiny" in name for name in plan["inputs"])
    assert not any("toy-clip" in name for name in plan["inputs"])


# --- answers -------------------------------------------------------------------------------------


def test_the_classifier_chooses_among_the_options(world: Any, classifier: dict[str, Any]) -> None:
    found = world.answer("shapes", "--weights", classifier["artifact"]["id"])
    assert {"accuracy", "by_type", "ci95", "keyframe_recall"} <= set(found["metrics"])
    for row in rows_of(found):
        assert len(row["scores"]) == 4
        assert row["prediction"] == row["scores"].index(max(row["scores"]))
        assert len(row["frames"]) == len(row["times"]) == KEEP
        assert len(row["frame_scores"]) == FRAMES
        assert sum(row["frame_scores"]) == pytest.approx(1.0, abs=1e-5)
        assert row["frame_rule"] == "sampler"


def test_every_option_is_matched_with_frames_of_its_own(
    world: Any, chooser: dict[str, Any]
) -> None:
    found = world.answer("shapes", "--weights", chooser["artifact"]["id"])
    rows = rows_of(found)
    assert all(row["prediction"] == row["scores"].index(max(row["scores"])) for row in rows)
    assert all(len(set(row["scores"])) > 1 for row in rows)
    assert len({tuple(row["frame_scores"]) for row in rows}) > 1


@pytest.mark.parametrize("task", ["classifier", "chooser"])
def test_the_batch_size_changes_nothing_but_rounding(
    task: str, world: Any, request: pytest.FixtureRequest
) -> None:
    weights = ("--weights", request.getfixturevalue(task)["artifact"]["id"])
    whole = rows_of(world.answer("shapes", *weights))
    small = rows_of(world.answer("shapes", *weights, "--set", "batch_size=3"))
    for one, other in zip(whole, small, strict=True):
        assert one["frames"] == other["frames"]
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_other_selectors_cross_with_the_answerer(world: Any, classifier: dict[str, Any]) -> None:
    weights = ("--weights", classifier["artifact"]["id"])
    oracle = world.answer("shapes", *weights, "--select", "oracle")
    assert {row["frame_rule"] for row in rows_of(oracle)} == {"oracle"}
    stored = world.answer("shapes", *weights, "--select", "uniform")
    assert {row["frame_rule"] for row in rows_of(stored)} == {"stored"}
    refused = world.run(
        "eval", "-b", "shapes", "--system", "videodistill", *weights, "--select", "random",
        "--keep", KEEP + 1,
    )  # fmt: skip
    assert refused.code == 2
    assert "keeps 3 frames, not 4" in refused.json["error"]["message"]


def test_weights_cannot_be_read_by_a_head_that_was_not_trained(
    world: Any, chooser: dict[str, Any]
) -> None:
    weights = ("--weights", chooser["artifact"]["id"])
    line = ("eval", "-b", "shapes", "--system", "videodistill", *weights, "--set", "read=answer")
    refused = world.run(*line)
    assert refused.code == 2
    assert "--set read=matched" in refused.json["error"]["hint"]


# --- what is read --------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Rows of patches and of frame CLS that are read while the test runs."""
    counted = {"patches": 0, "cls": 0}
    patches, cls = FeatureReader.read, FeatureReader.read_cls

    def counted_patches(self: FeatureReader, rows: Any) -> Any:
        counted["patches"] += len(rows)
        return patches(self, rows)

    def counted_cls(self: FeatureReader, rows: Any) -> Any:
        counted["cls"] += len(rows)
        return cls(self, rows)

    monkeypatch.setattr(FeatureReader, "read", counted_patches)
    monkeypatch.setattr(FeatureReader, "read_cls", counted_cls)
    return counted


def test_at_most_k_of_n_frames_are_read_and_the_table_once(
    world: Any, classifier: dict[str, Any], reads: dict[str, int]
) -> None:
    world.answer("shapes", "--weights", classifier["artifact"]["id"], "--seed", 3, "--no-blind")
    questions = 24 + 1  # one question warms up outside the clock
    assert reads["cls"] == questions * FRAMES
    assert 0 < reads["patches"] <= questions * KEEP


def test_options_that_choose_the_same_frames_share_them(
    world: Any, chooser: dict[str, Any], reads: dict[str, int]
) -> None:
    world.answer("shapes", "--weights", chooser["artifact"]["id"], "--seed", 3, "--no-blind")
    assert 0 < reads["patches"] <= 25 * min(4 * KEEP, FRAMES)


# --- variants ------------------------------------------------------------------------------------


def test_one_command_sweeps_the_rows_of_table_4(world: Any, small: Callable[..., Any]) -> None:
    line = ("train-videodistill", "-b", "shapes", *small("max_train_questions=8"))
    told = world.done(
        *line, "--sweep", f"variant={','.join(TABLE_4)}", "--evaluate", "--blind", "gaussian",
        "--task", "open-ended",
    )  # fmt: skip
    assert [row["settings"]["variant"] for row in told["sweep"]] == list(TABLE_4)
    assert len({row["artifact"]["id"] for row in told["sweep"]}) == len(TABLE_4)
    for row in told["sweep"]:
        assert 0 <= row["metrics"]["accuracy"] <= 100
        assert 0 <= row["blind"]["accuracy"] <= 100
    again = world.done(*line, "--sweep", "variant=a,f", "--task", "open-ended")
    assert all(row["reused"] for row in again["sweep"])


def test_impossible_combinations_are_skipped_with_the_reason(
    world: Any, small: Callable[..., Any]
) -> None:
    line = ("train-videodistill", "-b", "shapes", *small("max_train_questions=8"))
    told = world.done(*line, "--sweep", f"keep={FRAMES + 1},2 variant=b", "--task", "open-ended")
    impossible, possible = told["sweep"]
    assert "cannot keep more frames" in impossible["skipped"]
    assert possible["artifact"]["finished"]
