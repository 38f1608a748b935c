"""The loop by itself, on a model of one weight whose gradients are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import Tensor, nn

from stages.core.errors import ConfigError, DataError, DivergenceError
from stages.core.runtime import silent
from stages.training.loop import STATE_FILE, Fit, Moment, TrainingConfig, make_accelerator


@dataclass
class Output:
    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Numbers:
    """Question i is the number i."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int], epoch: int) -> Tensor:
        return torch.tensor(indices, dtype=torch.float32)

    def ids(self, indices: Sequence[int]) -> list[str]:
        return [f"q{index}" for index in indices]


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, numbers: Tensor) -> Output:
        return Output((self.weight * numbers).mean())


def product(model: nn.Module, batch: Tensor, moment: Moment) -> Output:
    output: Output = model(batch)
    return output


def fit(folder: Path, count: int = 6, forward: Any = product, **values: Any) -> Fit:
    values = {"epochs": 1, "batch_size": 1, "select_best": False} | values
    config = TrainingConfig.build(values, "test")
    return Fit(
        Scale(),
        Numbers(count),
        config,
        folder,
        forward=forward,
        evaluate=None,
        accelerator=make_accelerator(torch.device("cpu"), config),
        progress=silent,
    )


def steps(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_last_step_of_an_epoch_is_a_mean_over_the_passes_that_it_has(tmp_path: Path) -> None:
    run = fit(tmp_path, count=5, accumulate=3)
    order = [indices[0] for indices in run._order(0)]
    run.run()
    norms = [step["gradient_norm"] for step in steps(tmp_path)]
    assert norms == pytest.approx([sum(order[:3]) / 3, sum(order[3:]) / 2])


def test_the_state_is_saved_even_when_no_step_falls_on_the_interval(tmp_path: Path) -> None:
    saved: list[int] = []

    class Watched(Fit):
        def _save_state(self) -> None:
            saved.append(self.position.forward_passes)
            super()._save_state()

    run = fit(tmp_path, count=12, accumulate=3, checkpoint_every=4)
    run.__class__ = Watched
    run.run()
    assert saved == [6, 12, 12]


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_weights(tmp_path: Path) -> None:
    def cliff(model: nn.Module, batch: Tensor, moment: Moment) -> Output:
        assert isinstance(model.weight, Tensor)
        output: Output = model(batch)
        if moment.iteration == 3:
            # Zero, with an infinite slope.
            return Output((model.weight - model.weight.detach()).abs().sqrt())
        return output

    run = fit(tmp_path, forward=cliff, checkpoint_every=1)
    order = run._order(0)
    with pytest.raises(DivergenceError, match=rf"gradient norm is nan.*q{order[3][0]}$"):
        run.run()
    with safetensors.safe_open(tmp_path / STATE_FILE, framework="pt") as file:
        facts = json.loads(file.metadata()["vqa"])
        assert facts["position"]["forward_passes"] == 3
        assert file.get_tensor("weights/weight").isfinite()


def test_float16_on_a_cpu_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float16") as caught:
        fit(tmp_path, precision="float16")
    assert "bfloat16" in caught.value.hint


def test_runs_of_different_precision_follow_each_other_in_one_process(tmp_path: Path) -> None:
    for number, precision in enumerate(("float32", "bfloat16", "float32")):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = fit(folder, precision=precision)
        assert run.accelerator.mixed_precision == {"float32": "no", "bfloat16": "bf16"}[precision]
        run.run()


def test_no_question_to_train_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no question"):
        fit(tmp_path, count=0)


def test_fewer_questions_than_a_batch_make_one_smaller_batch(tmp_path: Path) -> None:
    run = fit(tmp_path, count=3, batch_size=8)
    assert sorted(run._order(0)[0]) == [0, 1, 2]
    assert run.run().forward_passes == 1
