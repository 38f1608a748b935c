"""What every test needs: shared data (if beside the checkout), a fixed RNG, a tiny world."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Before torch is there: tests run in a process per core, and networks this small gain nothing from
# threads, least of all from threads that spin while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")


def shared_folder() -> Path | None:
    """The folder of real annotations, videos and golden tensors, where there is one."""
    named = os.environ.get("VQA_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder; tests that use it are skipped where it is absent."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("no shared data beside the checkout (or in VQA_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def leave_the_random_state_alone() -> Iterator[None]:
    """Tests that draw random numbers do not change what later tests draw."""
    import random

    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


@dataclass(frozen=True)
class TinyWorld:
    """A small `shapes` with stored features of a random backbone, ready for training.

    Attributes:
        workspace: 8 videos and 24 questions a split, 8 and 4 frames of 5 x 16 values each.
        backbone: The random InstructBLIP folder.
    """

    workspace: Path
    backbone: Path

    def copy(self, folder: Path) -> Path:
        """A copy of the workspace in `folder`, to train and evaluate in."""
        return Path(shutil.copytree(self.workspace, folder / "workspace"))


@dataclass(frozen=True)
class Outcome:
    """What one command line came to: exit code and the JSON object on stdout."""

    code: int
    json: dict[str, Any]


def run_vqa(*arguments: object) -> Outcome:
    """`vqa ARGUMENTS --json --quiet` in this process."""
    from vqa_cli.main import run_command

    caught = io.StringIO()
    with contextlib.redirect_stdout(caught):
        code = run_command([*map(str, arguments), "--json", "--quiet"])
    return Outcome(code, json.loads(caught.getvalue()))


@pytest.fixture(scope="session")
def vqa() -> Callable[..., Outcome]:
    """Runs a command line in this process: `vqa("eval", "-b", "shapes", "-w", path)`."""
    return run_vqa


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """Built once, through the command line; copy it before writing into it."""
    import torch

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tiny-world")
    backbone = _models_conftest().write_folder(root / "random-tiny", seed=0)
    workspace = ("--workspace", root / "workspace")
    for split in ("train", "val", "test"):
        _done("prepare", "-b", "shapes", "--split", split, "--size", 8, "--workers", 1, *workspace)
    frames = ("--from-videos", "--frames", "8,4", "--workers", 1)
    _done("extract-features", "-b", "shapes", "--backbone", backbone, *frames, *workspace)
    return TinyWorld(root / "workspace", backbone)


@pytest.fixture(scope="session")
def trained_world(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """The same with a teacher, a 2-frame start and a question-prompted 8 -> 2 student."""
    workspace = tiny_world.copy(tmp_path_factory.mktemp("trained-world"))
    quick = ("-b", "shapes", "-w", workspace, "--set", "training.epochs=1", "--seed", 7)
    _done("train-teacher", *quick)
    _done("train-teacher", *quick, "--keep", 2)
    _done("distill", *quick, "--keep", 2, "--prompter", "question")
    return TinyWorld(workspace, tiny_world.backbone)


def _done(*arguments: object) -> None:
    outcome = run_vqa(*arguments)
    assert outcome.code == 0, outcome.json


def _models_conftest() -> Any:
    """The module that writes random backbones; test folders are not packages."""
    path = Path(__file__).parent / "models/conftest.py"
    spec = importlib.util.spec_from_file_location("models_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def sevila_world(tiny_world: TinyWorld, tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """The tiny world with features of a random BLIP-2 instead, for SeViLA's stages."""
    root = tmp_path_factory.mktemp("sevila-world")
    backbone = _models_conftest().write_folder(root / "random-blip2", seed=1, model_type="blip-2")
    workspace = tiny_world.copy(root)
    shutil.rmtree(workspace / "features")
    frames = ("--from-videos", "--frames", "8,2", "--workers", 1, "--workspace", workspace)
    _done("extract-features", "-b", "shapes", "--backbone", backbone, *frames)
    return TinyWorld(workspace, backbone)
