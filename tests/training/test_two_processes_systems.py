"""SeViLA's and VideoDistill's trainings shared by two gloo processes: the losses of one process.

Without what each process draws for itself (dropout, Gumbel noise), for that differs by design; and
with answers of one length, since the answerer's loss is the mean over a process's own words, as in
the reference.
"""

from __future__ import annotations

import importlib.util
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
MODELS = Path(__file__).parents[1] / "models"
SETTINGS = {
    "training.epochs": 2,
    "training.batch_size": 8,
    "training.schedule.init_lr": 1e-4,
    "training.schedule.warmup_steps": 0,
}
SMALL = {
    "model.width": 16,
    "model.heads": 2,
    "model.layers": 1,
    "model.train_noise": "false",
}
LETTER = ("--answer", "letter")
TRAININGS: dict[str, tuple[str, ...]] = {
    "answerer": ("train-answerer", "--select", "localizer", "--keep", "2", *LETTER),
    "baseline": ("train-answerer", "--select", "uniform", "--keep", "2", *LETTER),
    "localizer": ("train-localizer",),
    "refined": ("refine-localizer", "--init", "none"),
    "classifier": ("train-videodistill", "--task", "open-ended", "--keep", "3"),
    "chooser": ("train-videodistill", "--task", "choice", "--keep", "3"),
}


def module(name: str, path: Path) -> Any:
    """A module of another test folder; test folders are not packages."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def world(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny questions with features of a BLIP-2 without dropout and of a CLIP."""
    root = tmp_path_factory.mktemp("both-worlds")
    write_folder = module("models_conftest", MODELS / "conftest.py").write_folder
    blip = write_folder(root / "random-blip2", seed=1, model_type="blip-2")
    config = json.loads((blip / "config.json").read_text())
    config["qformer_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config["text_config"] |= {"dropout_rate": 0.0}
    (blip / "config.json").write_text(json.dumps(config))
    clip = module("random_clip", MODELS / "random_clip.py").write_clip_folder(root / "toy-clip")
    workspace: Path = tiny_world.copy(root)
    shutil.rmtree(workspace / "features")
    for backbone in (blip, clip):
        line = ("extract-features", "-b", "shapes", "-w", workspace, "--backbone", backbone)
        assert vqa(*line, "--from-videos", "--frames", "8", "--workers", 1).code == 0
    labelled = vqa("pseudo-label", "-b", "shapes", "-w", workspace, "--backbone", blip)
    assert labelled.code == 0, labelled.json
    return workspace


def line_of(name: str, workspace: Path, root: Path) -> list[str]:
    """The command line of a training, under its own name."""
    command, *options = TRAININGS[name]
    distils = command == "train-videodistill"
    settings = {**SETTINGS, **SMALL} if distils else SETTINGS
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    backbone = root / ("toy-clip" if distils else "random-blip2")
    place = ["-b", "shapes", "-w", str(workspace), "--device", "cpu", "--name", name]
    return [command, *options, *place, "--backbone", str(backbone), *given, "--json", "--quiet"]


@pytest.fixture(scope="module")
def shared(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace that two processes trained in."""
    folder = tmp_path_factory.mktemp("shared")
    workspace = Path(shutil.copytree(world, folder / "workspace"))
    lines = [line_of(name, workspace, world.parent) for name in TRAININGS]
    (folder / "lines.json").write_text(json.dumps(lines))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={PROCESSES}",
            "--master_addr=127.0.0.1", f"--master_port={port}",
            str(Path(__file__).with_name("several_lines.py")), str(folder),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=800,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in range(PROCESSES):
        outcomes = json.loads((folder / f"rank{rank}.json").read_text())
        assert [code for code, _ in outcomes] == [0] * len(TRAININGS), outcomes
        # Only the first process talks.
        assert all(bool(said) == (rank == 0) for _, said in outcomes)
    return workspace


@pytest.fixture(scope="module")
def alone(world: Path, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trainings in one process."""
    workspace = Path(shutil.copytree(world, tmp_path_factory.mktemp("alone") / "workspace"))
    for name in TRAININGS:
        line = [word for word in line_of(name, workspace, world.parent) if word[:6] != "--json"]
        outcome = vqa(*[word for word in line if word != "--quiet"])
        assert outcome.code == 0, outcome.json
    return workspace


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_have_the_losses_of_one(
    name: str, shared: Path, alone: Path, metrics_of: Callable[..., Any]
) -> None:
    ours, theirs = metrics_of(alone, name), metrics_of(shared, name)
    assert [line["pass"] for line in ours] == [line["pass"] for line in theirs]
    assert any("loss" in line for line in ours)
    for one, other in zip(ours, theirs, strict=True):
        for figure in ("loss", "gradient_norm", "lr", "tune_accuracy"):
            if figure in one:
                assert other[figure] == pytest.approx(one[figure], rel=RELATIVE), (one, other)
