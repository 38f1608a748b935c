"""What the training tests share: a backbone without dropout, and how to read a run's metrics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def world_without_dropout(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """The tiny world with every dropout of its backbone at 0."""
    root = tmp_path_factory.mktemp("no-dropout")
    folder = Path(shutil.copytree(tiny_world.backbone, root / tiny_world.backbone.name))
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["qformer_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config["text_config"] |= {"dropout_rate": 0.0}
    path.write_text(json.dumps(config))
    workspace = tiny_world.copy(root)
    shutil.rmtree(workspace / "features")
    line = ("extract-features", "-b", "shapes", "-w", workspace, "--backbone", folder)
    assert vqa(*line, "--from-videos", "--frames", "8", "--workers", 1).code == 0
    return type(tiny_world)(workspace, folder)


@pytest.fixture(scope="session")
def metrics_of() -> Callable[[Path, str], list[dict[str, Any]]]:
    """Lines of `metrics.jsonl` of the weights called `name` in a workspace."""

    def read(workspace: Path, name: str) -> list[dict[str, Any]]:
        (folder,) = (workspace / "weights").glob(f"{name}-*")
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    return read
