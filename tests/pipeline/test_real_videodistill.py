"""VideoDistill on real clips: open-ended, five sentences, retrieval both ways, and blind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

SEEN, KEPT, FEW = 8, 2, 4
QUICK = (
    "model.width=16", "model.heads=2", "model.layers=1",
    "training.epochs=1", "training.batch_size=4",
)  # fmt: skip


def small() -> list[object]:
    return ["--keep", KEPT, *(part for text in QUICK for part in ("--set", text))]


@pytest.fixture(scope="module")
def world(real_world: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The three benchmarks with features of the embedded CLIP.

    The captions are the right ones of MSRVTT-MC; the published retrieval lists have none of these
    clips.
    """
    made = real_world(tmp_path_factory.mktemp("real-videodistill"), "tiny-clip")
    made.prepare("msrvtt-mc", "test", made.choices())
    for split in ("train", "test"):
        made.prepare("msrvtt-qa", split, made.asked(FEW))
    captions = [
        {"video_id": row["clip_name"], "caption": row["options"][int(row["answer"])]}
        for row in made.choice_rows()
    ]
    for split, file in write_captions(made.folder, captions).items():
        made.prepare("msrvtt-retrieval", split, file)
    for benchmark in ("msrvtt-mc", "msrvtt-qa", "msrvtt-retrieval"):
        assert made.extract(benchmark)["counts"]["failed"] == 0
    return made


def write_captions(folder: Path, captions: list[dict[str, Any]]) -> dict[str, Path]:
    """The two lists of MSR-VTT 1k-A and the captions of its train videos."""
    names = [item["video_id"] for item in captions]
    (folder / "MSRVTT_data.json").write_text(
        json.dumps({"sentences": [{**item, "sen_id": n} for n, item in enumerate(captions)]})
    )
    train, test = folder / "MSRVTT_train.9k.csv", folder / "MSRVTT_JSFUSION_test.csv"
    pd.DataFrame({"video_id": names}).to_csv(train, index=False)
    rows = {
        "key": [f"ret{n}" for n in range(len(names))],
        "vid_key": [name.replace("video", "msr") for name in names],
        "video_id": names,
        "sentence": [item["caption"] for item in captions],
    }
    pd.DataFrame(rows).to_csv(test, index=False)
    return {"train": train, "test": test}


def trained(world: Any, benchmark: str, *more: object) -> dict[str, Any]:
    found: dict[str, Any] = world.done("train-videodistill", benchmark, *small(), *more)
    return found


def answered(world: Any, benchmark: str, *more: object) -> dict[str, Any]:
    found: dict[str, Any] = world.done("eval", benchmark, "--system", "videodistill", *more)
    return found


@pytest.fixture(scope="module")
def matching(world: Any) -> str:
    """Weights that say whether a caption fits, trained on the captions of the clips."""
    made = trained(world, "msrvtt-retrieval", "--task", "matching")
    return str(made["artifact"]["id"])


def test_open_ended_questions_about_real_clips(world: Any) -> None:
    weights = trained(world, "msrvtt-qa")
    vocabulary = json.loads((Path(weights["artifact"]["path"]) / "vocabulary.json").read_text())
    exported = world.folder / "open.json"
    found = answered(world, "msrvtt-qa", "--export", "official", "--export-to", exported)
    rows = world.rows(found)
    assert found["n_scored"] == 5 * FEW
    assert set(rows["prediction"]) <= set(words_of(vocabulary))
    right = rows["prediction"] == rows["answer"]
    assert found["metrics"]["accuracy"] == pytest.approx(100 * right.mean())
    world.check_frames("msrvtt-qa", rows)
    scored = world.done("score", "msrvtt-qa", "-p", exported, "-a", world.folder / "test.csv")
    assert scored["metrics"]["accuracy"] == found["metrics"]["accuracy"]


