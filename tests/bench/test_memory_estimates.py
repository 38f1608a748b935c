"""Memory is estimated before a stage starts: laws, what it says, and when it refuses."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.core.errors import MachineError
from stages.core.memory import Peak, host_free_bytes, host_total_bytes, largest, require_room
from stages.models.backbones.sizes import backbone_config, backbone_size, clip_config
from stages.models.memory import answering_peak, encoding_peak, training_peak

FULL = backbone_config("instructblip", "full")
SMALL = backbone_config("instructblip", "small")
CPU = torch.device("cpu")
few = st.integers(1, 16)


def encoding(**changed: Any) -> Peak:
    given = {
        "device": "cpu", "frames": 8, "pixels": 150_528, "forward": 8, "row_bytes": 723_712,
        "shard_rows": 88, "workers": 2,
    }  # fmt: skip
    return encoding_peak(FULL, **{**given, **changed})


@given(few, few, few)
def test_more_to_do_at_once_never_takes_less(batch: int, seen: int, kept: int) -> None:
    def answering(factor: int) -> Peak:
        return answering_peak(
            SMALL, device="cpu", batch=factor * batch, seen=seen + kept, kept=kept
        )

    def training(factor: int) -> Peak:
        return training_peak(
            SMALL, device="cpu", batch=factor * batch, seen=seen + kept, learnt=kept
        )

    for peak in (answering, training):
        assert peak(2).host_bytes >= peak(1).host_bytes
        assert peak(2).least_bytes == peak(1).least_bytes <= peak(1).host_bytes


def test_networks_are_counted_where_they_are() -> None:
    weights = 4 * backbone_size(FULL).language.parameters
    here = answering_peak(FULL, device="cpu", batch=4, seen=8, kept=4)
    there = answering_peak(FULL, device="cuda", batch=4, seen=8, kept=4)
    assert here.device_bytes == 0
    assert here.host_bytes > here.least_bytes > weights
    assert there.device_bytes > there.least_bytes == here.least_bytes
    assert there.host_bytes < weights
    half = answering_peak(FULL, device="cuda", batch=4, seen=8, kept=4, half=True)
    assert there.least_bytes - half.least_bytes == weights // 2


def test_training_holds_gradients_and_moments_beside_the_weights() -> None:
    side = backbone_size(FULL).qformer.parameters
    answering = answering_peak(FULL, device="cuda", batch=1, seen=1, kept=1)
    training = training_peak(FULL, device="cuda", batch=1, seen=1, learnt=1)
    assert training.least_bytes - answering.least_bytes == 12 * side
    beside_a_teacher = training_peak(FULL, device="cuda", batch=1, seen=1, learnt=1, frozen_sides=1)
    assert beside_a_teacher.least_bytes - training.least_bytes == 4 * side


def test_a_shard_is_held_whole_and_workers_are_counted() -> None:
    one, two = encoding(), encoding(shard_rows=176)
    assert two.host_bytes - one.host_bytes >= 88 * 723_712
    assert encoding(workers=4).worker_bytes == 2 * one.worker_bytes
    assert encoding(workers=0).worker_bytes == 0
    assert encoding(forward=1).host_bytes < one.host_bytes


def test_the_largest_of_several_is_enough_for_each() -> None:
    found = largest([Peak(1, 5, 0, 2), Peak(3, 4, 7, 1)])
    assert found == Peak(3, 5, 7, 2)


def test_networks_larger_than_the_machine_are_refused() -> None:
    total = host_total_bytes()
    assert 0 < host_free_bytes() <= total
    with pytest.raises(MachineError, match="the networks alone take") as refused:
        require_room(Peak(host_bytes=total + 2, least_bytes=total + 1), CPU)
    assert refused.value.exit_code == 5
    assert "half precision" in refused.value.hint


def test_a_batch_larger_than_what_is_free_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        require_room(Peak(host_bytes=1, least_bytes=1), CPU)
        assert not caplog.records
        require_room(Peak(host_bytes=host_total_bytes(), worker_bytes=1, least_bytes=1), CPU)
    assert "will be wanted" in caplog.text


# --- the stages ----------------------------------------------------------------------------------


def test_every_stage_says_its_estimate_before_and_after(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = tiny_world.copy(tmp_path)
    where = ("-b", "shapes", "-w", workspace)
    once = (*where, "--set", "training.epochs=1", "--set", "eval_batch_size=4")
    frames = ("--split", "test", "--frames", 2, "--workers", 1)
    lines = [
        ("extract-frames", *where, "--for", tiny_world.backbone, *frames),
        ("extract-features", *where, "--backbone", tiny_world.backbone, "--from-videos", *frames),
        ("train-teacher", *once),
        ("eval", *where, "--role", "teacher"),
    ]
    for line in lines:
        planned = vqa(*line, "--dry-run")
        assert planned.code == 0, planned.json
        plans = planned.json.get("plans") or {"": planned.json["plan"]}
        (plan,) = plans.values()
        done = vqa(*line)
        assert done.code == 0, done.json
        assert done.json["memory"] == plan["memory"], line[0]
        assert done.json["memory"]["host_bytes"] > 100_000_000


def test_clip_sizes_are_estimated_too() -> None:
    peak = encoding_peak(
        clip_config("full"), device="cpu", frames=16, pixels=196_608, forward=16,
        row_bytes=303_000, shard_rows=64, workers=1,
    )  # fmt: skip
    # 86 million parameters in float32 and a shard
    assert peak.host_bytes > 4 * 86e6 + 64 * 303_000


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str, *arguments: str) -> dict[str, Any]:
    line = [sys.executable, str(BENCHMARKS / name), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_stages_take_no_more_than_was_estimated() -> None:
    found = script("memory_estimate.py", "--sizes", "tiny", "--videos", "8", "--systems", "vlap")
    assert {row["stage"]: row["ratio"] for row in found["stages"] if not row["kept"]} == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_stage_that_finds_all_done_does_not_work() -> None:
    found = script("nothing_to_do.py", "--videos", "500", "--rounds", "1")["stages"]
    assert set(found) == {"extract-features", "eval", "prepare"}
    assert all(one["cpu_seconds"] < 1 for one in found.values())
