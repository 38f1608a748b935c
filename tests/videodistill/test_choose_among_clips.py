"""EgoMCQ: one question, five clips, the same matching head (specs/videodistill.md 6)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

KEEP = 3


@pytest.fixture(scope="module")
def world(egomcq_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return egomcq_world.copy(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def weights(world: Any) -> dict[str, Any]:
    """EgoMCQ has no train split: what other data would teach is learnt from its own here."""
    found: dict[str, Any] = world.train("egomcq", "--split", "val")
    return found


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    path = Path(found["artifact"]["path"]) / "predictions.parquet"
    return list(pq.read_table(path).to_pylist())


def test_the_clip_that_matches_best_is_the_answer(world: Any, weights: dict[str, Any]) -> None:
    found = world.answer("egomcq")
    assert {"inter", "intra", "accuracy"} <= set(found["metrics"])
    assert (found["n_scored"], found["n_failed"]) == (6, 0)
    for row in rows_of(found):
        assert len(row["scores"]) == 5
        assert row["prediction"] == row["scores"].index(max(row["scores"]))


def test_the_frames_shown_are_those_of_the_chosen_clip(world: Any, weights: dict[str, Any]) -> None:
    """The clips of an intra-video question lie 0.6 s apart and are 0.5 s long."""
    for row in rows_of(world.answer("egomcq")):
        if int(row["question_id"]) % 2:
            start = 0.6 * row["prediction"]
            assert all(start - 0.13 <= time <= start + 0.5 for time in row["times"])
        assert len(row["frames"]) == KEEP


def test_the_batch_changes_nothing_but_rounding(world: Any, weights: dict[str, Any]) -> None:
    whole = rows_of(world.answer("egomcq"))
    single = rows_of(world.answer("egomcq", "--set", "batch_size=1"))
    for one, other in zip(whole, single, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
        assert one["frames"] == other["frames"]


@pytest.mark.parametrize("how", ["static", "gaussian", "shuffled"])
def test_the_candidates_are_unseen_in_a_blind_run(
    how: str, world: Any, weights: dict[str, Any]
) -> None:
    rows = rows_of(world.answer("egomcq", "--blind", how))
    if how == "static":
        assert all(max(row["scores"]) - min(row["scores"]) < 1e-5 for row in rows)
    if how == "gaussian":
        assert all(len(set(row["scores"])) == 5 for row in rows)
    assert [len(row["scores"]) for row in rows] == [5] * 6


def test_other_systems_say_that_they_cannot_choose(world: Any) -> None:
    refused = world.run("eval", "-b", "egomcq", "--system", "blip2-concat")
    assert refused.code in (2, 4)