def words_of(vocabulary: Any) -> list[str]:
    words: list[str] = vocabulary["answers"] if isinstance(vocabulary, dict) else vocabulary
    return words


def test_a_blind_answer_does_not_depend_on_the_real_clip(world: Any) -> None:
    trained(world, "msrvtt-qa")
    found = answered(world, "msrvtt-qa", "--blind", "static")
    rows = world.rows(found)
    asked = pd.read_csv(world.folder / "test.csv", dtype=str).set_index("qid")["question"]
    said = rows.groupby(rows["question_id"].map(asked))["prediction"].nunique()
    assert said.max() == 1
    assert len(said) < len(rows)  # some of the clips are asked the same


def test_five_sentences_about_each_real_clip(world: Any, matching: str) -> None:
    exported = world.folder / "choices.json"
    found = answered(
        world, "msrvtt-mc", "--weights", matching, "--export", "official", "--export-to", exported
    )
    rows = world.rows(found)
    truth = {row["qid"]: int(row["answer"]) for row in world.choice_rows()}
    assert found["n_scored"] == len(truth) == 5
    for row in rows.itertuples():
        assert row.answer == truth[row.question_id]
        assert len(row.scores) == 5
        assert row.prediction == int(np.argmax(row.scores))
    scored = world.done("score", "msrvtt-mc", "-p", exported, "-a", world.choices())
    assert scored["metrics"]["accuracy"] == found["metrics"]["accuracy"]


def test_real_clips_are_ranked_for_a_text_and_texts_for_a_clip(world: Any, matching: str) -> None:
    exported = world.folder / "ranked.json"
    found = answered(
        world, "msrvtt-retrieval", "--weights", matching,
        "--export", "official", "--export-to", exported,
    )  # fmt: skip
    rows = world.rows(found)
    assert (found["n_scored"], found["videos"]) == (5, 5)
    scores = np.array(rows["scores"].tolist())
    assert scores.shape == (5, 5)
    names = json.loads((Path(found["artifact"]["path"]) / "videos.json").read_text())
    own = np.array([names.index(name) for name in rows["answer"]])
    if len(np.unique(scores)) == scores.size:  # no ties, so ranks are plain
        first = scores.argmax(axis=1) == own
        assert found["metrics"]["R@1"] == pytest.approx(100 * first.mean())
        back = scores.argmax(axis=0)[own] == np.arange(5)
        assert found["metrics"]["video_to_text"]["R@1"] == pytest.approx(100 * back.mean())
    assert found["metrics"]["R@5"] == found["metrics"]["video_to_text"]["R@5"] == 100
    for predictions in (found["artifact"]["id"], exported):
        scored = world.done(
            "score", "msrvtt-retrieval", "-p", predictions,
            *(("-a", world.folder / "MSRVTT_JSFUSION_test.csv") if predictions == exported else ()),
        )  # fmt: skip
        assert scored["metrics"]["R@1"] == found["metrics"]["R@1"]


@pytest.mark.slow
def test_the_other_ways_to_train_on_real_clips(world: Any, matching: str) -> None:
    """Contrastive retrieval, and the loss over the options of MSRVTT-MC itself."""
    contrastive = trained(world, "msrvtt-retrieval", "--task", "contrastive")
    found = answered(world, "msrvtt-retrieval", "--weights", contrastive["artifact"]["id"])
    assert np.abs(np.array(world.rows(found)["scores"].tolist())).max() <= 1 + 1e-6
    choice = trained(world, "msrvtt-mc", "--split", "test", "--init", matching)
    plain = answered(world, "msrvtt-mc", "--weights", choice["artifact"]["id"])
    for how in ("static", "gaussian", "shuffled"):
        blind = answered(world, "msrvtt-mc", "--weights", choice["artifact"]["id"], "--blind", how)
        drop = blind["language_only"]
        assert drop["seeing"] == plain["metrics"]["accuracy"]
        assert drop["blind"] == blind["metrics"]["accuracy"]
