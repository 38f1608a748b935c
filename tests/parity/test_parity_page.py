"""docs/parity.md gives every case in both ways, and the tool that writes it finds what is wrong."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def _tool() -> Any:
    """The script; its folder is no package."""
    path = Path(__file__).parents[2] / "tools/parity_table.py"
    spec = importlib.util.spec_from_file_location("parity_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tool = _tool()


@pytest.fixture
def page() -> str:
    return str(tool.PAGE.read_text(encoding="utf-8"))


def test_every_case_is_in_the_page_within_its_tolerance(page: str) -> None:
    rows = tool.documented(page)
    assert {(r["system"], r["case"], r["way"]) for r in rows} == {
        (*case, way) for case in tool.CASES for way in tool.WAYS
    }
    for row in rows:
        limit = tool.CASES[row["system"], row["case"]][1]
        if re.fullmatch(r"\de-\d", limit):
            assert row["difference"] <= float(limit), row
    assert tool.problems(page, rows) == []


def test_every_recorded_case_with_tensors_has_a_line(
    find_golden: Callable[[str, str], Path | None],
) -> None:
    """Case 8 of VLAP is a table of temperatures, compared to 1e-12."""
    for system, marker in (("VLAP", "weights_student.json"), ("SeViLA", "config.json")):
        folder = find_golden(system.lower(), marker)
        if folder is None:
            pytest.skip(f"no golden data of {system}")
        recorded = {
            f"case {found[1]}"
            for file in folder.glob("case*.safetensors")
            if (found := re.match(r"case(\d+)", file.stem))
        }
        told = {case[:7] for name, case in tool.CASES if name == system}
        assert recorded - told <= ({"case 08"} if system == "VLAP" else set())


def test_what_no_longer_holds_is_named(page: str) -> None:
    rows = tool.documented(page)
    worse = [row | {"difference": 20 * max(row["difference"], 1e-7)} for row in rows[:1]]
    found = tool.problems(page, [*worse, *rows[2:]])
    assert len(found) == 2
    assert "not measured" in found[0]
    assert "the page says" in found[1]
    other = tool.put(page, "agreement", "100 %")
    assert "half precisions" in tool.problems(other, rows)[0]


def test_a_page_is_written_between_its_marks(page: str) -> None:
    rows = tool.documented(page)
    again = tool.put(page, "differences", tool.difference_table(rows))
    assert tool.documented(again) == rows
    assert again.startswith(page[:200])
    with pytest.raises(SystemExit, match="not measured"):
        tool.difference_table(rows[1:])
