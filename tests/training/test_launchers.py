"""`accelerate launch` and `torchrun` start VLAP's trainings; the losses are those of one process.

The other stages under `torchrun`: `test_two_processes_systems.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROCESSES = 2
RELATIVE = 1e-4
SETTINGS = ("training.epochs=2", "training.batch_size=8", "training.schedule.warmup_steps=0")
TRAININGS: dict[str, tuple[str, ...]] = {
    "whole": ("train-teacher", "--answer", "letter"),
    "small": ("distill", "--answer", "letter", "--keep", "2", "--prompter", "uniform_mid"),
}


def launch(launcher: str, folder: Path) -> list[str]:
    """The command that starts two processes of `several_lines.py`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    script = [str(Path(__file__).with_name("several_lines.py")), str(folder)]
    if launcher == "torchrun":
        start = ["torch.distributed.run", f"--nproc_per_node={PROCESSES}", f"--master_port={port}"]
    else:  # without --multi_gpu it starts one process; which device they use is our --device
        start = [
            "accelerate.commands.launch", "--multi_gpu", f"--num_processes={PROCESSES}",
            "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no",
            f"--main_process_port={port}",
        ]  # fmt: skip
    return [sys.executable, "-m", *start, *script]


def line_of(name: str, workspace: Path) -> list[str]:
    command, *options = TRAININGS[name]
    given = [part for value in SETTINGS for part in ("--set", value)]
    place = ["-b", "shapes", "-w", str(workspace), "--device", "cpu", "--name", name]
    return [command, *options, *place, *given]


@pytest.fixture(scope="module")
def alone(
    world_without_dropout: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The trainings in one process."""
    workspace: Path = world_without_dropout.copy(tmp_path_factory.mktemp("alone"))
    for name in TRAININGS:
        outcome = vqa(*line_of(name, workspace))
        assert outcome.code == 0, outcome.json
    return workspace


@pytest.mark.parametrize("launcher", ["accelerate launch", "torchrun"])
def test_two_processes_that_it_starts_have_the_losses_of_one(
    launcher: str,
    alone: Path,
    world_without_dropout: Any,
    metrics_of: Callable[..., Any],
    vqa: Callable[..., Any],
    tmp_path: Path,
) -> None:
    workspace = world_without_dropout.copy(tmp_path)
    lines = [[*line_of(name, workspace), "--json", "--quiet"] for name in TRAININGS]
    (tmp_path / "lines.json").write_text(json.dumps(lines))
    done = subprocess.run(
        launch(launcher, tmp_path),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=800,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in range(PROCESSES):
        outcomes = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert [code for code, _ in outcomes] == [0] * len(TRAININGS)
        assert all(bool(said) == (rank == 0) for _, said in outcomes), "only the first one talks"
    for name in TRAININGS:
        ours, theirs = metrics_of(alone, name), metrics_of(workspace, name)
        assert [line["pass"] for line in ours] == [line["pass"] for line in theirs]
        for one, other in zip(ours, theirs, strict=True):
            for figure in ("loss", "gradient_norm", "lr", "tune_accuracy"):
                if figure in one:
                    assert other[figure] == pytest.approx(one[figure], rel=RELATIVE), (name, figure)

    # What two processes trained, one evaluates: every question once.
    shutil.rmtree(workspace / "predictions", ignore_errors=True)
    found = vqa("eval", "-b", "shapes", "--system", "vlap", "--weights", "small", "-w", workspace)
    assert found.code == 0, found.json
    counted = [found.json[name] for name in ("n_scored", "n_failed", "n_unlabelled")]
    assert sum(counted) == found.json["n_questions"] == 24
