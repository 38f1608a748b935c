"""extract-features: two ways, the same bytes; what is stored is what the tower says."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.features import FeatureReader
from stages.artifacts.store import Artifact, Workspace
from stages.core.errors import DataError, MissingInput, UsageError
from stages.core.runtime import Runtime
from stages.features import FeatureChoices, FeatureJob, extract_features, feature_job, plan
from stages.frames import extract_frames, frames_config
from stages.prepare import prepare_shapes
from stages.video.clips import SamplingConfig, clip_spans
from stages.video.resize import FrameFormat

ONE_WORKER = Runtime(workers=1, device="cpu")
SIZE = 16


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    writer = Path(__file__).parent.parent / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_instructblip", writer)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.write_folder(tmp_path_factory.mktemp("backbone") / "toy"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    workspace = Workspace(tmp_path_factory.mktemp("features"))
    made = prepare_shapes(workspace, "test", ONE_WORKER, num_videos=3, seed=4).artifact
    assert made is not None
    return made


def job(
    place: Path,
    questions: Artifact,
    backbone: str,
    *,
    from_videos: bool = True,
    sampling: dict[str, Any] | None = None,
    **choices: Any,
) -> FeatureJob:
    return feature_job(
        Workspace(place),
        questions,
        backbone,
        FeatureChoices(videos_per_shard=2, **choices),
        device="cpu",
        decoder="auto",
        from_videos=from_videos,
        sampling={"frames": [4, 2], **(sampling or {})} if from_videos else {},
    )


def run(place: Path, made: FeatureJob, **runtime: Any) -> Artifact:
    done = extract_features(Workspace(place), made, replace(ONE_WORKER, **runtime)).artifact
    assert done is not None
    return done


def digests(artifact: Artifact) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in artifact.path.iterdir()
        if file.name != "manifest.json"
    }


def store_frames(place: Path, questions: Artifact, sampling: dict[str, Any]) -> Artifact:
    chosen = SamplingConfig(**{"frames": (4, 2), **sampling})
    config = frames_config(questions, FrameFormat.squash(SIZE), chosen, videos_per_shard=1)
    made = extract_frames(Workspace(place), questions, config, ONE_WORKER).artifact
    assert made is not None
    return made


@pytest.mark.parametrize("sampling", [{}, {"views": 2, "seed": 8}])
@pytest.mark.parametrize("dtype", ["float16", "int8", "float8"])
def test_stored_frames_and_videos_give_the_same_bytes_and_fingerprint(
    sampling: dict[str, Any], dtype: str, questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    store_frames(two, questions, sampling)

    in_two = run(two, job(two, questions, backbone, from_videos=False, dtype=dtype))
    in_one = run(one, job(one, questions, backbone, sampling=sampling, dtype=dtype), workers=2)

    assert in_two.fingerprint == in_one.fingerprint
    assert digests(in_two) == digests(in_one)
    assert in_two.content == in_one.content


def test_a_failed_video_is_the_same_row_either_way(backbone: str, tmp_path: Path) -> None:
    made = prepare_shapes(Workspace(tmp_path), "val", ONE_WORKER, num_videos=3, seed=4).artifact
    assert made is not None
    next((made.path / "videos").rglob("*.mp4")).write_bytes(b"no video any more")
    store_frames(tmp_path, made, {})

    in_two = run(tmp_path / "two", job(tmp_path, made, backbone, from_videos=False))
    in_one = run(tmp_path / "one", job(tmp_path, made, backbone))

    assert in_two.counts["failed"] == 1
    assert digests(in_two) == digests(in_one)


def test_views_are_deterministic_and_cropped_per_clip(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    sampling = {"views": 2, "seed": 8}
    first = run(tmp_path / "a", job(tmp_path, questions, backbone, sampling=sampling))
    second = run(tmp_path / "b", job(tmp_path, questions, backbone, sampling=sampling), workers=2)
    other = run(tmp_path / "c", job(tmp_path, questions, backbone, sampling=sampling | {"seed": 9}))

    assert digests(first) == digests(second)
    reader, differs = FeatureReader(first), FeatureReader(other)
    for span in clip_spans(questions):
        midpoints = reader.read(reader.clip(span.key, 4, 0).rows)
        again = differs.read(differs.clip(span.key, 4, 0).rows)
        assert np.array_equal(midpoints, again)
        drawn = reader.read(reader.clip(span.key, 4, 1).rows)
        assert not np.array_equal(drawn, reader.read(reader.clip(span.key, 4, 2).rows))
        assert not np.array_equal(drawn, differs.read(differs.clip(span.key, 4, 1).rows))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float16", 1e-3), ("bfloat16", 1e-2), ("int8", 2e-2), ("float8", 7e-2)],
)
def test_smaller_types_stay_close_to_float32(
    dtype: str, tolerance: float, questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    exact = FeatureReader(run(tmp_path, job(tmp_path, questions, backbone, dtype="float32")))
    small = FeatureReader(run(tmp_path, job(tmp_path, questions, backbone, dtype=dtype)))
    key = clip_spans(questions)[0].key

    wanted = exact.read(exact.clip(key, 4).rows)
    found = small.read(small.clip(key, 4).rows).astype(np.float32)

    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
    assert small.artifact.manifest["largest"] == pytest.approx(
        exact.artifact.manifest["largest"], rel=1e-6
    )


def test_changed_choices_stand_beside_and_equal_ones_are_reused(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    first = run(tmp_path, job(tmp_path, questions, backbone))
    second = run(tmp_path, job(tmp_path, questions, backbone, frames_per_forward=3))

    again = extract_features(Workspace(tmp_path), job(tmp_path, questions, backbone), ONE_WORKER)

    assert first.path != second.path
    assert again.reused
    assert again.artifact is not None
    assert again.artifact.id == first.id


def test_force_rebuilds_the_same_bytes(questions: Artifact, backbone: str, tmp_path: Path) -> None:
    made = job(tmp_path, questions, backbone)
    first = run(tmp_path, made)
    before = digests(first)

    forced = run(tmp_path, made, force=True, workers=2)

    assert digests(forced) == before
    assert forced.path == first.path


def test_overflow_is_a_failed_clip_and_never_an_infinity(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    huge = Path(tmp_path / "huge")
    _write_huge_tower(Path(backbone), huge)

    artifact = run(tmp_path, job(tmp_path, questions, str(huge)))

    assert artifact.counts["failed"] == artifact.counts["total"] == 3
    assert artifact.counts["rows"] == 0
    with pytest.raises(DataError, match="overflow"):
        run(tmp_path / "strict", job(tmp_path, questions, str(huge)), strict=True)


def _write_huge_tower(source: Path, target: Path) -> None:
    """The same tower with a patch bias far beyond float16."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    state = load_file(target / "model.safetensors")
    for name in state:
        if name.endswith("position_embedding"):
            state[name] = state[name] + 1e6
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def test_frames_made_otherwise_are_refused(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    with pytest.raises(MissingInput, match="no frames"):
        job(tmp_path, questions, backbone, from_videos=False)
    frames = store_frames(tmp_path, questions, {"seed": 1})
    made = replace(job(tmp_path, questions, backbone), frames=frames)

    with pytest.raises(UsageError, match="another sampling"):
        run(tmp_path, made)


def test_the_plan_estimates_bytes_and_time(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    made = job(tmp_path, questions, backbone)

    planned = plan(Workspace(tmp_path), made, ONE_WORKER)
    artifact = run(tmp_path, made)

    assert (planned.artifact, planned.reused) == (artifact.id, False)
    again = plan(Workspace(tmp_path), made, ONE_WORKER)
    assert (again.artifact, again.reused, again.seconds) == (artifact.id, True, 0.0)
    assert planned.clips == 3
    assert planned.frames == 3 * (4 + 2)
    rows = artifact.counts["rows"]
    tokens, width = artifact.manifest["tokens"], artifact.manifest["width"]
    assert planned.bytes == planned.frames * tokens * width * 2
    assert rows <= planned.frames
    assert planned.seconds is not None
    assert planned.seconds > 0


def test_what_is_said_to_come_next_can_be_done(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    workspace, made = Workspace(tmp_path), job(tmp_path, questions, backbone)
    assert extract_features(workspace, made, ONE_WORKER).next == []  # nothing to train on

    prepare_shapes(workspace, "train", ONE_WORKER, num_videos=1)

    trains = extract_features(workspace, made, ONE_WORKER).next
    assert trains == ["vqa train-teacher --benchmark shapes"]
    untrained = extract_features(workspace, job(tmp_path, questions, "tiny-blip2"), ONE_WORKER).next
    assert untrained == ["vqa eval --benchmark shapes --system sevila"]
    clip = extract_features(workspace, job(tmp_path, questions, "tiny-clip"), ONE_WORKER).next
    assert clip == ["vqa train-videodistill --benchmark shapes"]
