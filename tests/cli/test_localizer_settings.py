"""How a localizer keeps frames comes with its own weights, whichever answerer reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

QUICK = ("--set", "training.epochs=1", "--set", "training.batch_size=8")


@pytest.fixture(scope="module")
def world(
    sevila_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny world with a localizer that scores by probability, and an answerer that does not."""
    made: Path = sevila_world.copy(tmp_path_factory.mktemp("settings"))
    scored = ("--set", "model.score=probability", "--set", "training.precision=bfloat16")
    for line in (
        ("train-localizer", *scored, "--name", "by-probability"),
        ("train-answerer", "--select", "uniform", "--keep", 2, "--name", "answerer"),
    ):
        outcome = vqa(line[0], "-b", "shapes", "-w", made, *line[1:], *QUICK)
        assert outcome.code == 0, outcome.json
    return made


@pytest.fixture
def evaluated(world: Path, vqa: Callable[..., Any]) -> Callable[..., Path]:
    """The folder that `vqa eval --system sevila --selector by-probability` wrote."""

    def evaluated(*options: object) -> Path:
        line = ("eval", "-b", "shapes", "--system", "sevila", "--keep", 2, "-w", world)
        outcome = vqa(*line, "--selector", "by-probability", *options)
        assert outcome.code == 0, outcome.json
        return Path(outcome.json["artifact"]["path"])

    return evaluated


def scores_of(folder: Path) -> list[float]:
    rows = pd.read_parquet(folder / "predictions.parquet")
    return [float(score) for row in rows["frame_scores"] for score in row]


def are_probabilities(scores: list[float]) -> bool:
    assert len(scores) == 24 * 8
    return all(0.0 < score < 1.0 for score in scores)


def test_frames_are_scored_as_the_localizer_was_made_to(evaluated: Callable[..., Path]) -> None:
    for weights in ("answerer", "none"):
        own = scores_of(evaluated("--weights", weights))
        assert are_probabilities(own)
        raw = scores_of(evaluated("--weights", weights, "--set", "model.score=yes"))
        assert not are_probabilities(raw)


def test_a_localizer_on_a_backbone_of_its_own_is_no_exception(
    evaluated: Callable[..., Path], sevila_world: Any, tmp_path: Path
) -> None:
    other = shutil.copytree(sevila_world.backbone, tmp_path / "another-place")
    options = ("--weights", "answerer", "--selector-backbone", other)
    assert are_probabilities(scores_of(evaluated(*options)))
    assert not are_probabilities(scores_of(evaluated(*options, "--set", "model.score=yes")))


def test_an_untrained_answerer_computes_as_the_localizer_was_trained(
    evaluated: Callable[..., Path],
) -> None:
    def precision(*options: object) -> str:
        made = json.loads((evaluated(*options) / "manifest.json").read_text())
        return str(made["config"]["precision"])

    assert precision("--weights", "none") == "bfloat16"
    assert precision("--weights", "answerer") == "float32"
    assert precision("--weights", "none", "--set", "precision=float32") == "float32"


@pytest.mark.parametrize(
    "line",
    [
        ("train-answerer", "--selector", "by-probability"),
        ("train-localizer", "--init", "by-probability"),
        ("refine-localizer", "--init", "by-probability", "--set", "on_the_fly=true"),
    ],
    ids=lambda line: line[0],
)
def test_training_goes_on_with_the_localizers_own_score(
    line: tuple[str, ...], world: Path, vqa: Callable[..., Any]
) -> None:
    def score(name: str, *options: str) -> str:
        small = ("--set", "max_train_questions=4", "--set", "max_tune_questions=4")
        common = ("-b", "shapes", "-w", world, "--name", f"{line[0]}-{name}", *small, *QUICK)
        outcome = vqa(*line, *common, *options)
        assert outcome.code == 0, outcome.json
        made = json.loads((Path(outcome.json["artifact"]["path"]) / "manifest.json").read_text())
        return str(made["config"]["model"]["score"])

    assert score("own") == "probability"
    assert score("given", "--set", "model.score=yes_minus_no") == "yes_minus_no"
