"""Right frames from every kind of file, by both decoders, against a plain front-to-back decode."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stages.core.errors import UsageError, VideoError
from stages.video import DECODERS, decoder_identity, load_decoder, resolve_decoder
from stages.video.probe import VideoInfo, frame_rate, probe
from stages.video.resize import FrameFormat

PlainFrames = Callable[[Path, int, int], dict[float, NDArray[np.uint8]]]
SMALL = FrameFormat.squash(40, 28)
HAS_DECORD = resolve_decoder() == "decord"
NAMES = [
    pytest.param(
        name, marks=pytest.mark.skipif(name == "decord" and not HAS_DECORD, reason="no decord")
    )
    for name in DECODERS
]
UNREADABLE = {"audio_only_hello.mp4", "derived_truncated_video7013.mp4"}


def some_frames(info: VideoInfo, count: int = 7) -> NDArray[np.int64]:
    """A shuffled choice with the first, the last and repeats."""
    rng = np.random.default_rng(info.num_frames)
    middle = rng.integers(0, info.num_frames, count)
    return np.concatenate([middle, [info.num_frames - 1, 0, 0], middle[:2]])


def assert_right(
    path: Path, info: VideoInfo, name: str, truth: dict[float, NDArray[np.uint8]]
) -> str:
    asked = some_frames(info)
    batch = load_decoder(name).frames(path, info, asked, SMALL)
    shown = [truth[time] for time in sorted(truth)]
    assert len(shown) == info.num_frames
    assert batch.frames.dtype == np.uint8
    assert batch.frames.shape == (len(asked), 28, 40, 3)
    assert np.array_equal(batch.indices, asked)
    assert np.array_equal(batch.times, info.times[asked])
    for index, frame in zip(asked, batch.frames, strict=True):
        assert np.array_equal(shown[index], frame), f"{path.name}: frame {index}"
    return batch.decoder


@pytest.mark.parametrize("name", NAMES)
def test_every_real_video_gives_the_right_frames_or_one_named_failure(
    shared_videos: list[Path], plain_frames: PlainFrames, name: str
) -> None:
    seen = set()
    for path in shared_videos:
        if path.name in UNREADABLE:
            with pytest.raises(VideoError, match=path.name):
                probe(path)
        elif path.name == "corrupted.mp4":
            info = probe(path)
            truth = plain_frames(path, 40, 28)
            early = load_decoder(name).frames(path, info, [0, 12, 24], SMALL)
            for time, frame in zip(early.times, early.frames, strict=True):
                assert np.array_equal(truth[round(float(time), 6)], frame)
            with pytest.raises(VideoError, match=r"corrupted\.mp4"):
                load_decoder(name).frames(path, info, [0, 40], SMALL)
        else:
            info = probe(path)
            seen.add(assert_right(path, info, name, plain_frames(path, 40, 28)))
    assert seen == {"pyav", name}


def test_the_traps_of_the_real_videos_are_seen(shared_videos: list[Path]) -> None:
    by_name = {path.name: path for path in shared_videos}
    nasa = probe(by_name["nasa_13013.mp4"])
    assert (nasa.width, nasa.height, nasa.num_frames) == (480, 270, 390)
    assert nasa.num_video_streams == 2
    edited = probe(by_name["vid1.mp4"])
    assert (edited.num_packets, edited.num_frames, edited.has_edit_list) == (74, 56, True)
    upright = probe(by_name["video_90.mov"])
    assert (upright.width, upright.height, upright.rotation) == (320, 568, 90)
    variable = probe(by_name["goldeneye-vfr-drop3.mp4"])
    assert not variable.constant_rate
    endless = probe(by_name["no_duration.webm"])
    assert endless.num_frames == 74
    assert endless.duration == pytest.approx(4.938, abs=0.01)
    assert probe(by_name["one_frame_av1_episode_000004.mp4"]).num_frames == 1
    odd = probe(by_name["v_GGSY1Qvo990.mp4"])
    assert odd.average_fps == pytest.approx(19.62)
    assert odd.constant_rate


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_turned_videos_are_turned_before_scaling(
    healthy: dict[str, Path],
    plain_frames: PlainFrames,
    tmp_path: Path,
    turn: Callable[..., Path],
    name: str,
    degrees: int,
) -> None:
    path = turn(healthy["h264.mp4"], tmp_path / "turned.mp4", degrees)
    info = probe(path)
    assert info.rotation == degrees
    assert (info.width, info.height) == ((48, 64) if degrees in (90, 270) else (64, 48))
    assert assert_right(path, info, name, plain_frames(path, 40, 28)) == name


def test_all_healthy_encodings_give_the_right_frames(
    healthy: dict[str, Path], plain_frames: PlainFrames
) -> None:
    used = set()
    for file, path in healthy.items():
        info = probe(path)
        assert info.num_frames == 24, file
        assert info.constant_rate, file
        assert info.average_fps == pytest.approx(12, rel=0.02), file
        for name in ("pyav", "decord") if HAS_DECORD else ("pyav",):
            used.add((file, assert_right(path, info, name, plain_frames(path, 40, 28))))
    assert ("h264.mp4", "pyav") in used
    if HAS_DECORD:
        assert {("h264.mp4", "decord"), ("vp9.webm", "decord")} <= used


@pytest.mark.parametrize("name", NAMES)
def test_groups_that_need_earlier_pictures_give_the_right_frames(
    make: Callable[..., Path], plain_frames: PlainFrames, tmp_path: Path, name: str
) -> None:
    """Open groups, rolling refresh and MPEG-4 with B frames: decord is silently wrong on these."""
    hevc = "log-level=none:pools=1:open-gop=1:keyint=12:bframes=4"
    kinds = (
        ("open.mp4", "libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
        ("open.mkv", "libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
        ("rolling.mp4", "libx264", {"x264-params": "intra-refresh=1:keyint=12"}),
        ("hevc.mkv", "libx265", {"x265-params": hevc}),
        ("b.mp4", "mpeg4", {"g": "6", "bf": "2"}),
    )
    for file, codec, options in kinds:
        if codec not in av.codecs_available:
            continue
        path = make(tmp_path / file, codec, options, frames=60)
        info = probe(path)
        assert not info.closed_groups, file
        truth = plain_frames(path, 40, 28)
        shown = [truth[time] for time in sorted(truth)]
        for index in range(0, 60, 5):
            batch = load_decoder(name).frames(path, info, [index], SMALL)
            assert np.array_equal(batch.frames[0], shown[index]), (file, index)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_choice_of_frames_is_what_a_front_to_back_decode_shows(
    healthy: dict[str, Path], data: st.DataObject
) -> None:
    file = data.draw(st.sampled_from(sorted(healthy)))
    asked = data.draw(st.lists(st.integers(0, 23), max_size=6))
    name = data.draw(st.sampled_from(["pyav", "auto"]))
    info = probe(healthy[file])
    batch = load_decoder(name).frames(healthy[file], info, asked, SMALL)
    everything = load_decoder("pyav").frames(healthy[file], info, range(24), SMALL)
    assert np.array_equal(batch.frames, everything.frames[np.array(asked, dtype=int)])


@pytest.mark.skipif(not HAS_DECORD, reason="no decord")
@pytest.mark.parametrize("size", [(224, 224), (31, 97), (1, 1), (300, 20), (64, 100)])
def test_decord_and_pyav_resize_to_the_same_bytes(
    healthy: dict[str, Path], size: tuple[int, int]
) -> None:
    squash = FrameFormat.squash(*size)
    for file in ("h264.mp4", "h264_10bit.mp4", "hevc.mp4", "vp9.webm", "mpeg4.mp4"):
        if file not in healthy:
            continue
        info = probe(healthy[file])
        indices = range(0, 24, 5)
        ours = load_decoder("pyav").frames(healthy[file], info, indices, squash)
        theirs = load_decoder("decord").frames(healthy[file], info, indices, squash)
        assert np.array_equal(ours.frames, theirs.frames), (file, size)


def test_the_gate_keeps_decord_from_edit_lists_and_foreign_codecs(
    healthy: dict[str, Path], plain_frames: PlainFrames, tmp_path: Path, edit: Callable[..., Path]
) -> None:
    trimmed = edit(healthy["h264.mp4"], tmp_path / "trimmed.mp4", 5)
    info = probe(trimmed)
    assert info.has_edit_list
    assert info.num_frames == 19
    name = "decord" if HAS_DECORD else "pyav"
    assert assert_right(trimmed, info, name, plain_frames(trimmed, 40, 28)) == "pyav"
    if "av1.mp4" in healthy:
        path = healthy["av1.mp4"]
        assert load_decoder(name).frames(path, probe(path), [3], SMALL).decoder == "pyav"


def test_crop_keeps_the_aspect_ratio_and_the_middle(healthy: dict[str, Path]) -> None:
    path = healthy["h264.mp4"]
    info = probe(path)
    whole = load_decoder("pyav").frames(path, info, [3], FrameFormat.squash(64, 48)).frames[0]
    middle = FrameFormat.crop(48)
    for name in ("pyav", "decord") if HAS_DECORD else ("pyav",):
        cropped = load_decoder(name).frames(path, info, [3], middle).frames[0]
        assert np.array_equal(cropped, whole[:, 8:56])
    assert FrameFormat.crop(224, 256).scaled_size(1920, 1080) == (455, 256)
    assert FrameFormat.crop(224, 256).scaled_size(320, 568) == (256, 454)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 300), st.integers(1, 300))
def test_a_scaled_picture_always_covers_its_crop(
    width: int, height: int, size: int, short: int
) -> None:
    shape = FrameFormat.crop(size, short)
    scaled_width, scaled_height = shape.scaled_size(width, height)
    assert min(scaled_width, scaled_height) == max(size, short)
    if scaled_width * scaled_height < 100_000:
        frames = np.zeros((1, scaled_height, scaled_width, 3), np.uint8)
        assert shape.cropped(frames).shape == (1, size, size, 3)


def test_variable_rate_is_seen_and_frames_keep_their_times(
    variable_rate: Path, plain_frames: PlainFrames
) -> None:
    info = probe(variable_rate)
    assert not info.constant_rate
    truth = plain_frames(variable_rate, 40, 28)
    assert info.times.round(3).tolist() == pytest.approx([round(time, 3) for time in sorted(truth)])
    for name in ("pyav", "decord") if HAS_DECORD else ("pyav",):
        assert_right(variable_rate, info, name, truth)


def test_a_late_first_frame_keeps_its_time(late_start: Path, plain_frames: PlainFrames) -> None:
    info = probe(late_start)
    assert info.times[0] == pytest.approx(1.0, abs=0.01)
    assert info.duration == pytest.approx(2.0, abs=0.05)
    assert_right(late_start, info, "pyav", plain_frames(late_start, 40, 28))


def test_a_folder_of_frames_is_a_video_at_its_rate(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        Image.new("RGB", (30, 20), (number * 20, 0, 0)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    info = probe(tmp_path)
    assert info.times.tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    assert (info.average_fps, info.duration, info.constant_rate) == (3.0, 1.0, True)
    batch = load_decoder("auto").frames(tmp_path, info, [0, 1, 2, 2], SMALL)
    assert batch.frames[:, 0, 0, 0].tolist() == [20, 40, 200, 200]
    assert probe(tmp_path, folder_fps=10).times.tolist() == pytest.approx([0, 0.1, 0.2])


def test_a_folder_frame_that_is_cut_off_is_one_failure(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 60, 3), np.uint8)
    for number in range(3):
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2])
    info = probe(tmp_path)
    assert len(load_decoder("auto").frames(tmp_path, info, [0, 2], SMALL).frames) == 2
    with pytest.raises(VideoError, match=r"1\.jpg"):
        load_decoder("auto").frames(tmp_path, info, [0, 1], SMALL)


def test_names_with_dashes_spaces_colons_and_other_scripts_open(
    healthy: dict[str, Path], tmp_path: Path
) -> None:
    for name in ("-i.mp4", "a b.mp4", "http:x.mp4", "видео 视频.mp4", "%03d.mp4", "pipe:.mp4"):
        path = tmp_path / name
        shutil.copy(healthy["h264.mp4"], path)
        for decoder in ("pyav", "auto"):
            batch = load_decoder(decoder).frames(path, probe(path), [0, 5], SMALL)
            assert len(batch.frames) == 2


def test_frames_outside_the_video_are_refused(healthy: dict[str, Path]) -> None:
    path = healthy["h264.mp4"]
    for asked in ([24], [-1], [0, 99]):
        with pytest.raises(VideoError, match="24"):
            load_decoder("pyav").frames(path, probe(path), asked, SMALL)


def test_no_frames_asked_gives_an_empty_batch(healthy: dict[str, Path]) -> None:
    path = healthy["h264.mp4"]
    batch = load_decoder("auto").frames(path, probe(path), [], SMALL)
    assert batch.frames.shape == (0, 28, 40, 3)


def test_decoders_have_names_versions_and_an_identity() -> None:
    with pytest.raises(UsageError, match="unknown decoder"):
        load_decoder("vlc")
    identity = decoder_identity()
    assert identity["decoder"] == load_decoder().name
    assert identity["av"] == load_decoder("pyav").version
    assert ("decord" in identity) == HAS_DECORD
    assert decoder_identity("pyav").keys() == {"decoder", "av"}


def test_probe_facts_are_json(healthy: dict[str, Path]) -> None:
    facts = probe(healthy["h264.mp4"]).as_json()
    assert facts["frames"] == 24
    assert facts["codec"] == "h264"
    assert facts["last_time"] == pytest.approx(23 / 12)


@given(st.floats(1, 120), st.integers(2, 400), st.sampled_from([1e-3, 1 / 12800, 1 / 90000]))
def test_even_frames_have_a_constant_rate_whatever_the_clock(
    fps: float, count: int, tick: float
) -> None:
    times = np.round(np.arange(count) / fps / tick) * tick
    rate, constant = frame_rate(times, fps, tick)
    assert constant
    assert rate == pytest.approx(fps, rel=0.02)


@given(st.integers(6, 100), st.integers(1, 4))
def test_one_dropped_frame_is_a_variable_rate(count: int, gap: int) -> None:
    times = np.delete(np.arange(count + 1) / 25, gap)
    assert not frame_rate(times, 25.0, 1 / 12800)[1]
