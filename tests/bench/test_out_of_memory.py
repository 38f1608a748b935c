"""An accelerator that runs out of memory: half the batch, as another version, and it is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.artifacts.halving import in_smaller_batches
from stages.artifacts.result import StageResult
from stages.core.errors import MachineError, OutOfMemory
from stages.core.memory import Peak
from stages.core.out_of_memory import room_for
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.vision import VisionTower
from stages.training.loop import TrainingConfig
from stages.training.smaller import smaller_training

NO_ROOM = "CUDA out of memory. Tried to allocate 2.00 GiB"


def result_of(counts: dict[str, int]) -> StageResult:
    return StageResult(None, {}, False, counts, [], 0.0)


def halve(size: int) -> tuple[int, str] | None:
    return (size // 2, f"batch_size={size // 2}") if size > 1 else None


def peak(size: int) -> Peak:
    return Peak(host_bytes=size)


@settings(max_examples=20, deadline=None)  # each halving collects the garbage of a whole suite
@given(st.integers(1, 64), st.integers(1, 64))
def test_the_first_halving_that_fits_is_taken(size: int, room: int) -> None:
    tried = []

    def run(batch: int) -> StageResult:
        tried.append(batch)
        with room_for(f"{batch} questions"):
            if batch > room:
                raise torch.OutOfMemoryError(NO_ROOM)
        return result_of({"total": batch})

    result = in_smaller_batches(run, size, halve, peak)
    assert result.counts["total"] == tried[-1] <= room
    assert all(batch > room for batch in tried[:-1])
    assert tried == [size >> number for number in range(len(tried))]
    said = [f"batch_size={batch}" for batch in tried[1:]]
    assert result.details.get("halved", []) == said
    assert bool(result.notes) == bool(said)
    assert result.details["memory"]["host_bytes"] == tried[-1]


def test_not_even_one_fits() -> None:
    def run(batch: int) -> StageResult:
        with room_for(f"{batch} questions"):
            raise torch.OutOfMemoryError(NO_ROOM)

    with pytest.raises(MachineError, match="there is no smaller batch") as no:
        in_smaller_batches(run, 8, halve, peak)
    assert "computing 1 questions at once" in no.value.message
    assert no.value.exit_code == 5
    assert "--device cpu" in no.value.hint


def test_other_errors_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="shapes"), room_for("4 questions"):
        raise RuntimeError("shapes do not match")
    with pytest.raises(OutOfMemory), room_for("4 questions"):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")


@given(st.integers(1, 300), st.integers(1, 16), st.integers(0, 1000))
def test_an_update_sees_as_many_questions_and_the_warm_up_as_well(
    batch: int, accumulate: int, warmup: int
) -> None:
    config = TrainingConfig.build(
        {"batch_size": batch, "accumulate": accumulate, "schedule": {"warmup_steps": warmup}}
    )
    found = smaller_training(config)
    if batch == 1:
        assert found is None
        return
    assert found is not None
    smaller = TrainingConfig.build({**config.as_json(), **found})
    assert smaller.batch_size <= batch / 2
    assert smaller.batch_size * smaller.accumulate == batch * accumulate
    assert smaller.schedule.warmup_steps * smaller.batch_size == warmup * batch
    if batch % 2 == 0:
        assert smaller.batch_size == batch // 2


def test_processes_that_share_a_batch_do_not_halve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OutOfMemory, match="one of the 2 processes") as no:
        smaller_training(TrainingConfig(batch_size=8))
    assert "training.accumulate" in no.value.hint


# --- the stages ----------------------------------------------------------------------------------


@contextmanager
def room_of(kind: type[Any], name: str, size: int, after: int = 0) -> Iterator[list[int]]:
    """As if `kind.name` had room for `size` rows at once, but for its first `after` calls."""
    whole, seen = getattr(kind, name), []

    def limited(self: Any, rows: torch.Tensor, *others: Any, **named: Any) -> Any:
        seen.append(len(rows))
        if len(rows) > size and len(seen) > after:
            raise torch.OutOfMemoryError(NO_ROOM)
        return whole(self, rows, *others, **named)

    setattr(kind, name, limited)
    try:
        yield seen
    finally:
        setattr(kind, name, whole)


def config_of(outcome: Any) -> dict[str, Any]:
    manifest = Path(outcome.json["artifact"]["path"]) / "manifest.json"
    return dict(json.loads(manifest.read_text())["config"])


def test_features_go_through_the_tower_in_halves(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = tiny_world.copy(tmp_path)
    line = (
        "extract-features", "-b", "shapes", "--split", "test", "--backbone", tiny_world.backbone,
        "--from-videos", "--frames", "6", "--workers", 1, "-w", workspace,
        "--set", "videos_per_shard=2",
    )  # fmt: skip
    # the first shard still finds room, so that something of the larger version is finished
    with room_of(VisionTower, "features", 3, after=2) as seen:
        outcome = vqa(*line)
    assert outcome.code == 0
    assert outcome.json["halved"] == [f"frames_per_forward={size}" for size in (16, 8, 4, 2)]
    assert config_of(outcome)["compute"]["frames_per_forward"] == 2
    assert outcome.json["counts"] == {**outcome.json["counts"], "total": 8, "done": 8, "failed": 0}
    assert max(seen[2 + 4 :]) <= 3
    asked = vqa(*line, "--set", "frames_per_forward=2")
    assert asked.json["reused"]
    assert asked.json["artifact"] == outcome.json["artifact"]
    left = [
        path.parent
        for path in (workspace / "features").glob("*/features-00000.h5")
        if not (path.parent / "manifest.json").exists()
    ]
    assert len(left) == 1  # the larger version, with its finished shard
    whole = vqa(*line)
    assert whole.json["artifact"]["path"] == str(left[0])
    assert "halved" not in whole.json


def test_no_room_for_one_frame_is_the_machines_fault(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    with room_of(VisionTower, "features", 0):
        outcome = vqa(
            "extract-features", "-b", "shapes", "--split", "test", "--from-videos", "--frames", "2",
            "--backbone", tiny_world.backbone, "--workers", 1, "-w", tiny_world.copy(tmp_path),
        )  # fmt: skip
    assert outcome.code == 5
    assert "computing 1 frames at once" in outcome.json["error"]["message"]


def test_answers_and_their_blind_run_are_given_in_one_smaller_batch(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = trained_world.copy(tmp_path)
    line = ("eval", "-b", "shapes", "--role", "teacher", "--with-blind", "-w", workspace)
    with room_of(InstructBlip, "normalise", 5):
        outcome = vqa(*line)
    assert outcome.code == 0, outcome.json
    assert outcome.json["halved"] == ["batch_size=8", "batch_size=4"]
    assert config_of(outcome)["batch_size"] == 4
    assert vqa(*line, "--set", "batch_size=4").json["reused"]
    blind = workspace / "predictions" / outcome.json["blind"]["artifact"] / "manifest.json"
    assert json.loads(blind.read_text())["config"]["batch_size"] == 4


def test_training_goes_on_with_as_many_questions_an_update(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = tiny_world.copy(tmp_path)
    line = (
        "train-teacher", "-b", "shapes", "-w", workspace, "--set", "training.epochs=1",
        "--set", "training.select_best=false", "--set", "training.schedule.warmup_steps=2",
        "--set", "eval_batch_size=2",
    )  # fmt: skip
    with room_of(InstructBlip, "normalise", 2):
        outcome = vqa(*line)
    assert outcome.code == 0, outcome.json
    steps = ["training.batch_size=4 training.accumulate=2"]
    steps += ["training.batch_size=2 training.accumulate=4"]
    assert outcome.json["halved"] == steps
    training = config_of(outcome)["training"]
    assert (training["batch_size"], training["accumulate"]) == (2, 4)
    assert training["schedule"]["warmup_steps"] == 8
    settings = [part for name in steps[-1].split() for part in ("--set", name)]
    again = vqa(*line, *settings, "--set", "training.schedule.warmup_steps=8")
    assert again.json["reused"]
    assert again.json["artifact"]["fingerprint"] == outcome.json["artifact"]["fingerprint"]
