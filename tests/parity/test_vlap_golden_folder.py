"""Where golden data is looked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def test_variable_that_points_nowhere_is_a_failure_not_a_skip(
    find_golden: Callable[[], Path | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for wrong in (tmp_path, tmp_path / "absent"):
        monkeypatch.setenv("VQA_GOLDEN_VLAP", str(wrong))
        with pytest.raises(pytest.fail.Exception):
            find_golden()


def test_variable_wins_over_every_other_place(
    find_golden: Callable[[], Path | None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "weights_student.json").write_text("{}", encoding="utf-8")
    monkeypatch.setenv("VQA_GOLDEN_VLAP", str(tmp_path))
    assert find_golden() == tmp_path
