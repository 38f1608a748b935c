"""Terminals, pipes and log files: bars, plain lines, colour, width, encodings, Ctrl-C."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vqa_cli.console import Console, duration, rate_text
from vqa_cli.main import run_command

PROGRESS = (
    "import time\n"
    "from vqa_cli.console import Console\n"
    "console = Console()\n"
    "for done in range(1, 31):\n"
    "    console.progress(done, 60, 'clips')\n"
    "    time.sleep(0.05)\n"
    "console.end_progress()\n"
)


def plain_environment(**changes: str) -> dict[str, str]:
    """Ours without what decides on colour and width."""
    dropped = (
        "NO_COLOR",
        "FORCE_COLOR",
        "TERM",
        "CI",
        "COLUMNS",
        "LANG",
        "LC_ALL",
        "GITHUB_ACTIONS",
    )
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "TERM": "xterm-256color", **changes}


def on_a_terminal(code: str, **changes: str) -> str:
    """What a program shows on a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = plain_environment(COLUMNS="100", **changes)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError as error:  # how Linux says that the other end is closed
                if error.errno != errno.EIO:
                    raise
                break
            if not part:
                break
            shown += part
        assert process.wait(60) == 0
    os.close(ours)
    return shown.decode()


def vqa(*words: str, **changes: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "vqa_cli", *words],
        capture_output=True,
        timeout=120,
        env=plain_environment(**changes),
    )


# --- progress ------------------------------------------------------------------------------------


def test_a_terminal_shows_a_bar_with_count_rate_and_time_left() -> None:
    shown = on_a_terminal(PROGRESS)
    assert re.search(r"\d+/60", shown)
    assert re.search(r"\d+\.\d/s", shown)
    assert re.search(r"\d\d:\d\d", shown)
    assert "\x1b[" in shown


@pytest.mark.parametrize("changes", [{"TERM": "dumb"}, {"CI": "true"}])
def test_a_terminal_that_cannot_redraw_gets_no_bar(changes: dict[str, str]) -> None:
    assert "/60" not in on_a_terminal(PROGRESS, **changes)


def test_colour_that_is_forced_into_a_pipe_brings_no_bar() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRESS],
        capture_output=True,
        text=True,
        env=plain_environment(FORCE_COLOR="1"),
        check=True,
    )
    assert done.stderr == ""


def test_plain_lines_say_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    moments = iter([0.0, 0.0, 40.0, 80.0, 90.0])
    console = Console(clock=lambda: next(moments))
    for done in (1, 401, 801, 901):
        console.progress(done, 2801, "clips")
    assert capsys.readouterr().err.splitlines() == [
        "clips: 401 of 2,801, 10.0/s, about 4 min left",
        "clips: 801 of 2,801, 10.0/s, about 3 min left",
    ]


def test_quiet_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    moments = iter([0.0, 0.0, 40.0, 80.0])
    console = Console(quiet=True, clock=lambda: next(moments))
    console.progress(1, 9, "clips")
    console.note("a note")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (7100, "118 min"), (12000, "3 h 20 min")],
)
def test_times_are_told_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_rates_below_one_a_second_are_told_by_the_minute() -> None:
    assert (rate_text(12.34), rate_text(0.25)) == ("12.3/s", "15.0/min")


# --- quiet, colour, width, encoding --------------------------------------------------------------


def test_quiet_prints_the_ids_of_what_was_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = ["prepare", "-b", "shapes", "--split", "val", "--size", "1", "--workers", "1"]
    assert run_command([*line, "-w", str(tmp_path), "--quiet"]) == 0
    printed = capfd.readouterr()
    (made,) = (tmp_path / "questions").iterdir()
    assert printed.out == f"{made.name}\n"
    assert printed.err == ""


def test_colour_is_for_terminals_and_can_be_refused() -> None:
    code = "from vqa_cli.main import run_command; run_command(['--help'])"
    assert "\x1b[1" in on_a_terminal(code)
    coloured = re.compile("\x1b\\[[0-9;]*3[0-9]")
    assert coloured.search(on_a_terminal(code))
    assert not coloured.search(on_a_terminal(code, NO_COLOR="1"))
    assert b"\x1b" not in vqa("--help").stdout
    assert b"\x1b" in vqa("--help", FORCE_COLOR="1").stdout


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_an_output_without_unicode_gets_escapes_not_errors(
    locale: dict[str, str], tmp_path: Path
) -> None:
    for words in (["--help"], ["benchmarks"], ["status", "-w", str(tmp_path / "leer_ü")]):
        done = vqa(*words, **locale)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    error = vqa("eval", "-b", "ü☃", "--json", **locale)
    assert error.returncode == 2
    assert "ü☃" in json.loads(error.stdout.decode())["error"]["message"]


def test_json_is_pure_ascii_where_the_output_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for encoding, raw in (("ascii", b"\\u00fc"), ("utf-8", "ü".encode())):
        buffer = io.BytesIO()
        stream = io.TextIOWrapper(buffer, encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        Console(as_json=True).json({"text": "ü"})
        monkeypatch.undo()
        assert raw in buffer.getvalue()
        assert json.loads(buffer.getvalue().decode(encoding)) == {"text": "ü"}


# --- leaving -------------------------------------------------------------------------------------


def test_a_reader_that_leaves_is_no_error() -> None:
    for words in (["--help"], ["benchmarks", "--published"]):
        with subprocess.Popen(
            [sys.executable, "-m", "vqa_cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=plain_environment(),
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(60) == 141


def test_ctrl_c_during_the_imports_says_how_to_go_on(tmp_path: Path) -> None:
    """The first import that takes long announces itself, and is interrupted in the middle."""
    for module in ("typer", "vqa_cli.console", "stages.artifacts.inspect"):
        code = (
            "import os, signal, sys\n"
            "class Interrupter:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            f"        if name == {module!r}:\n"
            "            sys.meta_path.remove(self)\n"
            "            os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Interrupter())\n"
            f"sys.argv = ['vqa', 'status', '-w', {str(tmp_path)!r}, '--json']\n"
            "from vqa_cli.main import main\n"
            "main()\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 130, (module, done.stderr)
        assert "Traceback" not in done.stderr
        assert "run the same command again" in json.loads(done.stdout)["error"]["hint"]


def test_a_full_disk_is_told_with_the_file_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device", "some/file")

    monkeypatch.setattr("stages.artifacts.inspect.workspace_status", broken)
    assert run_command(["status", "-w", str(tmp_path)]) == 5
    printed = capsys.readouterr().err
    assert "some/file: No space left on device" in printed
    assert "vqa doctor" in printed
