"""Table 15 in one command: `vqa run videodistill-losses`, here with tiny sizes."""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

NAME = "videodistill-losses"
LOSSES = ("vtm_weight", "contrastive_weight", "mlm_weight")
TINY = """
[pretrain-videodistill]
keep = 2
max_train_questions = 16
[pretrain-videodistill.model]
width = 16
heads = 2
layers = 1
[pretrain-videodistill.training]
epochs = 1
batch_size = 8
[train-videodistill]
task = "choice"
keep = 2
max_train_questions = 16
[train-videodistill.model]
width = 16
heads = 2
layers = 1
[train-videodistill.training]
epochs = 1
batch_size = 8
"""


def shipped() -> dict[str, Any]:
    text = (resources.files("stages.recipes") / f"{NAME}.toml").read_text("utf-8")
    return tomllib.loads(text)


def test_every_combination_of_losses_is_pre_trained_once_and_then_trained_on() -> None:
    commands = [step["command"] for step in shipped()["step"]]
    off = []
    for command in commands:
        if command[0] == "pretrain-videodistill":
            values = [text for text in command if "_weight=" in text]
            assert all(text.endswith("_weight=0") for text in values)
            off.append(frozenset(text.removeprefix("model.")[:-2] for text in values))
    some = (frozenset(names) for n in range(3) for names in itertools.combinations(LOSSES, n))
    assert set(off) == set(some)
    assert len(off) == 7
    names = [c[c.index("--name") + 1] for c in commands if c[0] == "pretrain-videodistill"]
    starts = [c[c.index("--init") + 1] for c in commands if c[0] == "train-videodistill"]
    assert names == starts


def test_a_dry_run_prints_all_of_it(vqa: Callable[..., Any], tmp_path: Path) -> None:
    outcome = vqa("run", NAME, "-w", tmp_path / "ws", "--dry-run")
    assert outcome.code == 0
    assert len(outcome.json["steps"]) == len(shipped()["step"])


@pytest.mark.slow
def test_the_whole_recipe_runs_with_tiny_sizes(vqa: Callable[..., Any], tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    lines = ["[recipe]", 'title = "Tiny"', 'benchmark = "shapes"']
    for step in shipped()["step"]:
        command = [str(recipe) if word == NAME else word for word in step["command"]]
        if command[0] == "prepare":
            command += ["--size", "8"]
        if command[0] == "extract-features":
            command[command.index("--frames") + 1] = "8"
        lines += ["[[step]]", f"command = {json.dumps(command)}"]
    recipe.write_text("\n".join(lines) + TINY)
    outcome = vqa("run", recipe, "-w", tmp_path / "ws")
    assert outcome.code == 0, outcome.json
    rows = [row for step in outcome.json["steps"] for row in step.get("sweep", [])]
    assert len(rows) == 7
    for row in rows:
        assert 0 <= row["metrics"]["accuracy"] <= 100
    # Another pre-training, another start.
    assert len({row["artifact"]["id"] for row in rows}) == 7
    again = vqa("run", recipe, "-w", tmp_path / "ws")
    assert all(row["reused"] for step in again.json["steps"] for row in step.get("sweep", []))
