"""Golden cases 9 and 10: frame numbers, learning rates, and which parameters decay."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stages.core.errors import DataError
from stages.core.midpoints import midpoint_indices, segment_edges
from stages.models.reference_names import sevila_from_reference_name
from stages.training.optim import OptimizerConfig, build_optimizer, decays, parameter_groups
from stages.training.schedule import LearningRateConfig, learning_rate
from stages.video.sampling import clip_bounds, random_indices


def bounds_of(row: dict[str, Any]) -> tuple[int, int]:
    """Our clip of a row, at its constant rate."""
    count, fps = row["num_frames"], row["fps"]
    start, end = (None if row[key] is None else float(row[key]) for key in ("start", "end"))
    seconds = 1 / fps if fps else 1.0  # a rate of 0 takes every clip to the first frame
    return clip_bounds(np.arange(count) * seconds, count * seconds, fps, True, start, end)


def indices_of(row: dict[str, Any]) -> list[int]:
    return midpoint_indices(*bounds_of(row), row["n_frms"]).tolist()


def is_reversed(row: dict[str, Any]) -> bool:
    both = row["start"] is not None and row["end"] is not None
    return both and float(row["end"]) < float(row["start"])


def refused(row: dict[str, Any]) -> bool:
    """Rows that are an error row here: no number, reversed, or outside the file."""
    return "error" in row or "out of range" in row.get("flags", []) or is_reversed(row)


# --- case 9 --------------------------------------------------------------------------------------


def test_frame_indices_equal_the_reference(sevila_golden: Any) -> None:
    rows = [row for row in sevila_golden.json("case09_sampling")["eval"] if not refused(row)]
    full = [row for row in rows if "fewer than n_frms" not in row.get("flags", [])]
    assert len(full) > 50
    for row in full:
        assert indices_of(row) == row["indices"], row


def test_files_that_are_too_short_repeat_frames_instead(sevila_golden: Any) -> None:
    """The reference returns fewer indices, and its dataset then takes another question."""
    rows = [row for row in sevila_golden.json("case09_sampling")["eval"] if not refused(row)]
    short = [row for row in rows if "fewer than n_frms" in row.get("flags", [])]
    assert short
    for row in short:
        ours = indices_of(row)
        assert len(ours) == row["n_frms"] > len(row["indices"])
        assert set(ours) <= set(range(row["num_frames"]))
        assert ours == sorted(ours)
        as_many = midpoint_indices(*bounds_of(row), len(row["indices"]))
        assert as_many.tolist() == row["indices"]


def test_impossible_clips_are_errors(sevila_golden: Any) -> None:
    rows = [row for row in sevila_golden.json("case09_sampling")["eval"] if refused(row)]
    assert rows
    for row in rows:
        with pytest.raises(DataError):
            indices_of(row)


def test_random_frames_come_from_the_references_segments(sevila_golden: Any) -> None:
    """The random stream is ours; the segments that a frame may come from are the reference's."""
    rows = [r for r in sevila_golden.json("case09_sampling")["train_mode"] if not refused(r)]
    assert rows
    for row in rows:
        lo, hi = bounds_of(row)
        edges = segment_edges(lo, hi, len(row["indices"]))
        drawn = random_indices(lo, hi, len(row["indices"]), np.random.default_rng(0)).tolist()
        for low, high, *both in zip(edges, edges[1:], row["indices"], drawn, strict=False):
            for index in both:
                assert low <= index < max(high, low + 1), row


# --- case 10 -------------------------------------------------------------------------------------


def test_learning_rates_equal_the_reference(sevila_golden: Any) -> None:
    for entry in sevila_golden.json("case10_optim")["schedules"]:
        settings = entry["settings"]
        start = settings["warmup_start_lr"]
        config = LearningRateConfig(
            init_lr=settings["init_lr"],
            min_lr=settings["min_lr"],
            # -1 in the reference: no warm-up of its own, the rate begins where it stays.
            warmup_lr=settings["init_lr"] if start < 0 else start,
            warmup_steps=settings["warmup_steps"],
        )
        for epoch, iteration, rate in entry["epoch_iter_lr"]:
            ours = learning_rate(
                config,
                epoch=epoch,
                iteration=iteration,
                epochs=settings["max_epoch"],
                per_epoch=10_000,
            )
            assert ours == pytest.approx(rate, rel=1e-12), (settings, epoch, iteration)


def test_hand_made_parameters_decay_as_in_the_reference(sevila_golden: Any) -> None:
    note = sevila_golden.json("case10_optim")
    named = [
        (p["name"], nn.Parameter(torch.zeros(p["shape"]), requires_grad=p["requires_grad"]))
        for p in note["hand_made_parameters"]
    ]
    other = note["hand_made_groups_other_settings"]
    settings = [
        (OptimizerConfig(), math.nan, note["hand_made_groups"]),
        (
            OptimizerConfig(weight_decay=float(other["weight_decay"]), betas=(0.9, other["beta2"])),
            float(other["init_lr"]),
            other["result"],
        ),
    ]
    for config, rate, golden in settings:
        rate = golden["lr"][0] if math.isnan(rate) else rate
        optimizer = build_optimizer(named, config, rate)
        by_decay = {group["weight_decay"]: group for group in optimizer.param_groups}
        decayed, undecayed = (by_decay[value] for value in golden["weight_decay"])
        assert decayed["names"] == golden["decay"]
        assert undecayed["names"] == golden["no_decay"]
        for group in (decayed, undecayed):
            assert [group["lr"], list(group["betas"])] == [golden["lr"][0], golden["betas"]]
            assert [group["eps"], group["amsgrad"]] == [golden["eps"], golden["amsgrad"]]


@pytest.mark.parametrize(
    ("task", "side"),
    [
        ("finetune", "answerer"),
        ("train_qa_vid", "answerer"),
        ("refine", "localizer"),
        ("qvh", "localizer"),
        ("inference", None),
    ],
)
def test_groups_of_every_training_equal_the_reference(
    sevila_golden: Any, task: str, side: Any
) -> None:
    golden = sevila_golden.json("case10_optim")["tiny_model_groups"][task]
    model = sevila_golden.sevila().train_side(side)
    named = [(name.removeprefix("backbone."), p) for name, p in model.named_parameters()]
    shapes = dict(named)
    ours = {n for group in parameter_groups(named, OptimizerConfig()) for n in group["names"]}
    listed: set[str] = set()
    for decayed in (True, False):
        for reference in golden["decay" if decayed else "no_decay"]:
            name = str(sevila_from_reference_name(reference))
            assert decays(name, shapes[name].ndim) is decayed, name
            listed.add(name)
    # The reference also lists a norm and a projection of the side that gets no gradient.
    idle = {name for name in listed if side is None or not name.startswith(f"{side}.")}
    assert all(name.split(".")[1] in ("ln_vision", "language_projection") for name in idle)
    assert ours == listed - idle
