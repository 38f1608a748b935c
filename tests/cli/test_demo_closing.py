"""The demo's last lines: what was seen, in words, and what to type next."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stages.artifacts.store import Artifact
from stages.benchmarks.shapes.generate import plan_video, write_video
from stages.benchmarks.shapes.timeline import video_rng
from stages.demo_rows import DemoRow, demo_row, findings
from vqa_cli.demo import EXAMPLE, QUESTIONS, VIDEOS, next_commands
from vqa_cli.main import run_command


def row(name: str, accuracy: float, half: float | None = 3.0, seed: int = 1) -> DemoRow:
    ci95 = None if half is None else [accuracy - half, accuracy + half]
    return DemoRow(name, "s", "x", None, None, 32, 4, seed, accuracy, ci95, {}, accuracy, 1.0, 1.0)


def table(student: float, uniform: float, blind: float, half: float = 3.0) -> list[DemoRow]:
    return [
        row("random-guess", 25.0, None),
        row("language-only", blind, half),
        row("uniform", uniform, half),
        row("vlap-student-question", student, half),
    ]


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100), st.floats(0.1, 20))
def test_the_words_say_what_the_figures_say(
    student: float, uniform: float, blind: float, half: float
) -> None:
    assume(abs(abs(student - uniform) - 2 * half) > 1e-6)
    assume(abs(abs(blind - 25.0) - half) > 1e-6)
    chosen, alone = findings(table(student, uniform, blind, half))
    shown = [float(text) for text in re.findall(r"([\d.]+) %", chosen.partition(" (but")[0])]
    assert shown == pytest.approx([student, student, uniform, uniform], abs=0.051)
    points, side = re.findall(r"([\d.]+) points (more|less)", chosen)[0]
    assert float(points) == pytest.approx(abs(student - uniform), abs=0.051)
    assert (side == "more") == (student >= uniform)
    assert ("overlap" in chosen) == (not abs(student - uniform) > 2 * half)
    assert ("no more than guessing" in alone) == (blind - half <= 25.0 <= blind + half)


def test_over_seeds_it_is_their_mean_and_every_seed_has_to_agree() -> None:
    first, second = table(90, 60, 25), table(70, 66, 25)
    (chosen, _) = findings([*first, *second])
    assert "80.0 %" in chosen
    assert "63.0 %" in chosen
    assert "17.0 points more (but the 95 % intervals overlap)" in chosen


def test_systems_that_did_not_run_are_not_spoken_of() -> None:
    assert findings([row("uniform", 50.0)]) == []


def test_the_next_commands_work_when_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vqa: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    example = json.loads(EXAMPLE)
    (tmp_path / VIDEOS).mkdir()
    timeline, _ = plan_video("test", 5, False, 0)
    write_video(tmp_path / VIDEOS / example["video"], timeline, video_rng(5, "test", 0, "picture"))
    (tmp_path / QUESTIONS).write_text(EXAMPLE + "\n")
    for command in next_commands(tmp_path / "a workspace"):
        program, *words = shlex.split(command)
        assert program == "vqa"
        outcome = vqa(*words)
        assert outcome.code == 0, outcome.json
    assert outcome.json["n_questions"] == outcome.json["n_scored"] == 1


def test_in_the_usual_workspace_they_are_short() -> None:
    assert all("--workspace" not in command for command in next_commands(Path("vqa-workspace")))


@pytest.mark.slow
def test_a_quick_look_ends_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["demo", "--videos", "8", "-w", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    sentences = printed.out.partition("report: ")[2].splitlines()[1:]
    assert len(sentences) == 3
    assert all(sentence.endswith(".") and " % " in sentence for sentence in sentences)
    for command in next_commands(tmp_path):
        assert command in printed.err


def test_no_keyframes_are_counted_where_no_video_was_seen(tmp_path: Path) -> None:
    made = {
        "config": {"system": "vlap", "select": "uniform", "frames": 32, "keep": 4},
        "metrics": {
            "accuracy": 25.0, "by_type": {}, "keyframe_recall": 46.4, "keyframe_precision": 11.6
        },
        "host": {},
    }  # fmt: skip
    for blind, recall in (("gaussian", None), (None, 46.4)):
        config = made["config"] | {"blind": blind}
        line = demo_row("x", Artifact(tmp_path, made | {"config": config}), None, 1)
        assert line.keyframe_recall == recall
        assert (line.keyframe_precision is None) == (blind is not None)
