"""A corpus of broken and hostile files: right frames or one named failure, and nobody waits."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.core.errors import VideoError
from stages.video import DECODERS, resolve_decoder
from stages.video.pool import DecodePool
from stages.video.probe import probe
from stages.video.resize import FrameFormat
from stages.video.safety import safe_video_path
from stages.video.tasks import ClipFrames, Decoded, DecodeFailure, DecodeTask

PlainFrames = Callable[[Path, int, int], dict[float, NDArray[np.uint8]]]
SMALL = FrameFormat.squash(40, 28)
DEADLINE = 15.0
NAMES = [name for name in DECODERS if name != "decord" or resolve_decoder() == "decord"]


def decode_all(paths: list[Path], decoder: str) -> list[Decoded | DecodeFailure]:
    tasks = [DecodeTask(path.name, path, (ClipFrames(6),), SMALL) for path in paths]
    begun = time.monotonic()
    with DecodePool(2, decoder, deadline_seconds=DEADLINE) as pool:
        results = list(pool.imap(tasks))
    assert time.monotonic() - begun < 60
    assert [result.key for result in results] == [path.name for path in paths]
    return results


def assert_as_shown(
    path: Path, result: Decoded, *showings: dict[float, NDArray[np.uint8]], start: float = 0.0
) -> None:
    """Every frame is one that a plain decode of this or the undamaged file presents then."""
    for moment, frame in zip(result.batch.times, result.batch.frames, strict=True):
        assert any(
            abs(known - start - moment) < 0.002 and np.array_equal(picture, frame)
            for shown in showings
            for known, picture in shown.items()
        ), f"{path.name}: a wrong frame at {moment:.3f} s"


@pytest.mark.parametrize("decoder", NAMES)
def test_damaged_files_give_right_frames_or_one_named_failure(
    corpus: Any, healthy: dict[str, Path], plain_frames: PlainFrames, decoder: str
) -> None:
    assert len(corpus.damaged) + len(corpus.oddities) + len(corpus.unusual) >= 200
    results = decode_all(corpus.damaged, decoder)
    outcomes: Counter[str] = Counter()
    for path, result in zip(corpus.damaged, results, strict=True):
        if isinstance(result, DecodeFailure):
            outcomes[result.reason] += 1
            assert path.name in result.decoder_words
        elif isinstance(result.clips[0], DecodeFailure):
            outcomes[result.clips[0].reason] += 1
        else:
            outcomes["decoded"] += 1
            undamaged = plain_frames(healthy[path.name.split("_", 2)[2]], 40, 28)
            start = float(result.info.clock_start)
            damaged = plain_frames(path, 40, 28)
            assert_as_shown(path, result, damaged, undamaged, start=start)
    assert not outcomes["deadline"]
    assert not outcomes["crashed"]
    # Both ends must really occur, or the corpus tests nothing.
    assert outcomes["decoded"] > 20
    assert outcomes["unreadable"] > 60


def test_files_cut_short_are_failures_where_the_container_can_tell(corpus: Any) -> None:
    """Frames spread over half a film are not the frames of the film."""
    telling = (".mp4", ".mkv", ".webm", ".mov")
    cut = [p for p in corpus.damaged if p.name.startswith("cut") and p.suffix in telling]
    # The last percent holds nothing but tags and seek tables.
    cut = [path for path in cut if not path.name.startswith("cut6_99")]
    assert len(cut) > 40
    for path in cut:
        with pytest.raises(VideoError, match=path.name):
            probe(path)


def test_things_that_are_no_video_are_refused_at_once(corpus: Any) -> None:
    results = decode_all(corpus.oddities, "auto")
    for path, result in zip(corpus.oddities, results, strict=True):
        assert isinstance(result, DecodeFailure), path.name
        assert result.reason == "unreadable", path.name
        assert path.name in result.decoder_words or "bomb" in path.name


@pytest.mark.parametrize("decoder", NAMES)
def test_unusual_videos_give_the_right_frames(
    corpus: Any, plain_frames: PlainFrames, decoder: str
) -> None:
    for path, result in zip(corpus.unusual, decode_all(corpus.unusual, decoder), strict=True):
        assert isinstance(result, Decoded), (path.name, result)
        shown = plain_frames(path, 40, 28)
        assert result.info.num_frames == len(shown), path.name
        assert_as_shown(path, result, shown)


@pytest.mark.parametrize(
    "relative",
    ["../x.mp4", "a/../../x.mp4", "/etc/passwd", "a\0b.mp4", "..\\x.mp4", "", "link/x.mp4"],
)
def test_ids_that_lead_out_of_the_folder_are_refused(tmp_path: Path, relative: str) -> None:
    root = tmp_path / "videos"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(VideoError):
        safe_video_path(root, relative)


def test_ids_inside_the_folder_pass(tmp_path: Path) -> None:
    for relative in ("a.mp4", "-x.mp4", "deep/er/a.mp4", "a..b.mp4"):
        assert safe_video_path(tmp_path, relative) == tmp_path / relative


def test_frame_links_out_of_a_folder_are_refused(tmp_path: Path, healthy: dict[str, Path]) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(VideoError, match="leaves the folder"):
        probe(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("picture.png", "one picture is no video; a folder of pictures is"),
        ("picture.gif", "one picture is no video; a folder of pictures is"),
        ("picture.mp4", "not a video (no moving pictures found)"),
    ],
)
def test_a_picture_is_told_to_be_none_in_words(name: str, words: str, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / name
    Image.new("RGB", (32, 32)).save(path, "GIF" if name.endswith("gif") else "PNG")
    with pytest.raises(VideoError, match=re.escape(words)):
        probe(path)
