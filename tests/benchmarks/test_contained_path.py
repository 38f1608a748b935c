"""Names from data never lead out of the folder the user named."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.errors import DataError
from stages.core.paths import contained_path, relative_problem


@pytest.mark.parametrize(
    "name",
    [
        "../../x",
        "a/../../x",
        "a/..",
        "..",
        "/etc/passwd",
        "//server/share",
        "C:\\x.mp4",
        "C:/x.mp4",
        "a\\..\\x",
        "a\0b",
        "",
        "  ",
        "lone\ud800",
    ],
)
def test_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="refused path"):
        contained_path(tmp_path, name)


@pytest.mark.parametrize(
    "name",
    [
        "clip.mp4",
        "1150/6233408665.mp4",
        "-video-with-dash-.mp4",
        "lg0_subs_003_00:04:00_00:05:00_ep.mp4",
        "a|fpv1|12|30.mp4",
        "..hidden.mp4",
        "a...b",
        "снимок 1.mp4",
    ],
)
def test_published_and_odd_but_harmless_names_are_allowed(tmp_path: Path, name: str) -> None:
    assert contained_path(tmp_path, name) == tmp_path / name


def test_links_inside_are_allowed_and_links_out_are_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret.mp4").write_bytes(b"x")
    (root / "real.mp4").write_bytes(b"x")
    (root / "inside.mp4").symlink_to(root / "real.mp4")
    (root / "out.mp4").symlink_to(outside / "secret.mp4")
    (root / "folder").symlink_to(outside)
    assert contained_path(root, "inside.mp4").exists()
    for name in ("out.mp4", "folder/secret.mp4"):
        with pytest.raises(DataError, match="symbolic link"):
            contained_path(root, name)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.mp4").write_bytes(b"x")
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    assert contained_path(tmp_path / "root", "a.mp4").exists()


def test_a_folder_whose_name_only_begins_alike_is_outside(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos-private").mkdir()
    (tmp_path / "videos" / "link").symlink_to(tmp_path / "videos-private")
    with pytest.raises(DataError):
        contained_path(tmp_path / "videos", "link")


def test_a_loop_of_links_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert contained_path(tmp_path, "a") == tmp_path / "a"


@given(st.text(alphabet="ab./\\:\0 ", max_size=12))
def test_what_is_allowed_stays_below_whatever_the_name(name: str) -> None:
    if relative_problem(name):
        return
    depth = 0
    for part in PurePosixPath(name).parts:
        assert part != "/"
        depth += -1 if part == ".." else 1
        assert depth >= 0
