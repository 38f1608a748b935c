"""extract-frames: frames in time order, views drawn from their seed, old versions untouched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.artifacts.clips import ClipIndex
from stages.artifacts.store import Artifact, Workspace
from stages.core.errors import DataError, UsageError
from stages.core.runtime import Runtime, ShardSelection
from stages.frames import FramesConfig, extract_frames, frames_config, plan
from stages.prepare import prepare_shapes
from stages.video.clips import SamplingConfig, clip_spans, clip_works
from stages.video.resize import FrameFormat

SIZE = 16
ONE_WORKER = Runtime(workers=1)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    workspace = Workspace(tmp_path_factory.mktemp("frames"))
    made = prepare_shapes(workspace, "test", ONE_WORKER, num_videos=3, seed=4).artifact
    assert made is not None
    return made


def config(questions: Artifact, **sampling: Any) -> FramesConfig:
    chosen = SamplingConfig(**{"frames": (4,), **sampling})
    return frames_config(questions, FrameFormat.squash(SIZE), chosen, videos_per_shard=2)


def run(place: Path, questions: Artifact, chosen: FramesConfig, **runtime: Any) -> Artifact:
    made = extract_frames(
        Workspace(place), questions, chosen, replace(ONE_WORKER, **runtime)
    ).artifact
    assert made is not None
    return made


def digests(artifact: Artifact) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in artifact.path.iterdir()
        if file.name != "manifest.json"
    }


def opened(artifact: Artifact) -> ClipIndex:
    return ClipIndex(artifact, "frames", (SIZE, SIZE, 3), np.dtype(np.uint8))


def test_every_clip_has_its_frames_in_time_order_for_each_count(
    questions: Artifact, tmp_path: Path
) -> None:
    artifact = run(tmp_path, questions, config(questions, frames=(2, 8)))

    index = opened(artifact)

    assert index.samplings() == {(8, 0), (2, 0)}
    for span in clip_spans(questions):
        for count in (2, 8):
            clip = index.clip(span.key, count)
            assert len(clip.rows) == count
            assert np.all(np.diff(clip.times) > 0)
            pixels = index.reader.read(clip.rows)
            assert pixels.shape == (count, SIZE, SIZE, 3)
            assert pixels.std() > 0


def test_frames_of_several_counts_are_stored_once(questions: Artifact, tmp_path: Path) -> None:
    index = opened(run(tmp_path, questions, config(questions, frames=(4, 8, 2))))

    stored = list(zip(index.videos.to_pylist(), index.frames.tolist(), strict=True))

    assert len(stored) == len(set(stored))


def test_views_are_drawn_from_seed_video_clip_and_view_alone(
    questions: Artifact, tmp_path: Path
) -> None:
    chosen = config(questions, views=3, seed=9)
    first = run(tmp_path / "a", questions, chosen)
    second = run(tmp_path / "b", questions, chosen, workers=2)
    other = run(tmp_path / "c", questions, config(questions, views=3, seed=10))

    assert digests(first) == digests(second)
    index, differs = opened(first), opened(other)
    spans = clip_spans(questions)
    draws = {
        (span.key, view): index.clip(span.key, 4, view).frames.tolist()
        for span in spans
        for view in range(4)
    }
    assert len({tuple(draw) for draw in draws.values()}) > len(spans), "views differ"
    assert any(
        draws[span.key, view] != differs.clip(span.key, 4, view).frames.tolist()
        for span in spans
        for view in (1, 2, 3)
    )
    for span in spans:
        assert draws[span.key, 0] == differs.clip(span.key, 4).frames.tolist(), "midpoints"


def test_a_changed_config_stands_beside_the_first(questions: Artifact, tmp_path: Path) -> None:
    first = run(tmp_path, questions, config(questions))
    before = digests(first)

    second = run(tmp_path, questions, config(questions, frames=(5,)))

    assert first.path != second.path
    assert digests(first) == before
    assert len(Workspace(tmp_path).finished("frames")) == 2


def test_an_equal_request_is_reused_and_force_writes_the_same_bytes(
    questions: Artifact, tmp_path: Path
) -> None:
    chosen = config(questions, views=1)
    first = run(tmp_path, questions, chosen)
    before, inode = digests(first), (first.path / "frames-00000.h5").stat().st_ino

    again = extract_frames(Workspace(tmp_path), questions, chosen, ONE_WORKER)

    assert again.reused
    assert (first.path / "frames-00000.h5").stat().st_ino == inode
    forced = run(tmp_path, questions, chosen, force=True)
    assert forced.path == first.path
    assert digests(forced) == before
    assert forced.content == first.content


def test_force_with_some_of_the_shards_is_refused(questions: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--force and --shard"):
        run(tmp_path, questions, config(questions), force=True, shards=ShardSelection(0, 2))


def test_a_video_that_vanished_costs_a_row_and_strict_stops(
    tmp_path: Path, questions: Artifact
) -> None:
    workspace = Workspace(tmp_path)
    own = prepare_shapes(workspace, "val", ONE_WORKER, num_videos=3, seed=4).artifact
    assert own is not None
    next((own.path / "videos").rglob("*.mp4")).unlink()

    with pytest.raises(DataError) as stopped:
        run(tmp_path, own, config(own), strict=True)
    result = extract_frames(workspace, own, config(own), ONE_WORKER)

    assert "--strict" in stopped.value.hint
    assert result.counts["failed"] == 1
    assert result.counts["done"] == 2
    assert result.failure_share == pytest.approx(1 / 3)


def test_the_plan_says_what_is_written_at_most(questions: Artifact, tmp_path: Path) -> None:
    chosen = config(questions, frames=(4, 2), views=1)

    planned = plan(Workspace(tmp_path), questions, chosen)
    artifact = run(tmp_path, questions, chosen)

    assert (planned.clips, planned.videos) == (3, 3)
    assert planned.frames == 3 * (4 + 2) * 2
    assert artifact.counts["rows"] <= planned.frames
    assert planned.bytes == planned.frames * SIZE * SIZE * 3
    assert planned.free > 0


def test_progress_ends_at_the_number_of_clips(questions: Artifact, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, what: str) -> None:
        seen.append((done, total, what))

    run(tmp_path, questions, config(questions), progress=progress)

    clips = sum(len(work.clips) for work in clip_works(questions))
    assert seen[-1] == (clips, clips, "clips")
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


def test_no_absolute_path_is_in_a_data_file(
    questions: Artifact, tmp_path: Path, content_of: Callable[[Artifact], bytes]
) -> None:
    own = prepare_shapes(Workspace(tmp_path), "val", ONE_WORKER, num_videos=2, seed=4).artifact
    assert own is not None
    next((own.path / "videos").rglob("*.mp4")).write_bytes(b"no video")

    artifact = run(tmp_path, own, config(own))

    assert artifact.counts["failed"] == 1
    assert str(tmp_path).encode() not in content_of(artifact)


@pytest.fixture
def content_of() -> Callable[[Artifact], bytes]:
    """All data files of an artifact as one, Parquet columns as text."""
    import pyarrow.parquet as pq

    def read(artifact: Artifact) -> bytes:
        return b"".join(
            str(pq.read_table(file).to_pylist()).encode()
            if file.suffix == ".parquet"
            else file.read_bytes()
            for file in artifact.path.iterdir()
            if file.name != "manifest.json"
        )

    return read
