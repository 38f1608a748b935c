"""Blind runs of any system: what is seen instead, and what the questions alone were worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from stages.artifacts.clips import ClipRows
from stages.artifacts.store import Workspace
from stages.benchmarks.batches import QuestionFeatures
from stages.core.errors import UsageError
from stages.systems.blind import Blindfold


def data_of(workspace: Path, split: str, backbone: str) -> QuestionFeatures:
    found = Workspace(workspace)
    (questions,) = (i for i in found.finished("questions") if i.config["split"] == split)
    (features,) = (
        i
        for i in found.finished("features")
        if (i.config["split"], i.config["backbone"]) == (split, backbone)
    )
    return QuestionFeatures(questions, features, 8)


@pytest.fixture(scope="module")
def data(shapes_world: Any) -> QuestionFeatures:
    return data_of(shapes_world.workspace, "test", "toy-clip")


def shown(data: QuestionFeatures, how: Any, index: int, seed: int = 1) -> ClipRows:
    def clip_of(number: int, place: int) -> ClipRows:
        return data.clip(number, place=place)

    return Blindfold(how, data, seed).clip(index, 0, clip_of)


def test_shuffled_shows_another_video_always_the_same_one(data: QuestionFeatures) -> None:
    videos = {}
    for index, question in enumerate(data.questions):
        rows = shown(data, "shuffled", index).rows
        seen = {str(data.reader.index.videos[int(row)]) for row in rows}
        assert len(seen) == 1
        assert question.video not in seen
        assert np.array_equal(rows, shown(data, "shuffled", index).rows)
        videos[index] = seen.pop()
    assert len(set(videos.values())) > 2
    others = [int(shown(data, "shuffled", index, seed=2).rows[0]) for index in range(12)]
    assert others != [int(shown(data, "shuffled", index).rows[0]) for index in range(12)]


def test_static_shows_one_still_to_every_question(data: QuestionFeatures) -> None:
    rows = np.stack([shown(data, "static", index).rows for index in range(len(data.questions))])
    assert len(np.unique(rows)) == 1


@pytest.mark.parametrize("how", ["static", "shuffled", "gaussian"])
def test_frames_and_times_stay_the_questions_own(how: str, data: QuestionFeatures) -> None:
    for index in (0, 5):
        own, found = data.clip(index), shown(data, how, index)
        assert np.array_equal(found.times, own.times)
        assert np.array_equal(found.frames, own.frames)


def test_one_video_cannot_be_shuffled(data: QuestionFeatures) -> None:
    video = data.questions[0].video
    few = data_of(data.reader.artifact.path.parents[1], "test", "toy-clip")
    few.questions = [question for question in few.questions if question.video == video]
    with pytest.raises(UsageError, match="all questions are about"):
        shown(few, "shuffled", 0)


def test_noise_has_the_spread_of_the_features_and_differs_by_clip_and_table(
    data: QuestionFeatures,
) -> None:
    replace = Blindfold("gaussian", data, 1).replace
    assert replace is not None
    question = data.questions[0]
    features = 3.0 + 2.0 * np.random.default_rng(0).standard_normal((8, 50, 16)).astype(np.float32)
    noise = replace(question, 0, features)
    assert (noise.mean(), noise.std()) == (pytest.approx(3.0, abs=0.1), pytest.approx(2.0, abs=0.1))
    assert np.array_equal(noise, replace(question, 0, features))
    assert not np.array_equal(noise, replace(question, 1, features))
    assert not np.array_equal(noise[:, 0], replace(question, 0, features[:, 0]))


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    path = Path(found["artifact"]["path"]) / "predictions.parquet"
    return list(pq.read_table(path).to_pylist())


@pytest.mark.parametrize("how", ["static", "gaussian", "shuffled"])
def test_every_system_says_what_the_questions_alone_were_worth(
    how: str, trained_world: Any, vqa: Any, tmp_path: Path
) -> None:
    """VLAP here; the drop needs the same run with the videos."""
    line = ("eval", "-b", "shapes", "-w", trained_world.copy(tmp_path), "--role", "start")
    seeing = vqa(*line, "--no-blind").json
    blind = vqa(*line, "--blind", how).json
    drop = blind["language_only"]
    assert drop["against"] == seeing["artifact"]["id"]
    assert drop["seeing"] == pytest.approx(seeing["metrics"]["accuracy"])
    assert drop["blind"] == pytest.approx(blind["metrics"]["accuracy"])
    assert drop["drop"] == pytest.approx(drop["seeing"] - drop["blind"])
    assert set(drop["by_type"]) == set(seeing["metrics"]["by_type"])
    assert "language_only" not in seeing


def test_an_answer_does_not_depend_on_the_video_when_the_still_is_all_there_is(
    shapes_world: Any, tmp_path: Path
) -> None:
    """Property 7 of specs/videodistill.md 8: equal words, equal scores."""
    world = shapes_world.copy(tmp_path)
    world.train("shapes", "--task", "open-ended")
    told = world.run("eval", "-b", "shapes", "--system", "videodistill", "--blind", "static")
    assert "language_only" not in told.json  # nothing to compare with yet
    questions = data_of(world.workspace, "test", "toy-clip").questions
    scores: dict[str, list[str]] = {}
    for row, question in zip(rows_of(told.json), questions, strict=True):
        by_word = dict(zip(question.options, row["scores"], strict=True))
        for word, score in by_word.items():
            scores.setdefault(f"{question.question} {word}", []).append(f"{score:.3f}")
    repeated = [values for values in scores.values() if len(values) > 1]
    assert repeated
    assert all(len(set(values)) == 1 for values in repeated)
