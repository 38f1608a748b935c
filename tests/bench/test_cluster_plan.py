"""Plans past one machine: laws of time and cost, what limits, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.bench.cluster import Machines, Rates, StepWork, step_time, whole_time
from stages.core.errors import UsageError

amounts = st.floats(0, 1e15)
works = st.builds(
    StepWork,
    operations=amounts,
    clips=st.integers(0, 10**6),
    frames=st.integers(0, 10**8),
    reads=amounts,
    writes=amounts,
    shards=st.integers(0, 10_000),
    batch=st.integers(1, 512),
)
machines = st.builds(
    Machines,
    nodes=st.integers(1, 500),
    gpus=st.integers(0, 16),
    cores=st.integers(1, 256),
    price=st.floats(0, 100),
)
rates = st.builds(
    Rates,
    operations=st.floats(1e9, 1e15),
    storage=st.floats(1e6, 1e12),
    link=st.floats(1e6, 1e12),
    decode=st.floats(0, 10),
    decode_frame=st.floats(0, 1),
    startup=st.floats(0, 600),
    doubling=st.floats(1, 2),
)


@given(works, machines, rates)
def test_twice_the_nodes_are_never_slower(work: StepWork, there: Machines, rate: Rates) -> None:
    one = step_time(work, there, rate)
    two = step_time(work, replace(there, nodes=2 * there.nodes), rate)
    assert two.seconds <= one.seconds + 0.002


@given(works, machines, rates)
def test_nothing_beats_the_slowest_part(work: StepWork, there: Machines, rate: Rates) -> None:
    found = step_time(work, there, rate)
    if work.is_nothing:
        assert (found.seconds, found.cost) == (0, 0)
        return
    assert found.seconds == pytest.approx(max(found.parts.values()) + rate.startup, abs=0.01)
    assert 1 <= found.processes <= there.processes
    if work.trains:
        assert work.batch % found.processes == 0
    else:
        assert found.processes <= work.shards


@given(st.integers(0, 6), st.floats(1, 1e4), st.floats(0, 50))
def test_cost_is_conserved_where_all_is_parallel(
    doublings: int, operations: float, price: float
) -> None:
    """Shards that fill every wave, no start, and storage that nobody waits for."""
    work = StepWork(operations=operations * 1e12, shards=64 * 8)
    rate = Rates(operations=1e12, startup=0, storage=1e30, link=1e30)
    one = step_time(work, Machines(1, 8, 4, price), rate)
    many = step_time(work, Machines(2**doublings, 8, 4, price), rate)
    assert one.cost is not None
    assert many.cost == pytest.approx(one.cost)
    assert many.seconds == pytest.approx(one.seconds / 2**doublings, abs=0.001)


@given(machines, rates)
def test_no_work_costs_nothing(there: Machines, rate: Rates) -> None:
    found = step_time(StepWork(), there, rate)
    assert (found.seconds, found.cost, found.processes) == (0, 0, 0)
    assert whole_time([found, found]) == {"seconds": 0, "cost": 0}


def test_more_processes_than_shards_change_nothing() -> None:
    work = StepWork(operations=1e15, shards=5)
    rate = Rates(operations=1e12, startup=0)
    times = [step_time(work, Machines(nodes, 1, 4), rate) for nodes in (1, 4, 5, 500)]
    assert [one.seconds for one in times] == [1000, 400, 200, 200]
    assert [one.processes for one in times] == [1, 4, 5, 5]


def test_training_gains_what_is_said_and_takes_what_divides_the_batch() -> None:
    work = StepWork(operations=1e15, shards=0, batch=12)
    rate = Rates(operations=1e12, startup=0, doubling=1.9)
    alone, two, eight = (step_time(work, Machines(1, gpus), rate) for gpus in (1, 2, 8))
    assert alone.seconds / two.seconds == pytest.approx(1.9, rel=1e-3)
    assert eight.processes == 6


def test_what_limits_is_named() -> None:
    rate = Rates(operations=1e12, storage=1e9, link=1e8, decode=1, decode_frame=0, startup=5)
    there = Machines(nodes=2, gpus=4, cores=8)
    cases = {
        "decode": StepWork(1e12, clips=10_000, shards=8),
        "compute": StepWork(1e15, clips=10, shards=8),
        "network": StepWork(1e12, reads=1e11, shards=8),
        "start": StepWork(1e12, shards=8),
    }
    found = {name: step_time(work, there, rate) for name, work in cases.items()}
    assert {name: one.limit for name, one in found.items()} == {name: name for name in cases}
    wide = replace(rate, link=1e9)
    assert step_time(cases["network"], there, wide).limit == "disk"
    # one process does 1e12 operations a second, which are 10 clips: 10 cores
    balance = step_time(StepWork(1e13, clips=100, shards=8), there, rate)
    assert balance.decode_cores_per_process == pytest.approx(10)


def test_impossible_machines_are_refused() -> None:
    for wrong in ({"nodes": 0}, {"gpus": -1}, {"cores": 0}, {"price": float("nan")}):
        with pytest.raises(UsageError):
            Machines(**wrong)  # type: ignore[arg-type]


# --- the command line ----------------------------------------------------------------------------


def test_a_recipe_is_laid_out_on_machines_that_are_not_here(
    vqa: Callable[..., Any], tmp_path: Path
) -> None:
    line = ("run", "vlap-star", "--dry-run", "-w", tmp_path, "--gpus", 8, "--price", 2)
    one = vqa(*line, "--nodes", 1).json["cluster"]
    four = vqa(*line, "--nodes", 4).json["cluster"]
    assert (four["machines"]["nodes"], four["machines"]["gpus"]) == (4, 8)
    assert four["totals"]["seconds"] < one["totals"]["seconds"]
    for step in four["steps"]:
        assert step["cost"] == pytest.approx(2 * 32 * step["seconds"] / 3600, rel=1e-3)
    extraction, teacher = four["steps"][0], four["steps"][2]
    assert extraction["decode_cores_per_process"] > 0
    assert extraction["processes"] == 32
    assert 32 % teacher["processes"] == 0
    for name in ("decode", "operations", "storage", "link"):
        assert four["rates"][name]["source"].startswith("assumed")
    given = vqa(*line, "--tflops", 300, "--cores", 64).json["cluster"]
    assert given["rates"]["operations"] == {"value": 3e14, "source": "given"}
    assert given["machines"]["cores"] == 64


def test_rates_are_measured_where_videos_and_backbone_are_here(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.toml"
    line = ["extract-features", "--benchmark", "shapes", "--backbone", str(tiny_world.backbone)]
    line += ["--from-videos", "--frames", "4"]
    recipe.write_text(f"[[step]]\ncommand = {json.dumps(line)}\n")
    before = sorted(tiny_world.workspace.rglob("*"))
    outcome = vqa("run", recipe, "--dry-run", "--nodes", 2, "--gpus", 0, "-w", tiny_world.workspace)
    assert outcome.code == 0, outcome.json
    found = outcome.json["cluster"]
    assert found["rates"]["decode"]["source"].startswith("measured: 3 of the prepared videos")
    assert found["rates"]["operations"]["source"].startswith("measured")
    assert 0 < found["rates"]["decode"]["value"] < 60
    (step,) = found["steps"]
    assert step["cost"] is None
    assert step["seconds"] > 0
    memory = outcome.json["steps"][0]["estimate"]["memory"]
    assert memory["host_bytes"] > memory["worker_bytes"] > 0
    assert sorted(tiny_world.workspace.rglob("*")) == before


def test_machines_are_for_plans(vqa: Callable[..., Any], tmp_path: Path) -> None:
    outcome = vqa("run", "vlap-star", "--nodes", 4, "-w", tmp_path)
    assert outcome.code == 2
    assert "--dry-run" in outcome.json["error"]["hint"]
    wrong = vqa("run", "vlap-star", "--dry-run", "--tflops", "nan", "-w", tmp_path)
    assert wrong.code == 2


def test_a_plan_for_people_names_limits_and_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vqa_cli.main import run_command

    line = ["run", "vlap-how2qa-2", "--dry-run", "--nodes", "4", "--price", "2", "-w"]
    assert run_command([*line, str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "limit" in shown.out
    assert "decode cores" in shown.out
    assert "in money" in shown.err
    assert "assumed: 10 Gbit/s a node" in shown.err
