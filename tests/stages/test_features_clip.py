"""extract-features with CLIP: patches and frame CLS apart, two ways, the same bytes."""

from __future__ import annotations

import hashlib
import importlib.util
import mmap
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from stages.artifacts.features import FeatureReader
from stages.artifacts.store import Artifact, Workspace
from stages.core.errors import DataError, UsageError
from stages.core.runtime import Runtime, ShardSelection
from stages.features import FeatureChoices, FeatureJob, extract_features, feature_job, plan
from stages.frames import extract_frames, frames_config
from stages.models.backbones.catalog import backbone_frames, frame_rule
from stages.models.backbones.clip import ClipTower
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.vision import fixed_size_crop
from stages.prepare import prepare_shapes
from stages.video.clips import SamplingConfig, clip_spans
from stages.video.resize import FrameFormat

ONE_WORKER = Runtime(workers=1, device="cpu")
VIEWS = {"views": 2, "seed": 8}


def random_clip() -> Any:
    path = Path(__file__).parent.parent / "models" / "random_clip.py"
    spec = importlib.util.spec_from_file_location("random_clip", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(random_clip().write_clip_folder(tmp_path_factory.mktemp("backbone") / "toy-clip"))


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


def store_frames(
    place: Path, questions: Artifact, backbone: str, sampling: dict[str, Any], **rule: Any
) -> Artifact:
    chosen = SamplingConfig(**{"frames": (4, 2), **sampling})
    size = FrameFormat(**backbone_frames(backbone, **rule).format_values())
    config = frames_config(questions, size, chosen, videos_per_shard=1)
    made = extract_frames(Workspace(place), questions, config, ONE_WORKER).artifact
    assert made is not None
    return made


# --- what is stored ------------------------------------------------------------------------------


def test_patches_and_cls_of_the_centre_crop_are_stored(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    frames = store_frames(tmp_path, questions, backbone, {})
    artifact = run(tmp_path, job(tmp_path, questions, backbone, dtype="float32"))
    reader = FeatureReader(artifact)
    clip = reader.clip(clip_spans(questions)[1].key, 4)

    with h5py.File(frames.path / "frames-00001.h5") as file:
        pixels = torch.from_numpy(file["rows"][...])
    assert pixels.shape[1:] == (18, 18, 3)
    tower = ClipTower.load(BackboneFolder(backbone))
    wanted = tower.encode(tower.preprocess(pixels[:, 1:17, 1:17]))

    shown = np.unique(
        np.concatenate([clip.rows, reader.clip(clip_spans(questions)[1].key, 2).rows])
    )
    assert wanted.cls is not None
    assert np.allclose(reader.read(shown), wanted.tokens.numpy(), atol=1e-5)
    assert np.allclose(reader.read_cls(shown), wanted.cls.numpy(), atol=1e-5)
    assert (reader.has_cls, reader.cls_width, reader.tokens, reader.width) == (True, 16, 4, 16)
    assert np.abs(wanted.cls.numpy()).max() > 0.5


@pytest.mark.parametrize("sampling", [{}, VIEWS])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_stored_frames_and_videos_give_the_same_bytes_and_fingerprint(
    sampling: dict[str, Any], dtype: str, questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    store_frames(two, questions, backbone, sampling)

    in_two = run(two, job(two, questions, backbone, from_videos=False, dtype=dtype))
    in_one = run(one, job(one, questions, backbone, sampling=sampling, dtype=dtype), workers=2)

    assert in_two.fingerprint == in_one.fingerprint
    assert digests(in_two) == digests(in_one)


def test_a_run_in_parts_ends_in_the_same_bytes(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole", job(tmp_path, questions, backbone))
    made = job(tmp_path, questions, backbone)
    parts = Workspace(tmp_path / "parts")
    for index in (1, 0):
        how = replace(ONE_WORKER, shards=ShardSelection(index, 2))
        result = extract_features(parts, made, how)
    assert result.artifact is not None
    assert digests(result.artifact) == digests(whole)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 1e-2), ("int8", 1e-3)]
)
def test_smaller_types_keep_cls_close(
    dtype: str, tolerance: float, questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    exact = FeatureReader(run(tmp_path, job(tmp_path, questions, backbone, dtype="float32")))
    small = FeatureReader(run(tmp_path, job(tmp_path, questions, backbone, dtype=dtype)))
    rows = np.arange(len(exact.index.reader))

    wanted, found = exact.read_cls(rows), small.read_cls(rows).astype(np.float32)

    assert 0 < np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def test_views_have_one_crop_of_their_own_size_per_clip(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    first = run(tmp_path / "a", job(tmp_path, questions, backbone, sampling=VIEWS))
    other = run(tmp_path / "b", job(tmp_path, questions, backbone, sampling=VIEWS | {"seed": 9}))
    reader, differs = FeatureReader(first), FeatureReader(other)
    for span in clip_spans(questions):
        middle = reader.read_cls(reader.clip(span.key, 4, 0).rows)
        assert np.array_equal(middle, differs.read_cls(differs.clip(span.key, 4, 0).rows))
        drawn = reader.read_cls(reader.clip(span.key, 4, 1).rows)
        assert not np.array_equal(drawn, reader.read_cls(reader.clip(span.key, 4, 2).rows))


def test_without_a_margin_a_view_differs_by_its_frames_alone(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    frames = store_frames(tmp_path, questions, backbone, {}, short_side=16)
    made = job(tmp_path, questions, backbone, short_side=16, sampling={"views": 1})
    artifact = run(tmp_path, made)
    assert frames.config["format"]["width"] == 16
    assert artifact.config["format"] == frames.config["format"]
    reader = FeatureReader(artifact)
    for span in clip_spans(questions):
        drawn, middle = reader.clip(span.key, 4, 1), reader.clip(span.key, 4, 0)
        for i, frame in enumerate(drawn.frames):
            for j in np.flatnonzero(middle.frames == frame):
                pair = reader.read_cls(np.array([drawn.rows[i], middle.rows[j]]))
                assert np.array_equal(pair[0], pair[1])


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([4, 24, 26, 56]))
def test_the_centre_crop_is_that_of_the_whole_frame(width: int, height: int, size: int) -> None:
    """For margins of a multiple of four, as 256 for 224; for others it may be a pixel beside."""
    rule = frame_rule("clip", size)
    stored = FrameFormat(**rule.format_values())
    direct = FrameFormat.crop(size, short_side=rule.stored)
    wide, high = stored.scaled_size(width, height)
    assert (wide, high) == direct.scaled_size(width, height)
    noise = np.random.default_rng(0).integers(0, 256, (1, high, wide, 3), dtype=np.uint8)
    centre = fixed_size_crop(stored.cropped(noise), size).numpy()
    assert np.array_equal(centre, direct.cropped(noise))


# --- reading -------------------------------------------------------------------------------------


def mapped_bytes(file: Path) -> int:
    """Bytes of `file` that this process has mapped into memory."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(file)):
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            total += end - begin
    return total


def bytes_read() -> int:
    """Bytes that this process has read by system calls, cached or not."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def test_reading_cls_reads_none_of_the_patches(questions: Artifact, tmp_path: Path) -> None:
    if not Path("/proc/self/io").exists():
        pytest.skip("counts bytes as Linux does")
    large = random_clip().write_clip_folder(
        tmp_path / "large", vision_config={"image_size": 64, "patch_size": 4}
    )
    artifact = run(tmp_path, job(tmp_path, questions, str(large), sampling={"frames": [32]}))
    reader = FeatureReader(artifact)
    rows = np.arange(artifact.counts["rows"])
    files = [file.resolve() for file in reader.index.reader.files]
    size = sum(file.stat().st_size for file in files)
    counting = bytes_read()
    before = bytes_read()
    counting = before - counting  # what looking at the counter itself reads

    cls = reader.read_cls(rows)

    by_calls = bytes_read() - before - counting
    by_map = sum(map(mapped_bytes, files))
    assert cls.nbytes == len(rows) * 16 * 2
    assert 0 < by_map <= cls.nbytes + 2 * mmap.PAGESIZE * len(files)
    assert by_calls < 16 * 1024 * len(files)  # the headers of HDF5
    tokens = reader.read(rows)
    assert tokens.nbytes > 0.9 * size
    assert sum(map(mapped_bytes, files)) >= size


def test_cls_comes_out_the_same_when_every_patch_is_overwritten(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    artifact = run(tmp_path, job(tmp_path, questions, backbone))
    rows = np.arange(artifact.counts["rows"])
    before = FeatureReader(artifact).read_cls(rows)
    for file in artifact.path.glob("features-*.h5"):
        with h5py.File(file, "a") as opened:
            opened["rows"][...] = np.nan
    reader = FeatureReader(artifact)
    assert np.isnan(reader.read(rows)).all()
    assert np.array_equal(reader.read_cls(rows), before)


def test_a_damaged_table_is_found_and_repaired(
    questions: Artifact, backbone: str, vqa: Callable[..., Any]
) -> None:
    workspace = questions.path.parents[1]
    artifact = run(workspace, job(workspace, questions, backbone, frames_per_forward=5))
    before = digests(artifact)
    file = artifact.path / "features-00000.h5"
    with h5py.File(file, "a") as opened:
        opened["cls"][0, 0] += 1
    place = ("-w", workspace)
    assert vqa("artifacts", "verify", artifact.id, *place).code == 6
    assert vqa("artifacts", "verify", artifact.id, "--repair", *place).code == 0
    assert digests(artifact) == before
    with h5py.File(file, "a") as opened:
        del opened["cls"]
    with pytest.raises(DataError, match="no plain dataset"):
        FeatureReader(artifact).read_cls(np.array([0]))


def test_a_cls_that_does_not_fit_is_a_failed_clip(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    huge = tmp_path / "huge"
    shutil.copytree(backbone, huge)
    state = load_file(huge / "model.safetensors")
    state["vision_model.post_layernorm.bias"] += 1e6  # reaches the CLS alone
    save_file(state, huge / "model.safetensors", metadata={"format": "pt"})

    artifact = run(tmp_path, job(tmp_path, questions, str(huge)))
    exact = run(tmp_path, job(tmp_path, questions, str(huge), dtype="float32"))

    assert artifact.counts["failed"] == artifact.counts["total"] == 3
    assert FeatureReader(artifact).read_cls(np.zeros(0, dtype=np.int64)).shape == (0, 16)
    assert exact.counts["failed"] == 0
    assert exact.manifest["largest"] > 9e5


# --- the command line ----------------------------------------------------------------------------


def test_the_command_line_stores_frames_and_features_of_a_clip(
    backbone: str, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    place = ("-b", "shapes", "-w", tmp_path)
    assert vqa("prepare", *place, "--split", "val", "--size", 2, "--workers", 1).code == 0
    for side in ([], ["--set", "short_side=20"]):
        frames = vqa("extract-frames", *place, "--for", backbone, "--frames", 4, *side)
        assert frames.code == 0, frames.json
        made = vqa("extract-features", *place, "--backbone", backbone, *side)
        assert made.code == 0, made.json
        reader = FeatureReader(Workspace(tmp_path).open(Path(made.json["artifact"]["path"])))
        assert reader.has_cls
    small = vqa("extract-frames", *place, "--for", backbone, "--set", "short_side=9")
    assert small.code == 2
    assert "short_side" in small.json["error"]["message"]
    published = vqa("extract-frames", *place, "--for", "clip-vit-base-patch16", "--frames", 2)
    assert published.code == 0, published.json
    config = Workspace(tmp_path).open(Path(published.json["artifact"]["path"])).config
    assert config["format"] == FrameFormat.crop(256).as_json()


def test_the_plan_counts_cls_too(questions: Artifact, backbone: str, tmp_path: Path) -> None:
    made = job(tmp_path, questions, backbone)
    planned = plan(Workspace(tmp_path), made, ONE_WORKER)
    assert planned.bytes == planned.frames * (4 + 1) * 16 * 2
    assert planned.seconds is not None


def test_frames_of_another_rule_are_refused(
    questions: Artifact, backbone: str, tmp_path: Path
) -> None:
    config = frames_config(questions, FrameFormat.squash(18), SamplingConfig(frames=(4, 2)))
    assert extract_frames(Workspace(tmp_path), questions, config, ONE_WORKER).artifact is not None
    made = job(tmp_path, questions, backbone, from_videos=False)
    with pytest.raises(UsageError, match="another format"):
        run(tmp_path, made)
