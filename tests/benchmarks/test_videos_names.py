"""Finding videos under the names that people's copies have, and saying what was almost found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.benchmarks.coverage import Coverage, examples
from stages.benchmarks.video_files import VideoFiles, identify
from stages.benchmarks.videos import Located, locate_videos

AWKWARD = [
    "fpv1|P01_k|120|480.mp4",
    "lg0ldbwZhPQ_subs_003_00:04:00_00:05:00_ep.mp4",
    "-4wsuPCjDBc_5_15.avi",
    "two words %d.mp4",
    "naïve-ü.mp4",
    ".hidden.mp4",
    "file:x.mp4",
]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"video")
    return path


def reason(root: Path, video: str) -> str:
    (missing,) = locate_videos([video], [root]).missing
    return missing.reason


def copies(video: str) -> Sequence[str]:
    """Other names of one video: without its extension, and with the bars written otherwise."""
    return (video, video.rpartition(".")[0] or video, video.replace("|", "_"))


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_published_names_are_found_as_they_are(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "in folder" / name)
    for video in (f"in folder/{name}", f"in folder/{name.rpartition('.')[0]}"):
        assert locate_videos([video], [tmp_path]).found == {video: Located(0, f"in folder/{name}")}


def test_other_names_are_tried_in_every_folder_one_after_the_other(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    touch(a / "x_1_2.mp4")
    touch(b / "x|1|2.mp4")
    touch(b / "record.mov")
    search = locate_videos(["x|1|2.mp4", "record.mp4", "none.mp4"], [a, b], candidates=copies)
    assert search.found == {
        "x|1|2.mp4": Located(1, "x|1|2.mp4"),
        "record.mp4": Located(1, "record.mov"),
    }
    assert [item.video for item in search.missing] == ["none.mp4"]


def test_an_unsafe_other_name_is_refused_but_does_not_hide_a_safe_one(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root / "safe.mp4")
    touch(tmp_path / "outside.mp4")
    names = {"v": ("../outside", "safe"), "w": ("../outside", "nothing")}
    search = locate_videos(names, [root], candidates=lambda video: names[video])
    assert search.found == {"v": Located(0, "safe.mp4")}
    (missing,) = search.missing
    assert missing.refused
    assert "../outside" in missing.reason


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ("clip.mp4", "Clip.mp4"),
        ("clip.mp4", "clip.mov"),
        ("x|1|2", "x_1_2.mp4"),
        ("some name.avi", "some-name.mkv"),
        ("folder/clip", "folder/CLIP.mp4"),
    ],
)
def test_a_file_that_is_almost_the_right_one_is_named(
    asked: str, there: str, tmp_path: Path
) -> None:
    touch(tmp_path / there)
    assert Path(there).name in reason(tmp_path, asked)


def test_a_file_that_lies_flat_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "6233408665.mp4")
    assert "6233408665.mp4 lies in the video folder itself" in reason(tmp_path, "1150/6233408665")


def test_names_that_have_nothing_in_common_get_no_hint(tmp_path: Path) -> None:
    for name in ("a.mp4", "---.mp4", "b-1.mp4"):
        touch(tmp_path / name)
    assert reason(tmp_path, "c") == reason(tmp_path, "...") == "not found"


def test_no_reason_names_a_folder_of_this_machine(tmp_path: Path) -> None:
    """Reasons are written into tables whose bytes are equal on every machine."""
    root = tmp_path / "root"
    touch(tmp_path / "outside" / "x.mp4")
    root.mkdir()
    (root / "link.mp4").symlink_to(tmp_path / "outside" / "x.mp4")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "empty").mkdir()
    (root / "loop").symlink_to(root / "loop")
    names = ["link.mp4", "folder/x", "empty", "loop/x", "y" * 300 + "/x", "../x", "Link"]
    missing = locate_videos(names, [root]).missing
    assert len(missing) == len(names)
    assert not [item.reason for item in missing if str(tmp_path) in item.reason]


@given(st.lists(st.text("ab|:. -_", min_size=1, max_size=6), max_size=6, unique=True))
def test_what_is_found_is_a_file_that_is_there(names: list[str]) -> None:
    """Against a plain look at the folder; hints never turn into findings."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        there = [f"{name}.mp4" for name in names if name.strip() and not name.startswith("..")]
        for name in there[::2]:
            touch(root / name)
        found = locate_videos([name[:-4] for name in there], [root]).found
        for name in there:
            expected = (root / name).is_file() or (root / name[:-4]).is_file()
            assert (name[:-4] in found) == expected
        assert all((root / place.relative).is_file() for place in found.values())


def test_a_question_with_several_videos_is_usable_only_with_all_of_them() -> None:
    status = {"a": "found", "b": "found", "c": "missing", "d": "refused"}
    asked = {("a",): 3, ("a", "b"): 2, ("a", "c", "b"): 5, ("d", "c"): 1, ("c",): 4}
    coverage = Coverage.of(asked, status)
    assert coverage.as_json() == {
        "videos": {"found": 2, "missing": 1, "refused": 1},
        "questions": {"found": 5, "missing": 9, "refused": 1},
    }
    assert coverage.sentence() == (
        "videos: 2 found, 1 missing, 1 refused; questions: 5 found, 9 missing, 1 refused"
    )


def test_examples_show_a_few_of_every_kind() -> None:
    rows = [
        {"video": f"{status}{number}", "status": status, "reason": "why"}
        for status in ("undecodable", "found", "missing")
        for number in range(9)
    ]
    shown = examples(rows)
    assert shown[0] == "missing: missing0: why"
    assert len(shown) == 6
    assert not [text for text in shown if text.startswith("found")]


def test_identity_knows_content_and_name_but_not_time_or_folder(tmp_path: Path) -> None:
    import os

    def digest(root: Path, mode: str = "edges") -> str:
        search = locate_videos(["a", "b", "gone", "frames"], [root])
        return VideoFiles(
            identify(search, [root], mode, lambda done, total: None),  # type: ignore[arg-type]
            [root],
        ).digest()

    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        (root / "frames").mkdir(parents=True)
        (root / "frames" / "1.jpg").write_bytes(b"j")
        (root / "a.mp4").write_bytes(b"x" * (2**20) + b"middle" + b"y" * (2**20))
        touch(root / "b.mp4")
    os.utime(two / "a.mp4", (1, 1))
    first = digest(one)
    assert first == digest(two)
    (two / "a.mp4").write_bytes(b"x" * (2**20) + b"MIDDLE" + b"y" * (2**20))
    assert digest(two) == first, "edges do not see the middle"
    assert digest(two, "full") != digest(one, "full")
    (two / "frames" / "1.jpg").write_bytes(b"jj")
    assert digest(two) != first
