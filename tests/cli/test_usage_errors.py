"""Wrong, missing and strange input: one shape of errors, in words and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vqa_cli.command_line import is_given
from vqa_cli.main import parser, run_command
from vqa_cli.usage_errors import did_you_mean

HUGE = "99999999999999999999"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    """The error of a line that must fail as a usage error, given in words and as JSON."""
    assert run_command([*words, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == 2
    assert error["message"]
    assert error["hint"]
    assert run_command(list(words)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert printed.err.startswith("error: ")
    assert "hint: " in printed.err
    return error


# --- what, where, what to do next ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("evl", "vqa: no such command: evl", "did you mean eval?"),
        ("xyzzy", "vqa: no such command: xyzzy", "see vqa --help"),
        ("bench decod", "vqa bench: no such command: decod", "did you mean decode?"),
        ("eval --benchmrk x", "vqa eval: no such option: --benchmrk", "did you mean --benchmark?"),
        ("eval --teacher x", "vqa eval: no such option: --teacher", "is an option of distill"),
        ("eval --zzz", "vqa eval: no such option: --zzz", "see vqa eval --help"),
        ("--quiet status", "vqa: no such option: --quiet", "stands behind the command"),
        ("eval", "missing option '--benchmark'", "as in: vqa eval -b star"),
        ("compare one", "missing argument 'B'", "as in: vqa compare"),
        ("distill -b shapes --keep two", "'two'", "see vqa distill --help"),
        ("distill -b shapes --keep=0", "0", "see vqa distill --help"),
        (f"eval -b shapes --seed {HUGE}", "--seed", "see vqa eval --help"),
        ("eval -b shapes --max-failures nan", "--max-failures", "see vqa eval --help"),
        ("eval -b shapes --max-failures inf", "--max-failures", "see vqa eval --help"),
        ("status surplus", "surplus", "see vqa status --help"),
        ("status --interval -1", "--interval", "see vqa status --help"),
        ("eval -b shapes --blind statik", "--blind 'statik'", "did you mean static?"),
        ("eval -b star --split foo", "has no split 'foo'", "vqa benchmarks"),
        ("prepare -b star --split all", "one at a time", "train, val, test"),
        ("eval -b nextq", "unknown benchmark 'nextq'", "nextqa"),
        ("prepare -b shapes --split val --hash ful", "--hash 'ful'", "did you mean full?"),
        (f"prepare -b shapes --split val --size {HUGE}", "--size", "see vqa prepare --help"),
        ("prepare -b shapes --split val --name a/b", "--name 'a/b'", "letters, digits"),
        ("eval -b", "--benchmark' requires an argument", "see vqa eval --help"),
    ],
)
def test_usage_errors_say_what_where_and_what_next(
    words: str, message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if words == "eval -b":  # the value is missing at the end of the line
        assert run_command(["eval", "-b"]) == 2
        printed = capsys.readouterr().err
        assert "requires an argument" in printed
        return
    error = told(capsys, *words.split())
    assert message in str(error["message"])
    assert hint in str(error["hint"])


@pytest.mark.parametrize("name", ["ünï", "x" * 300, "a b", "../x", "\n"])
def test_a_label_is_checked_before_anything_is_done(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["prepare", "-b", "shapes", "--split", "val", "--size", "1", "-w", str(tmp_path)]
    error = told(capsys, *line, "--name", name)
    assert "not usable as a name" in str(error["message"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["status", "-w", ""], ["eval", "-b", "shapes", "--split="]])
def test_an_empty_value_never_means_none(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """As an unset variable of a script leaves it; an empty path is not the current folder."""
    assert "is given an empty value" in str(told(capsys, *words)["message"])


@pytest.mark.parametrize("command", ["status", "artifacts ls", "benchmarks", "report"])
def test_a_workspace_that_is_a_file_is_said_so(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    for place in (file, file / "below"):
        error = told(capsys, *command.split(), "-w", str(place))
        assert f"{file} is a file, not a folder" in str(error["message"])


def test_a_reference_longer_than_a_file_name_is_no_fault_of_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = told(capsys, "artifacts", "show", "x" * 5000, "-w", str(tmp_path))
    assert "longer" in str(error["message"])


# --- --json --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("eval --json", True),
        ("eval -b x --json", True),
        ("eval --nonsense --json", True),
        ("eval --name --json", False),
        ("eval -b --json", False),
        ("eval --name=--json", False),
        ("eval --name=x --json", True),
        ("status -qw --json", False),
        ("status -qw x --json", True),
        ("ask video -- --json", False),
        ("eval --force --json", True),
        ("bench decode --frames 1 --json", True),
        ("bench decode --frames --json", False),
        ("nonsense --json", True),
        ("", False),
    ],
)
def test_json_is_an_option_only_where_it_stands_as_one(words: str, wanted: bool) -> None:
    line = words.split()
    assert is_given("--json", line, parser(line[0] if line else "")) is wanted


def test_json_as_a_value_leaves_the_error_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["eval", "-b", "nonsense", "--name", "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: " in printed.err


def test_nothing_near_is_no_suggestion() -> None:
    assert did_you_mean("xyzzy", ["eval", "score"]) == ""
    assert did_you_mean("--kep", ["--keep", "--force"]) == "did you mean --keep?"


def test_a_split_that_there_is_not_is_refused_before_heavy_imports() -> None:
    code = (
        "import sys\n"
        "from vqa_cli.main import run_command\n"
        "assert run_command(['eval', '-b', 'star', '--split', 'foo', '--json']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
