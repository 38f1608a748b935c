"""SeViLA and the BLIP-2 baselines on real clips with the published questions about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SEEN, KEPT = 8, 2
SYSTEMS = ("sevila", "blip2-concat", "blip2-voting")
FEW = 3


@pytest.fixture(scope="module")
def world(real_world: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Both benchmarks with features of the embedded BLIP-2."""
    made = real_world(tmp_path_factory.mktemp("real-sevila"), "tiny-blip2")
    assert made.prepare("msrvtt-mc", "test", made.choices())["coverage"]["videos"] == {"found": 5}
    made.prepare("msrvtt-qa", "test", made.asked(FEW))
    for benchmark in ("msrvtt-mc", "msrvtt-qa"):
        assert made.extract(benchmark)["counts"]["failed"] == 0
    return made


def evaluated(world: Any, benchmark: str, system: str, *more: object) -> dict[str, Any]:
    found: dict[str, Any] = world.done("eval", benchmark, "--system", system, "--keep", KEPT, *more)
    return found


@pytest.mark.parametrize("system", SYSTEMS)
def test_five_sentences_about_each_real_clip(system: str, world: Any) -> None:
    exported = world.folder / f"{system}.json"
    found = evaluated(world, "msrvtt-mc", system, "--export", "official", "--export-to", exported)

    rows = world.rows(found)
    truth = {row["qid"]: int(row["answer"]) for row in world.choice_rows()}
    assert found["n_scored"] == len(truth) == 5
    assert dict(zip(rows["question_id"], rows["answer"], strict=True)) == truth
    assert rows["prediction"].between(0, 4).all()
    right = [truth[row.question_id] == row.prediction for row in rows.itertuples()]
    assert found["metrics"]["accuracy"] == pytest.approx(100 * np.mean(right))
    world.check_frames("msrvtt-mc", rows)
    if system == "blip2-voting":
        assert all(row.scores.sum() == KEPT for row in rows.itertuples())
    scored = world.done("score", "msrvtt-mc", "-p", exported, "-a", world.choices())
    assert scored["metrics"]["accuracy"] == found["metrics"]["accuracy"]
    assert {row["qid"] for row in json.loads(exported.read_text())} == set(truth)


def test_the_localizer_keeps_the_best_frames_of_a_real_clip(world: Any) -> None:
    rows = world.rows(evaluated(world, "msrvtt-mc", "sevila"))
    every = world.rows(
        world.done("eval", "msrvtt-mc", "--system", "blip2-concat", "--select", "all")
    )
    assert set(rows["frame_rule"]) == {"localizer"}
    for chosen, seen in zip(rows.itertuples(), every.itertuples(), strict=True):
        assert len(chosen.frame_scores) == len(seen.frames) == SEEN
        best = sorted(np.argsort(-chosen.frame_scores, kind="stable")[:KEPT])
        assert list(chosen.frames) == list(seen.frames[best])


def test_open_ended_questions_about_real_clips(world: Any) -> None:
    check_open_ended(world, "sevila", 5 * FEW)


def check_open_ended(world: Any, system: str, asked: int) -> None:
    exported = world.folder / f"{system}-open.json"
    found = evaluated(world, "msrvtt-qa", system, "--export", "official", "--export-to", exported)
    rows = world.rows(found)
    assert found["n_scored"] == asked
    assert rows["prediction"].str.len().gt(0).all()
    right = rows["prediction"].str.strip().str.lower() == rows["answer"].str.strip().str.lower()
    assert found["metrics"]["accuracy"] == pytest.approx(100 * right.mean())
    assert set(found["metrics"]["by_type"]) <= {"what", "who", "how", "when", "where"}
    world.check_frames("msrvtt-qa", rows)
    annotations = world.folder / "test.csv"
    scored = world.done("score", "msrvtt-qa", "-p", exported, "-a", annotations)
    assert scored["metrics"]["accuracy"] == found["metrics"]["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_open_ended_question_about_the_real_clips(
    system: str, real_world: Callable[..., Any], tmp_path: Path
) -> None:
    world = real_world(tmp_path, "tiny-blip2")
    world.prepare("msrvtt-qa", "test", world.asked(100))
    world.extract("msrvtt-qa")
    check_open_ended(world, system, 99)
