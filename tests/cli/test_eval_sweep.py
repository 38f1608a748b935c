"""`vqa eval --sweep`: every combination once, impossible ones with their reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stages.core.errors import UsageError
from vqa_cli.sweep import combinations


def test_every_combination_occurs_and_the_last_group_changes_fastest() -> None:
    assert combinations("frames=8,16 keep=1,4") == [
        {"frames": 8, "keep": 1},
        {"frames": 8, "keep": 4},
        {"frames": 16, "keep": 1},
        {"frames": 16, "keep": 4},
    ]
    assert combinations("select=uniform,random") == [{"select": "uniform"}, {"select": "random"}]


def test_a_value_occurs_once() -> None:
    with pytest.raises(UsageError):
        combinations("keep=1,1")


@pytest.mark.parametrize("text", ["", "frames", "frames=", "=3", "keep=1 keep=2"])
def test_what_is_no_sweep_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        combinations(text)
    assert "frames=8,16,32 keep=1,4" in caught.value.hint


def test_a_sweep_gives_the_figures_of_single_evaluations(
    sevila_world: Any, tmp_path: Any, vqa: Callable[..., Any]
) -> None:
    line = ("eval", "-b", "shapes", "--system", "sevila", "-w", sevila_world.copy(tmp_path))
    swept = vqa(
        *line,
        "--select",
        "uniform",
        "--sweep",
        "frames=2,8 keep=1,4",
        "--plot",
        str(tmp_path / "k.svg"),
    )

    assert swept.code == 0
    rows = swept.json["sweep"]
    assert [row["settings"] for row in rows] == combinations("frames=2,8 keep=1,4")
    assert rows[1]["skipped"] == "cannot keep 4 of 2 frames"
    alone = vqa(*line, "--select", "uniform", "--frames", 8, "--keep", 4)
    assert alone.json["reused"] is True
    assert alone.json["metrics"] == rows[3]["metrics"]
    assert "polyline" in (tmp_path / "k.svg").read_text()


def test_a_dry_run_plans_every_combination_and_writes_nothing(
    sevila_world: Any, tmp_path: Any, vqa: Callable[..., Any]
) -> None:
    workspace = sevila_world.copy(tmp_path)
    before = sorted(workspace.rglob("*"))
    line = ("eval", "-b", "shapes", "--system", "sevila", "-w", workspace, "--select", "uniform")
    planned = vqa(*line, "--sweep", "frames=2,8 keep=1,4", "--dry-run")

    assert planned.code == 0
    plans = planned.json["plans"]
    assert list(plans) == [f"frames {frames}, keep {keep}" for frames in (2, 8) for keep in (1, 4)]
    assert plans["frames 2, keep 4"] == {"skipped": "cannot keep 4 of 2 frames"}
    assert plans["frames 8, keep 4"]["questions"] == 24
    assert sorted(workspace.rglob("*")) == before


def test_a_sweep_has_no_single_name_or_file(vqa: Callable[..., Any]) -> None:
    line = ("eval", "-b", "shapes", "--sweep", "keep=1,2")
    assert vqa(*line, "--name", "x").code == 2
    assert vqa(*line, "--export", "official").code == 2
    assert vqa("eval", "-b", "shapes", "--plot", "k.svg").code == 2


def test_what_cannot_be_drawn_is_refused_before_anything_is_computed(
    sevila_world: Any, tmp_path: Any, vqa: Callable[..., Any]
) -> None:
    workspace = sevila_world.copy(tmp_path)
    line = ("eval", "-b", "shapes", "--system", "sevila", "-w", workspace, "--select", "uniform")
    folder = vqa(*line, "--sweep", "keep=1,2", "--plot", tmp_path)
    assert (folder.code, folder.json["error"]["message"][-8:]) == (2, "a folder")
    assert vqa(*line, "--sweep", "keep=1", "--plot", tmp_path / "k.svg").code == 2
    assert not (workspace / "predictions").exists()


def test_one_impossible_value_does_not_cost_the_others(
    sevila_world: Any, tmp_path: Any, vqa: Callable[..., Any]
) -> None:
    workspace = sevila_world.copy(tmp_path)
    line = ("eval", "-b", "shapes", "--system", "sevila", "-w", workspace, "--select", "uniform")
    drawn = tmp_path / "new" / "k.svg"
    swept = vqa(*line, "--sweep", "keep=0,99,1,2", "--plot", drawn)
    assert swept.code == 0
    assert ["skipped" in row for row in swept.json["sweep"]] == [True, True, False, False]
    assert drawn.is_file()
