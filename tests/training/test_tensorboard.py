"""Training curves for TensorBoard: an extra that leaves the artifact as it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

QUICK = ("--set", "training.epochs=1", "--set", "training.batch_size=8")


def test_curves_lie_beside_the_artifacts_and_change_nothing(
    tiny_world: Any,
    vqa: Callable[..., Any],
    metrics_of: Callable[..., Any],
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    workspace = tiny_world.copy(tmp_path)
    line = ("train-teacher", "-b", "shapes", "-w", workspace, *QUICK)
    outcome = vqa(*line, "--tensorboard")
    assert outcome.code == 0, outcome.json
    assert vqa(*line).json["reused"]  # the option is not part of what is asked for

    events = EventAccumulator(str(workspace / ".logs" / outcome.json["artifact"]["id"]))
    events.Reload()
    metrics = [item for item in metrics_of(workspace, "shapes-vlap-teacher") if "loss" in item]
    for name in ("loss", "gradient_norm", "lr"):
        curve = [(item.step, item.value) for item in events.Scalars(name)]
        assert curve == [(item["pass"], pytest.approx(item[name], rel=1e-6)) for item in metrics]
    assert len(events.Scalars("tune_accuracy")) == 1
    files = {path.name for path in Path(outcome.json["artifact"]["path"]).iterdir()}
    assert files == {"weights.safetensors", "metrics.jsonl", "manifest.json"}


def test_the_missing_extra_is_named_before_any_work(
    tiny_world: Any, vqa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    workspace = tiny_world.copy(tmp_path)
    outcome = vqa("train-teacher", "-b", "shapes", "-w", workspace, *QUICK, "--tensorboard")
    assert outcome.code == 5
    assert "tensorboard" in outcome.json["error"]["message"]
    assert outcome.json["error"]["hint"] == "pip install 'vqa-toolkit[tensorboard]'"
    assert not list(workspace.glob("weights/*/*"))
