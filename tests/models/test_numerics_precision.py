"""The measurement of how often half precisions agree with float32, on a few questions."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch


def _measurement() -> Any:
    """The benchmark's script; its folder is no package."""
    path = Path(__file__).parents[2] / "benchmarks/precision_agreement.py"
    spec = importlib.util.spec_from_file_location("precision_agreement", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


measurement = _measurement()
Outcome = measurement.Outcome


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three questions about one generated video."""
    torch.set_num_threads(1)
    return measurement.make_work(tmp_path_factory.mktemp("videos"), 3)


def test_shares_count_questions_and_kept_frames(work: Any) -> None:
    right = [question.answer for question in work.questions]
    exact = Outcome([[0, 1, 2, 3]] * 3, [False] * 3, right, right, [[1.0, 2.0]] * 3)
    wrong = [(answer + 1) % 4 for answer in right]
    frames = [[0, 1, 2, 3], [0, 1, 2, 9], [4, 5, 6, 7]]
    ties, scores = [True, False, False], [[1.0, 2.0], [1.0, 2.5], [1.0, 2.0]]
    other = Outcome(frames, ties, [right[0], right[1], wrong[2]], right, scores)
    assert measurement.compare(exact, other, work) == {
        "same_kept_frames": pytest.approx(1 / 3, abs=1e-4),
        "kept_frames_in_common": pytest.approx((1 + 0.75 + 0) / 3, abs=1e-4),
        "questions_with_ties": pytest.approx(1 / 3, abs=1e-4),
        "same_answers": pytest.approx(2 / 3, abs=1e-4),
        "answers_on_float32s_frames": 1,
        "accuracy": pytest.approx(2 / 3, abs=1e-4),
        "largest_score_difference_on_float32s_frames": 0.5,
    }


@pytest.mark.parametrize("system", ["sevila", "vlap"])
def test_every_policy_is_compared_and_float32_agrees_with_itself(work: Any, system: str) -> None:
    found = measurement.agreement(system, work, torch.device("cpu"), 3, lambda _: None)
    ways = found["policies"]
    itself = ways.pop("float32, one question at a time")
    assert itself["same_kept_frames"] == itself["same_answers"] == 1
    assert itself["largest_score_difference_on_float32s_frames"] < 1e-4
    assert set(ways) == {policy.name for policy in measurement.policies(system)}
    for name, shares in ways.items():
        assert shares["largest_score_difference_on_float32s_frames"] > 1e-4, name
        assert shares["answers_on_float32s_frames"] > 0.5, name
