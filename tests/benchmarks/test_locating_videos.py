"""Finding videos: several folders, extensions, frame folders, and names that are not trusted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from stages.benchmarks.videos import Located, folder_with, locate_videos
from stages.core.errors import DataError, MissingInput


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video")
    return path


def reasons(root: Path, *videos: str) -> dict[str, str]:
    return {item.video: item.reason for item in locate_videos(videos, [root]).missing}


def test_the_first_folder_that_has_the_video_wins(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    touch(a / "one.mkv")
    touch(b / "one.mp4")
    touch(b / "deep" / "er" / "two.webm")
    search = locate_videos(["one", "deep/er/two", "three", "one"], [a, b])
    assert search.found == {
        "one": Located(0, "one.mkv"),
        "deep/er/two": Located(1, "deep/er/two.webm"),
    }
    assert [item.video for item in search.missing] == ["three"]
    assert not search.missing[0].refused


def test_extensions_are_tried_in_order_and_in_any_letter_case(tmp_path: Path) -> None:
    touch(tmp_path / "a.mkv")
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "b.AVI")
    touch(tmp_path / "c.Mp4")
    touch(tmp_path / "c.mP4")
    touch(tmp_path / "d.d.mov")
    touch(tmp_path / "e.txt")
    search = locate_videos(["a", "b", "c", "d.d", "e"], [tmp_path])
    assert {video: place.relative for video, place in search.found.items()} == {
        "a": "a.mp4",
        "b": "b.AVI",
        "c": "c.Mp4",
        "d.d": "d.d.mov",
    }
    assert locate_videos(["a"], [tmp_path], ["mkv", "mp4"]).found["a"].relative == "a.mkv"


def test_a_name_with_its_extension_is_taken_as_it_is(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "a.mp4.mp4")
    assert locate_videos(["a.mp4"], [tmp_path]).found["a.mp4"].relative == "a.mp4"


def test_a_folder_of_frames_is_a_video_and_an_empty_one_is_not(tmp_path: Path) -> None:
    touch(tmp_path / "frames" / "00001.JPG")
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "both" / "1.png")
    touch(tmp_path / "both.mp4")
    search = locate_videos(["frames", "empty", "both"], [tmp_path])
    assert search.found["frames"] == Located(0, "frames", is_folder=True)
    assert search.found["both"] == Located(0, "both.mp4")
    assert "without frame images" in search.missing[0].reason


def test_a_name_that_differs_in_letter_case_is_pointed_at(tmp_path: Path) -> None:
    touch(tmp_path / "Clip.mp4")
    assert "Clip.mp4" in reasons(tmp_path, "clip")["clip"]


def test_hostile_names_are_refused_one_row_each(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root / "fine.mp4")
    touch(tmp_path / "x.mp4")
    touch(tmp_path / "other" / "y.mp4")
    (root / "link.mp4").symlink_to(tmp_path / "x.mp4")
    (root / "folder").symlink_to(tmp_path / "other")
    hostile = ["../x", str(tmp_path / "x"), "a\0b", "..\\x", "link", "folder/y", "", "x\ud800"]
    search = locate_videos(["fine", *hostile], [root])
    assert set(search.found) == {"fine"}
    assert [item.video for item in search.missing] == hostile
    assert all(item.refused and item.reason for item in search.missing)


def test_the_reason_is_the_first_folders_that_has_one(tmp_path: Path) -> None:
    empty, refusing, piped = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    empty.mkdir()
    touch(refusing / "other.mp4")
    (refusing / "x.mp4").symlink_to(touch(tmp_path / "x.mp4"))
    piped.mkdir()
    os.mkfifo(piped / "x.mp4")
    (missing,) = locate_videos(["x"], [empty, refusing, piped]).missing
    assert missing.refused
    assert "symbolic link" in missing.reason


def test_pipes_loops_and_unreadable_folders_are_missing_with_a_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    touch(tmp_path / "file.mp4")
    found = reasons(tmp_path, "pipe", "loop", "file.mp4/inside", "x" * 300 + "/y", "y" * 300)
    assert set(found) == {"pipe", "loop", "file.mp4/inside", "x" * 300 + "/y", "y" * 300}
    assert "not a regular file" in found["pipe"]


def test_a_link_to_a_video_inside_the_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "store" / "a.mp4")
    (tmp_path / "b.mp4").symlink_to(tmp_path / "store" / "a.mp4")
    assert locate_videos(["b"], [tmp_path]).found["b"].relative == "b.mp4"


def test_a_folder_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        locate_videos(["a"], [tmp_path / "absent"])
    with pytest.raises(DataError):
        locate_videos(["a"], [touch(tmp_path / "file")])


def test_fifty_thousand_names_are_looked_up_in_seconds(tmp_path: Path) -> None:
    for number in range(2000):
        touch(tmp_path / f"{number % 20}" / f"{number}.mp4")
    names = [f"{number % 20}/{number % 2500}" for number in range(50_000)]
    began = time.monotonic()
    search = locate_videos(names, [tmp_path])
    assert time.monotonic() - began < 5
    assert len(search.found) >= 2000
    assert len(search.found) + len(search.missing) == len(set(names))


def test_the_folder_below_that_has_the_videos_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "other" / "b.mp4")
    touch(tmp_path / "Charades" / "480" / "a.mp4")
    assert folder_with(["zzz", "../x", "a"], [tmp_path]) == tmp_path / "Charades" / "480"
    assert folder_with(["zzz"], [tmp_path]) is None
    assert folder_with([], [tmp_path]) is None
