"""Where golden data is looked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SYSTEMS = [("vlap", "weights_student.json"), ("sevila", "config.json")]


@pytest.mark.parametrize("system", SYSTEMS)
def test_variable_that_points_nowhere_is_a_failure_not_a_skip(
    find_golden: Callable[[str, str], Path | None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    system: tuple[str, str],
) -> None:
    for wrong in (tmp_path, tmp_path / "absent"):
        monkeypatch.setenv(f"VQA_GOLDEN_{system[0].upper()}", str(wrong))
        with pytest.raises(pytest.fail.Exception):
            find_golden(*system)


@pytest.mark.parametrize("system", SYSTEMS)
def test_variable_wins_over_every_other_place(
    find_golden: Callable[[str, str], Path | None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    system: tuple[str, str],
) -> None:
    (tmp_path / system[1]).write_text("{}", encoding="utf-8")
    monkeypatch.setenv(f"VQA_GOLDEN_{system[0].upper()}", str(tmp_path))
    assert find_golden(*system) == tmp_path


def test_a_case_that_lacks_is_a_failure_under_the_variable_and_else_a_skip(
    sevila_golden: Any, tmp_path: Path
) -> None:
    kind = type(sevila_golden)
    with pytest.raises(pytest.fail.Exception):
        kind(tmp_path, complete=True).json("case01_vit")
    with pytest.raises(pytest.skip.Exception):
        kind(tmp_path).tensors("case01_vit")
