"""Decay groups, learning rates and temperatures of VLAP training."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stages.training.optim import (
    OptimizerConfig,
    build_optimizer,
    decays,
    parameter_groups,
    set_learning_rate,
)
from stages.training.schedule import (
    LearningRateConfig,
    TemperatureConfig,
    learning_rate,
    temperature,
)


def parameter(*shape: int, trainable: bool = True) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape), requires_grad=trainable)


def test_matrices_decay_and_vectors_biases_and_the_distillers_linear_do_not() -> None:
    assert decays("query_tokens", 3)
    assert decays("qformer.encoder.layer.0.intermediate.dense.weight", 2)
    assert decays("frame_prompter.fc1.weight", 2)
    assert decays("frame_prompter.patch_key.weight", 2)  # the question prompter's own name
    assert not decays("ln_vision.weight", 1)
    assert not decays("language_projection.bias", 1)
    assert not decays("distill_decoder.fc.weight", 2)  # dist_fc_bn.0 in the reference: "bn"


def test_groups_hold_each_trainable_parameter_once() -> None:
    named = [
        ("query_tokens", parameter(1, 2, 3)),
        ("ln_vision.weight", parameter(4)),
        ("frozen.weight", parameter(2, 2, trainable=False)),
    ]
    groups = parameter_groups(named, OptimizerConfig(weight_decay=0.1))
    assert [group["names"] for group in groups] == [["query_tokens"], ["ln_vision.weight"]]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    optimizer = build_optimizer(named, OptimizerConfig(), lr=1.0)
    set_learning_rate(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


def test_temperature_at_the_ends() -> None:
    steps, epochs = TemperatureConfig(), TemperatureConfig(total="epochs")
    length = {"epochs": 10, "per_epoch": 20}
    assert temperature(steps, epoch=0, iteration=0, **length) == 1
    assert temperature(steps, epoch=10, iteration=0, **length) == pytest.approx(0.01)
    assert temperature(epochs, epoch=0, iteration=0, **length) == 1
    assert temperature(epochs, epoch=10, iteration=0, **length) == pytest.approx(0.01**0.2)
    assert temperature(epochs, epoch=77, iteration=3, **length) == pytest.approx(0.01)


@given(st.integers(1, 12), st.integers(1, 50), st.sampled_from(["steps", "epochs"]))
def test_temperature_only_falls(epochs: int, per_epoch: int, total: str) -> None:
    config = TemperatureConfig(total=total)  # type: ignore[arg-type]
    taus = [
        temperature(config, epoch=e, iteration=i, epochs=epochs, per_epoch=per_epoch)
        for e in range(epochs)
        for i in range(per_epoch)
    ]
    assert all(a >= b for a, b in pairwise(taus))
    assert config.end <= min(taus) <= max(taus) == config.start


@given(
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(0, 60),
    st.sampled_from(["epoch_cosine", "step_cosine"]),
)
def test_learning_rate_stays_between_its_ends(
    epochs: int, per_epoch: int, warmup: int, kind: str
) -> None:
    config = LearningRateConfig(
        kind=kind,  # type: ignore[arg-type]
        init_lr=1.0,
        min_lr=0.1,
        warmup_lr=0.01,
        warmup_steps=warmup,
    )
    for epoch in range(epochs):
        for iteration in range(per_epoch):
            lr = learning_rate(
                config, epoch=epoch, iteration=iteration, epochs=epochs, per_epoch=per_epoch
            )
            assert 0.01 <= lr <= 1.0


def test_step_cosine_rises_then_falls_to_its_minimum() -> None:
    config = LearningRateConfig(
        kind="step_cosine", init_lr=1.0, min_lr=0.0, warmup_lr=0.0, warmup_steps=10
    )
    rates = [
        learning_rate(config, epoch=0, iteration=i, epochs=1, per_epoch=110) for i in range(111)
    ]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.5)
    assert rates[10] == 1
    assert rates[60] == pytest.approx(0.5)
    assert rates[110] == pytest.approx(0)


def test_epoch_cosine_is_flat_inside_an_epoch() -> None:
    config = LearningRateConfig(warmup_steps=3)
    rates = [learning_rate(config, epoch=2, iteration=i, epochs=10, per_epoch=50) for i in (0, 49)]
    assert rates[0] == rates[1]
