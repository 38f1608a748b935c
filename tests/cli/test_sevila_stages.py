"""The four commands of SeViLA's training as a user and a script see them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from stages.training.sevila import AnswererSelect, EvalSelect
from vqa_cli.main import run_command
from vqa_cli.options import SELECTS

COMMANDS = ("train-answerer", "train-localizer", "pseudo-label", "refine-localizer")
STAGE_KEYS = {"command", "artifact", "reused", "counts", "inputs", "seconds", "next"}
QUICK = ("--set", "training.epochs=1", "--set", "training.batch_size=8")


@pytest.fixture(scope="module")
def workspace(sevila_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = sevila_world.copy(tmp_path_factory.mktemp("stages"))
    return made


def test_the_option_knows_the_selectors_of_the_stage() -> None:
    assert get_args(AnswererSelect) == get_args(EvalSelect) == SELECTS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_torch(command: str) -> None:
    code = (
        "import sys; from vqa_cli.main import run_command; "
        f"code = run_command(['{command}', '--help']); "
        "sys.exit(code or 10 * ('torch' in sys.modules or 'pyarrow' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"vqa {command}" in done.stdout or "Usage" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_workspace_says_what_to_prepare(
    command: str, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = vqa(command, "-b", "shapes", "-w", tmp_path)
    assert outcome.code == 4
    assert "vqa prepare --benchmark shapes" in outcome.json["error"]["hint"]
    assert vqa(command, "-b", "nothing", "-w", tmp_path).code == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_the_json_is_that_of_a_stage(
    command: str, vqa: Callable[..., Any], workspace: Path
) -> None:
    if command == "refine-localizer":
        assert vqa("pseudo-label", "-b", "shapes", "-w", workspace).code == 0
    settings = () if command == "pseudo-label" else QUICK
    outcome = vqa(command, "-b", "shapes", "-w", workspace, *settings)
    assert outcome.code == 0, outcome.json
    assert outcome.json.keys() >= STAGE_KEYS
    assert outcome.json["command"] == command
    assert outcome.json["artifact"]["finished"]
    extra = {"pseudo-label": {"labels"}, "refine-localizer": {"training", "change"}}
    assert outcome.json.keys() - STAGE_KEYS == extra.get(command, {"training"}) | {"memory"}
    assert all(line.startswith("vqa ") for line in outcome.json["next"])


def test_the_notes_say_what_was_chosen(
    workspace: Path, vqa: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert vqa("pseudo-label", "-b", "shapes", "-w", workspace).code == 0
    line = ["refine-localizer", "-b", "shapes", "-w", str(workspace), *QUICK]
    assert run_command(line) == 0
    printed = capsys.readouterr()
    for said in ("pseudo-labels: shapes-train", "starts from: the backbone as it is",
                 "answerer: the backbone as it is", "tune accuracy"):  # fmt: skip
        assert said in printed.err
    assert run_command(["pseudo-label", "-b", "shapes", "-w", str(workspace)]) == 0
    printed = capsys.readouterr()
    assert "frames give the answer" in printed.err
    assert "as it is (zero-shot)" in printed.err


def test_status_lists_labels_as_an_artifact(vqa: Callable[..., Any], workspace: Path) -> None:
    assert vqa("pseudo-label", "-b", "shapes", "-w", workspace).code == 0
    rows = vqa("status", "-w", workspace).json["artifacts"]
    (labels,) = [row for row in rows if row["kind"] == "pseudo-labels"]
    assert (labels["state"], labels["done"], labels["total"]) == ("finished", 24, 24)


@pytest.mark.slow
def test_a_killed_labelling_goes_on_to_the_same_bytes(
    vqa: Callable[..., Any], workspace: Path, sevila_world: Any, tmp_path: Path
) -> None:
    line = ("pseudo-label", "-b", "shapes", "--set", "questions_per_shard=2")
    whole = Path(vqa(*line, "-w", workspace).json["artifact"]["path"])
    own = sevila_world.copy(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "vqa_cli", *line, "-w", str(own), "--quiet"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    while process.poll() is None and len(list(own.glob("pseudo-labels/*/*-00003.json"))) == 0:
        time.sleep(0.002)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(own.glob("pseudo-labels/*/manifest.json"))
    outcome = vqa(*line, "-w", own)
    assert outcome.code == 0
    made = Path(outcome.json["artifact"]["path"])
    for name in json.loads((whole / "manifest.json").read_text())["files"]:
        assert (made / name).read_bytes() == (whole / name).read_bytes()
