"""Two gloo processes share one run: the same losses, every tune question once, one talker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROCESSES = 2
RELATIVE = 1e-4
"""Sums of float32 in another order; grows over the steps of Adam."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def torchrun(*arguments: str) -> None:
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={PROCESSES}",
            "--master_addr=127.0.0.1", f"--master_port={free_port()}", *arguments,
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=240,
        capture_output=True,
    )  # fmt: skip


def training(workspace: Path) -> list[str]:
    settings = {
        "training.epochs": 2,
        "training.batch_size": 8,
        "training.checkpoint_every": 1,
        "training.schedule.init_lr": 1e-4,
        "training.schedule.warmup_steps": 0,
    }
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [
        "train-teacher", "-b", "shapes", "-w", str(workspace),
        "--answer", "letter", "--device", "cpu", *given,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def shared_run(
    world_without_dropout: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """The workspace that two processes trained in, and what each of them reported."""
    folder = tmp_path_factory.mktemp("two-processes")
    workspace = world_without_dropout.copy(folder)
    driver = str(Path(__file__).with_name("two_processes.py"))
    line = [*training(workspace), "--json", "--quiet"]
    torchrun(driver, str(folder), "--", *line)
    reports = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(PROCESSES)]
    return workspace, reports


@pytest.fixture(scope="module")
def single_run(
    world_without_dropout: Any,
    vqa: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    workspace: Path = world_without_dropout.copy(tmp_path_factory.mktemp("one-process"))
    line = training(workspace)
    assert vqa(*line, "--name", "whole").code == 0
    assert vqa(*line, "--name", "broken", "--set", "training.seed=43").code == 0
    return workspace


def assert_same_run(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [line["pass"] for line in ours] == [line["pass"] for line in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for name in ("loss", "gradient_norm", "lr", "tune_accuracy"):
            if name in one:
                assert other[name] == pytest.approx(one[name], rel=RELATIVE), (name, one, other)


def test_two_processes_have_the_losses_of_one(
    shared_run: Any, single_run: Path, metrics_of: Callable[..., Any]
) -> None:
    """The logged loss is the global batch's mean, not the first process's part of it; the tune
    accuracy is over the same questions, each counted once."""
    assert_same_run(metrics_of(single_run, "whole"), metrics_of(shared_run[0], "whole"))


def test_only_the_first_process_talks(shared_run: Any) -> None:
    first, second = (report["whole"] for report in shared_run[1])
    assert (first["code"], second["code"]) == (0, 0)
    assert json.loads(first["stdout"])["artifact"]["finished"]
    assert second["stdout"] == ""


def test_one_process_goes_on_with_the_checkpoint_of_two(
    shared_run: Any,
    single_run: Path,
    vqa: Callable[..., Any],
    metrics_of: Callable[..., Any],
) -> None:
    workspace, reports = shared_run
    assert [report["broken"]["code"] for report in reports] == [1, 1]
    assert metrics_of(workspace, "broken")[-1]["pass"] == 4
    line = training(workspace)
    assert vqa(*line, "--name", "broken", "--set", "training.seed=43").code == 0
    assert_same_run(metrics_of(single_run, "broken"), metrics_of(workspace, "broken"))


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    from stages.core.errors import ConfigError
    from stages.training.loop import Fit, TrainingConfig

    run = Fit.__new__(Fit)
    run.config, run.data, run.processes = TrainingConfig(batch_size=3), [None] * 6, 2  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="batch_size 3 is no multiple of 2"):
        run._passes_per_epoch()
