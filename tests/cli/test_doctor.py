"""`vqa doctor`: what works is ok, what does not fails with what to do and exit code 5."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from stages import doctor
from stages.doctor import SAMPLES, Check, Place, examine, summary
from vqa_cli.main import run_command

PARTS = ("python", "packages", "machine", "workspace", "locks", "atomic rename", "free disk",
         "decoder pyav, h264", "device", "float32", "bfloat16", "float16", "backbone tiny",
         "backbone tiny-blip2", "backbone tiny-clip")  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, vqa: Callable[..., Any]) -> Any:
    """One whole examination with a workspace that does not exist."""
    folder = tmp_path_factory.mktemp("doctor")
    outcome = vqa("doctor", "-w", folder / "none", "--device", "cpu")
    assert list(folder.iterdir()) == []  # nothing is left behind, nothing was made
    return outcome


def test_everything_needed_works_where_the_tests_run(found: Any) -> None:
    assert found.code == 0
    assert found.json["usable"]
    assert found.json["failed"] == 0
    by_name = {check["name"]: check for check in found.json["checks"]}
    assert set(PARTS) <= set(by_name)
    assert {check["state"] for check in by_name.values()} <= {"ok", "warning"}
    assert found.json["warnings"] == sum(c["state"] == "warning" for c in by_name.values())
    assert "torch" in found.json["versions"]


def test_each_decoder_gave_the_right_frames_of_each_clip_and_they_agree(found: Any) -> None:
    by_name = {check["name"]: check for check in found.json["checks"]}
    for codec in SAMPLES:
        assert by_name[f"decoder pyav, {codec}"]["state"] == "ok"
    if "decoder decord, h264" in by_name:
        assert by_name["decoder decord, h264"]["found"].endswith("the right ones")
        assert by_name["decoders agree, h264"]["state"] == "ok"


def test_the_clips_are_small() -> None:
    folder = resources.files("stages.video") / "samples"
    assert sum(len((folder / name).read_bytes()) for name in SAMPLES.values()) < 20_000


def looks(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Only these checks, to be quick."""
    kept = tuple(check for check in doctor.CHECKS if check[0] in names)
    assert len(kept) == len(names)
    monkeypatch.setattr(doctor, "CHECKS", kept)


def test_a_decoder_that_gives_the_wrong_frames_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The clips are the same, but other frames are asked for than are compared with."""
    looks(monkeypatch, "decoders")
    monkeypatch.setattr(doctor, "DARKEST", doctor.DARKEST + doctor.SHADE_STEP)
    checks = list(examine(tmp_path))
    wrong = [check for check in checks if "were asked" in check.found]
    assert len(wrong) >= len(SAMPLES)
    assert all(check.advice for check in wrong)
    assert summary(checks)["failed"] == 1  # the clip and decoder that everything needs
    assert not summary(checks)["usable"]


def test_a_decoder_that_cannot_decode_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks(monkeypatch, "decoders")
    monkeypatch.setattr(doctor, "SAMPLES", {"h264": "../probe.py"})
    checks = list(examine(tmp_path))
    assert "failed" in {check.state for check in checks}
    assert all(check.advice for check in checks if check.state != "ok")


def test_a_workspace_that_cannot_be_written_ends_with_5(
    tmp_path: Path, vqa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(monkeypatch, "workspace")
    (tmp_path / "file").write_text("no folder")
    outcome = vqa("doctor", "-w", tmp_path / "file")
    assert outcome.code == 5
    (check,) = outcome.json["checks"]
    assert (check["name"], check["state"]) == ("workspace", "failed")
    assert "--workspace" in check["advice"]


def test_locks_that_do_not_exclude_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a file system that takes every lock."""
    looks(monkeypatch, "workspace")
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    by_name = {check.name: check for check in examine(tmp_path)}
    assert by_name["locks"].state == "failed"
    assert by_name["atomic rename"].state == "ok"


@pytest.mark.parametrize(
    ("free", "clips", "state"),
    [(1e8, 0, "failed"), (1e9, 0, "warning"), (1e10, 0, "ok"), (1e10, 1000, "warning")],
)
def test_free_disk_is_held_against_what_is_prepared(
    free: float, clips: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.artifacts import atomic
    from stages.artifacts.store import Request, Workspace

    workspace = Workspace(tmp_path)
    with workspace.exclusive(Request("questions", "x", {"benchmark": "b", "split": "s"})) as (
        draft,
        _,
    ):
        coverage = {"coverage": {"videos": {"found": clips}}}
        draft.finish({"total": 1, "done": 1, "failed": 0}, extra=coverage)
    looks(monkeypatch, "workspace")
    monkeypatch.setattr(atomic, "free_bytes", lambda _: int(free))
    check = next(check for check in examine(tmp_path) if check.name == "free disk")
    assert check.state == state
    assert bool(check.advice) == (state != "ok")
    assert ("prepared" in check.found) == bool(clips)


def test_a_device_that_is_not_there_fails_and_the_rest_is_still_looked_at(
    tmp_path: Path, vqa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(monkeypatch, "torch", "python")
    outcome = vqa("doctor", "-w", tmp_path, "--device", "cuda:99")
    assert outcome.code == 5
    states = {check["name"]: check for check in outcome.json["checks"]}
    assert states["python"]["state"] == "ok"
    assert states["torch"]["state"] == "failed"
    assert "--device cpu" in states["torch"]["advice"]


def test_what_breaks_while_it_is_tried_is_told_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Place) -> Iterator[Check]:
        raise ImportError("libx.so: cannot open shared object file")
        yield

    monkeypatch.setattr(doctor, "CHECKS", (("torch", broken, "install it again"),))
    (check,) = examine(tmp_path)
    assert (check.state, check.advice) == ("failed", "install it again")
    assert "libx.so" in check.found
    assert not list(tmp_path.iterdir())


def test_people_see_one_line_each_and_quiet_shows_problems_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks(monkeypatch, "python", "machine")
    assert run_command(["doctor", "-w", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert all(line.split()[0] in ("ok", "warning") for line in printed.out.splitlines()[:1])
    assert "0 failed" in printed.err
    monkeypatch.setattr(doctor, "LEAST_PYTHON", (99, 0))
    assert run_command(["doctor", "-w", str(tmp_path), "--quiet"]) == 5
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("failed  python")
    assert "install Python" in shown[1]
