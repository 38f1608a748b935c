"""A disk that fills up: exit 5 with the bytes, nothing half-written, a re-run that completes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Content = Callable[[Path], dict[str, str]]
SIZES = re.compile(r"([\d,]+) bytes needed, ([\d,]+) bytes free")
DISK_BYTES = 4 * 1024 * 1024
PAGE = 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not permitted here (it takes root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def leave_free(disk: Path, amount: int) -> None:
    """Fill `disk` with one file until `amount` bytes are free."""
    free = os.statvfs(disk).f_bavail * PAGE
    (disk / "ballast").write_bytes(b"\0" * (free - amount))


def bytes_named(message: str) -> tuple[int, int]:
    found = SIZES.search(message)
    assert found, message
    needed, free = (int(number.replace(",", "")) for number in found.groups())
    return needed, free


@pytest.mark.parametrize(
    "name", ["frames", "features", pytest.param("from-videos", marks=pytest.mark.slow)]
)
def test_a_full_disk_is_explained_and_the_re_run_completes(
    name: str, forked_vqa: Any, prepared: Any, content: Content, small_disk: Path
) -> None:
    """With each amount of room, from none to enough, so that every file meets the end once."""
    stage, expected = prepared.stages[name], prepared.expected[name]
    workspace = prepared.copy(stage, small_disk / "w")
    (workspace / ".locks" / stage.kind).mkdir(parents=True)
    stopped_at = set()
    for pages in (0, 2, 4, 9, 12):
        leave_free(small_disk, pages * PAGE)
        full = forked_vqa(*stage.arguments, "-w", workspace, "--workers", 1)
        if full.code == 0:
            break
        assert full.code == 5, full.stdout
        assert full.json["error"]["code"] == 5
        needed, free = bytes_named(full.json["error"]["message"])
        assert 0 <= free <= pages * PAGE
        assert needed > free or needed == 0, "0: a folder or a lock"
        stopped_at.add(full.json["error"]["message"].split(":")[0])
        for folder in (workspace / stage.kind).glob("*"):
            found = content(folder)
            assert found.items() <= expected.items(), "nothing half-written is visible"
            assert "manifest.json" not in found
        (small_disk / "ballast").unlink()
    assert len(stopped_at) >= 2

    (small_disk / "ballast").unlink(missing_ok=True)
    again = forked_vqa(*stage.arguments, "-w", workspace)

    assert again.code == 0
    assert content(Path(again.json["artifact"]["path"])) == expected


def test_a_full_disk_while_videos_are_generated_is_explained(
    forked_vqa: Any, content: Content, small_disk: Path, tmp_path: Path
) -> None:
    command = ("prepare", "--benchmark", "shapes", "--split", "test", "--size", 3, "-w")
    whole = forked_vqa(*command, tmp_path / "w")
    leave_free(small_disk, 6 * PAGE)

    full = forked_vqa(*command, small_disk / "w")
    listed = forked_vqa("artifacts", "ls", "-w", small_disk / "w").json["artifacts"]
    (small_disk / "ballast").unlink()
    again = forked_vqa(*command, small_disk / "w")

    assert full.code == 5
    assert [row["state"] for row in listed] in ([], ["unfinished"])
    assert again.code == 0
    assert content(Path(again.json["artifact"]["path"])) == content(
        Path(whole.json["artifact"]["path"])
    )


def test_a_limit_on_file_sizes_is_explained_and_the_re_run_completes(
    forked_vqa: Any, prepared: Any, content: Content, tmp_path: Path
) -> None:
    stage = prepared.stages["frames"]
    workspace = prepared.copy(stage, tmp_path / "w")

    full = forked_vqa(*stage.arguments, "-w", workspace, largest_file=2048)

    assert full.code == 5
    needed, _ = bytes_named(full.json["error"]["message"])
    assert needed > 2048
    assert "ulimit -f" in full.json["error"]["hint"]
    (folder,) = (workspace / "frames").iterdir()
    assert list(folder.iterdir()) == []
    again = forked_vqa(*stage.arguments, "-w", workspace)
    assert content(Path(again.json["artifact"]["path"])) == prepared.expected["frames"]
