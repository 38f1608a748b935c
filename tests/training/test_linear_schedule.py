"""The linear schedule: up a line, down a line, whatever the number of steps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.training.schedule import LearningRateConfig, learning_rate


def rates(config: LearningRateConfig, epochs: int, per_epoch: int) -> list[float]:
    return [
        learning_rate(config, epoch=epoch, iteration=step, epochs=epochs, per_epoch=per_epoch)
        for epoch in range(epochs)
        for step in range(per_epoch)
    ]


@given(
    epochs=st.integers(1, 4), per_epoch=st.integers(1, 20), warmup=st.integers(0, 30),
    low=st.floats(0, 1e-3),
)  # fmt: skip
def test_it_rises_and_falls_once_within_its_ends(
    epochs: int, per_epoch: int, warmup: int, low: float
) -> None:
    config = LearningRateConfig(
        kind="step_linear", init_lr=1e-3, min_lr=low, warmup_lr=0.0, warmup_steps=warmup
    )
    found = rates(config, epochs, per_epoch)
    assert all(0.0 <= rate <= 1e-3 + 1e-12 for rate in found)
    top = min(warmup, len(found) - 1)
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


def test_steps_after_the_warm_up_fall_by_the_same_amount() -> None:
    config = LearningRateConfig(
        kind="step_linear", init_lr=1.0, min_lr=0.0, warmup_lr=0.0, warmup_steps=4
    )
    found = rates(config, 2, 7)
    assert found[:5] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    falls = [a - b for a, b in itertools.pairwise(found[4:])]
    assert falls == pytest.approx([0.1] * len(falls))
