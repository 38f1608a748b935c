"""Golden cases 8 and 13: temperatures, learning rates, and which parameters decay."""

from __future__ import annotations

from typing import Any

import pytest

from stages.models.reference_names import ours_from_reference_name
from stages.training.optim import OptimizerConfig, decays, parameter_groups
from stages.training.schedule import (
    LearningRateConfig,
    TemperatureConfig,
    learning_rate,
    temperature,
)


def test_temperature_over_fifty_epochs_equals_the_code(vlap_golden: Any) -> None:
    config = TemperatureConfig(total="epochs")
    for row in vlap_golden.json("case08_temperature")["code_schedule"]:
        ours = temperature(
            config,
            epoch=row["epoch"],
            iteration=row["iteration"],
            epochs=10,
            per_epoch=row["iterations_per_epoch"],
        )
        assert ours == pytest.approx(row["tau"], abs=1e-12)


def test_temperature_over_all_steps_equals_the_paper(vlap_golden: Any) -> None:
    config = TemperatureConfig(total="steps")
    for row in vlap_golden.json("case08_temperature")["paper_formula"]:
        ours = temperature(
            config, epoch=0, iteration=row["step"], epochs=1, per_epoch=row["total_steps"]
        )
        assert ours == pytest.approx(row["tau"], abs=1e-12)


@pytest.mark.parametrize(("total", "key"), [("epochs", "code"), ("steps", "paper")])
def test_every_recorded_temperature_is_ours(vlap_golden: Any, total: Any, key: str) -> None:
    golden = vlap_golden.tensors("case08_temperature")[f"tau_{key}_per_step"].tolist()
    epochs = 10
    config, per_epoch = TemperatureConfig(total=total), len(golden) // epochs
    for step, tau in enumerate(golden):
        epoch, iteration = divmod(step, per_epoch)
        ours = temperature(
            config, epoch=epoch, iteration=iteration, epochs=epochs, per_epoch=per_epoch
        )
        assert ours == pytest.approx(tau, abs=1e-12)


def test_learning_rates_equal_the_reference(vlap_golden: Any) -> None:
    for entry in vlap_golden.json("case13_optimizer")["learning_rate"]:
        settings = entry["settings"]
        config = LearningRateConfig(
            init_lr=settings["init_lr"],
            min_lr=settings["min_lr"],
            warmup_lr=settings["warmup_start_lr"],
            warmup_steps=settings["warmup_steps"],
        )
        for row in entry["rows"]:
            ours = learning_rate(
                config,
                epoch=row["epoch"],
                iteration=row["iteration"],
                epochs=settings["max_epoch"],
                per_epoch=10_000,
            )
            assert ours == pytest.approx(row["lr"], rel=1e-12)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_decay_groups_equal_the_reference(vlap_golden: Any, who: str) -> None:
    golden = vlap_golden.json("case13_optimizer")["groups"][who]
    model = vlap_golden.teacher() if who == "teacher" else vlap_golden.student()
    shapes = {name.removeprefix("backbone."): p for name, p in model.named_parameters()}
    for decayed, key in ((True, "decay"), (False, "no_decay")):
        names = [ours_from_reference_name(name) for name in golden[key]]
        assert {decays(name, shapes[name].ndim) for name in names} == {decayed}
    config = OptimizerConfig()
    assert [config.weight_decay, 0] == golden["weight_decay"]
    assert list(config.betas) == golden["betas"]
    assert config.eps == golden["eps"]


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_optimizer_holds_what_the_reference_trains(vlap_golden: Any, who: str) -> None:
    golden = vlap_golden.json("case13_optimizer")["groups"][who]
    model = vlap_golden.teacher() if who == "teacher" else vlap_golden.student()
    named = [(name.removeprefix("backbone."), p) for name, p in model.named_parameters()]
    groups = parameter_groups(named, OptimizerConfig())
    ours = {name for group in groups for name in group["names"]}
    listed = {ours_from_reference_name(n) for key in ("decay", "no_decay") for n in golden[key]}
    # The reference lists the teacher's copies too, which never receive a gradient.
    assert ours == {name for name in listed if not name.startswith("teacher.")}
