"""The generated benchmark: same bytes, true spans, even answers, chance level, missed moments."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.shapes.generate import generate, plan_video, write_jsonl
from stages.benchmarks.shapes.questions import TEMPLATES, VALUES, Record
from stages.benchmarks.shapes.scene import COLORS, SHAPES, draw_frame, draw_look
from stages.benchmarks.shapes.timeline import FPS, video_rng
from stages.core.errors import UsageError

TEST_VIDEOS = 200


def all_records(split: str, count: int = TEST_VIDEOS, seed: int = 0) -> list[Record]:
    return [record for i in range(count) for record in plan_video(split, seed, False, i)[1]]


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def saturation(picture: np.ndarray) -> int:
    """Pixels that are clearly coloured."""
    spread = picture.max(-1).astype(int) - picture.min(-1).astype(int)
    return int((spread > 70).sum())


def midpoints(num_frames: int, count: int) -> list[int]:
    bounds = np.linspace(0, num_frames, count + 1).astype(int)
    return [int((a + b) // 2) for a, b in itertools.pairwise(bounds)]


def inside(record: Record, frame: int) -> bool:
    return any(start <= frame / FPS <= end for start, end in record["spans"])


def test_same_seed_gives_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    one = generate(tmp_path / "a", "test", 17, seed=3, workers=1)
    two = generate(tmp_path / "b", "test", 17, seed=3, workers=2)
    assert one == two
    for record in one:
        assert (tmp_path / "a" / record["video"]).read_bytes() == (
            tmp_path / "b" / record["video"]
        ).read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


def test_another_seed_or_split_gives_other_videos(tmp_path: Path) -> None:
    records = [
        generate(tmp_path / "a", "test", 1, seed=0),
        generate(tmp_path / "b", "test", 1, seed=1),
        generate(tmp_path / "c", "train", 1, seed=0),
    ]
    paths = [
        root / r[0]["video"] for root, r in zip(sorted(tmp_path.iterdir()), records, strict=True)
    ]
    assert len({path.read_bytes() for path in paths}) == 3


def test_videos_are_h264_of_8_to_30_seconds_as_planned(tmp_path: Path) -> None:
    generate(tmp_path, "val", 6, seed=0)
    for index, path in enumerate(sorted((tmp_path / "val").glob("*.mp4"))):
        timeline, _ = plan_video("val", 0, False, index)
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            times = [float(frame.pts * stream.time_base) for frame in container.decode(stream)]
        assert times == [i / FPS for i in range(timeline.num_frames)]
        assert 8 <= timeline.duration <= 30


def test_the_object_is_on_the_screen_exactly_inside_the_moments(tmp_path: Path) -> None:
    generate(tmp_path, "val", 4, seed=5)
    for index, path in enumerate(sorted((tmp_path / "val").glob("*.mp4"))):
        timeline, _ = plan_video("val", 5, False, index)
        for number, picture in enumerate(decoded(path)):
            shown = any(m.span[0] <= number / FPS <= m.span[1] for m in timeline.moments)
            assert (saturation(picture) > 60) == shown


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), index=st.integers(0, 500), hard=st.booleans())
def test_every_question_is_well_formed(seed: int, index: int, hard: bool) -> None:
    timeline, records = plan_video("any", seed, hard, index)
    assert len(records) == 3
    assert len({record["question_id"] for record in records}) == 3
    for record in records:
        assert len(set(record["options"])) == 4
        assert 0 <= record["answer"] < 4
        assert record["type"] == record["question_id"].split("_")[0]
        assert len(record["spans"]) == (2 if hard else 1)
        for start, end in record["spans"]:
            assert 0 <= start < end <= timeline.duration
    firsts = [moment.first for moment in timeline.moments]
    assert firsts == sorted(firsts)
    for a, b in zip(timeline.moments[:-1], timeline.moments[1:], strict=True):
        assert a.last < b.first
    assert len({m.look.shape for m in timeline.moments}) == len(timeline.moments)
    assert len({m.look.color for m in timeline.moments}) == len(timeline.moments)


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 10_000))
def test_every_moment_holds_a_midpoint_of_32_parts(index: int) -> None:
    timeline, _ = plan_video("any", 0, False, index)
    frames = midpoints(timeline.num_frames, 32)
    for moment in timeline.moments:
        assert any(moment.first <= frame <= moment.last for frame in frames)


def test_the_named_object_decides_the_answer() -> None:
    for index in range(50):
        timeline, records = plan_video("test", 0, False, index)
        for record in records:
            template = next(t for t in TEMPLATES if t.type == record["type"])
            words = record["question"].replace("?", " ").split()
            named = {w for w in words if w in VALUES[template.named]}
            looks = [m.look for m in timeline.moments if getattr(m.look, template.named) in named]
            assert len(looks) == 1
            assert record["options"][record["answer"]] == getattr(looks[0], template.asked)


def test_the_default_test_split_has_600_questions_of_four_kinds() -> None:
    records = all_records("test")
    assert len(records) >= 600
    counts = Counter(record["type"] for record in records)
    assert set(counts) == {"Interaction", "Sequence", "Prediction", "Feasibility"}
    assert min(counts.values()) > 100


def test_answers_and_their_positions_are_balanced() -> None:
    records = all_records("test")
    positions = Counter(record["answer"] for record in records)
    assert max(positions.values()) / len(records) < 0.31
    for template in TEMPLATES:
        words = [r["options"][r["answer"]] for r in records if r["type"] == template.type]
        expected = len(words) / len(VALUES[template.asked])
        assert max(Counter(words).values()) < 1.7 * expected


def test_a_model_that_reads_only_the_question_stays_near_chance() -> None:
    """The best guess from the training questions' own text and options is no better than chance."""
    answers: dict[str, Counter[str]] = {}
    for record in all_records("train", 400):
        right = record["options"][record["answer"]]
        answers.setdefault(record["question"], Counter())[right] += 1
    hits = []
    for record in all_records("test"):
        known = answers.get(record["question"], Counter())
        guess = max(record["options"], key=lambda option: known[option])
        hits.append(guess == record["options"][record["answer"]])
    assert 0.18 < np.mean(hits) < 0.32


def test_four_uniform_frames_often_miss_the_moment() -> None:
    hits = []
    for index in range(TEST_VIDEOS):
        timeline, records = plan_video("test", 0, False, index)
        frames = midpoints(timeline.num_frames, 4)
        hits += [any(inside(record, frame) for frame in frames) for record in records]
    assert 0.40 < np.mean(hits) < 0.55


def test_a_frame_can_be_drawn_outside_any_video() -> None:
    rng = video_rng(0, "pictures", 0, "test")
    empty = draw_frame(rng, None)
    shown = draw_frame(rng, draw_look(rng, SHAPES[0], COLORS[0], "left"))
    assert empty.shape == shown.shape == (96, 96, 3)
    assert saturation(empty) == 0
    assert saturation(shown[:, :48]) > 300
    assert saturation(shown[:, 60:]) == 0


def test_records_are_written_as_custom_jsonl(tmp_path: Path) -> None:
    records = all_records("test", 2)
    write_jsonl(tmp_path / "questions.jsonl", records)
    lines = (tmp_path / "questions.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert '"question_id": "' in lines[0]


@pytest.mark.parametrize(("videos", "seed"), [(0, 0), (1, -1)])
def test_an_impossible_request_is_refused(tmp_path: Path, videos: int, seed: int) -> None:
    with pytest.raises(UsageError):
        generate(tmp_path, "test", videos, seed=seed)
