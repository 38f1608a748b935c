"""What `vqa ask` says to wrong input: one error, its exit code, before any model is loaded."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.shapes.generate import plan_video, write_video
from stages.benchmarks.shapes.timeline import video_rng


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, and things that are none."""
    path = tmp_path_factory.mktemp("inputs")
    timeline, _ = plan_video("test", 5, False, 1)
    write_video(path / "good.mp4", timeline, video_rng(5, "test", 1, "picture"))
    (path / "empty.mp4").write_bytes(b"")
    (path / "text.mp4").write_text("no video\n" * 100)
    (path / "folder").mkdir()
    (path / "cut.mp4").write_bytes((path / "good.mp4").read_bytes()[:700])
    with (path / "huge.mp4").open("wb") as file:
        file.truncate(8 << 30)
    for name, text in {
        "bad.jsonl": '{"question": "q", "options": ["a", "b"]}\n{"question": 3}\n',
        "one.jsonl": '{"question": "q", "options": ["a"]}\n',
        "words.jsonl": "not json\n",
        "none.jsonl": "\n\n",
    }.items():
        (path / name).write_text(text)
    return path


WRONG_VIDEOS = [
    ("nothing.mp4", 4, "no such video"),
    ("empty.mp4", 3, "empty"),
    ("text.mp4", 3, "text.mp4"),
    ("cut.mp4", 3, "cut.mp4"),
    ("huge.mp4", 3, "huge.mp4"),
    ("folder", 3, "without jpg or png frames"),
    ("/dev/null", 3, "not a regular file"),
]
WRONG_REQUESTS: list[tuple[list[str], int, str]] = [
    (["good.mp4"], 2, "nothing is asked"),
    (["good.mp4", "q", "-o", "a"], 2, "no choice"),
    (["good.mp4", "q", "-o", "a", "-o", " a"], 2, "the same"),
    (["good.mp4", "q", "-o", "a", "-o", ""], 2, "an option is empty"),
    (["good.mp4", "  "], 2, "the question is empty"),
    (["good.mp4", "q", "--questions", "bad.jsonl"], 2, "a file of questions"),
    (["good.mp4", "--questions", "bad.jsonl"], 3, "bad.jsonl:2: question"),
    (["good.mp4", "--questions", "one.jsonl"], 3, "one.jsonl:1: one option"),
    (["good.mp4", "--questions", "words.jsonl"], 3, "words.jsonl:1: not JSON"),
    (["good.mp4", "--questions", "none.jsonl"], 3, "holds no question"),
    (["good.mp4", "--questions", "absent.jsonl"], 4, "absent.jsonl"),
    (["good.mp4", "--questions", "folder"], 3, "directory"),
    (["good.mp4", "q", "--system", "other"], 2, "other"),
    (["good.mp4", "q", "--system", "vlap"], 4, "trained weights only"),
    (["good.mp4", "q", "--system", "videodistill"], 4, "trained weights only"),
    (["good.mp4", "q", "--weights", "absent"], 4, "absent"),
    (["good.mp4", "q", "--backbone", "absent"], 2, "absent"),
    (["good.mp4", "q", "--select", "oracle"], 2, "true spans"),
    (["good.mp4", "q", "--select", "other"], 2, "other"),
    (["good.mp4", "q", "--select", "atp"], 2, "trained with it"),
    (["good.mp4", "q", "--select", "uniform", "--selector", "x"], 2, "no weights"),
    (["good.mp4", "q", "--select", "prompter"], 2, "needs its weights"),
    (["good.mp4", "q", "--keep", "33"], 2, "cannot keep 33 of 32"),
    (["good.mp4", "q", "--frames", "5000"], 2, "5000"),
    (["good.mp4", "q", "--frames", "0"], 2, "--frames"),
    (["good.mp4", "q", "--start", "2", "--end", "1"], 2, "before it starts"),
    (["good.mp4", "q", "--start", "nan"], 2, "--start"),
    (["good.mp4", "q", "--save", "empty.mp4"], 2, "--save"),
    (["good.mp4", "q", "--html", "folder"], 2, "--html"),
    (["good.mp4", "q", "--decoder", "other"], 2, "other"),
]


def said(vqa: Callable[..., Any], folder: Path, arguments: list[str]) -> Any:
    with contextlib.chdir(folder):
        return vqa("ask", *arguments, "-w", folder / "no-workspace")


@pytest.mark.parametrize(("name", "code", "named"), WRONG_VIDEOS)
def test_what_is_no_video_is_one_message(
    name: str, code: int, named: str, folder: Path, vqa: Callable[..., Any]
) -> None:
    outcome = said(vqa, folder, [name, "Which?", "-o", "a", "-o", "b"])
    assert outcome.code == outcome.json["error"]["code"] == code
    assert named in outcome.json["error"]["message"]
    assert outcome.json["error"]["hint"]


@pytest.mark.parametrize(("arguments", "code", "named"), WRONG_REQUESTS)
def test_a_wrong_request_is_one_message(
    arguments: list[str], code: int, named: str, folder: Path, vqa: Callable[..., Any]
) -> None:
    outcome = said(vqa, folder, arguments)
    assert outcome.code == outcome.json["error"]["code"] == code
    assert named in outcome.json["error"]["message"]
    assert not (folder / "no-workspace").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["q", "--start", "1000"], 3, "starts at 1000 s"),
        (["q", "--answer", "letter"], 2, "no options to letter"),
        (["q", "-o", "a", "-o", "b", "--select", "all", "--keep", "3"], 2, "keeps all 32 frames"),
        (["q", "-o", "a", "-o", "b", "--device", "cuda:99"], 5, "cuda:99"),
        (["q", "-o", "a", "-o", "b", "--set", "nonsense=1"], 3, "nonsense"),
    ],
)
def test_what_only_the_system_knows_is_told_as_well(
    arguments: list[str], code: int, named: str, folder: Path, vqa: Callable[..., Any]
) -> None:
    outcome = said(vqa, folder, ["good.mp4", *arguments])
    assert outcome.code == outcome.json["error"]["code"] == code
    assert named in outcome.json["error"]["message"]


def test_of_several_questions_those_that_can_be_asked_are_answered(
    folder: Path, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    """Exit code 1: done, with failures."""
    mixed = tmp_path / "mixed.jsonl"
    rows: list[dict[str, Any]] = [{"question": "Which?", "options": ["a", "b"]}, {"question": "W?"}]
    mixed.write_text("\n".join(json.dumps(row) for row in rows))
    page = ("--html", tmp_path / "page.html")
    outcome = said(
        vqa, folder, ["good.mp4", "--questions", str(mixed), "--answer", "letter", *map(str, page)]
    )
    assert outcome.code == 1
    first, second = outcome.json["answers"]
    assert first["answer"] in (0, 1)
    assert not first["problem"]
    assert (second["answer"], second["keyframes"]) == (None, [])
    assert "rank" in second["problem"]
    assert "not answered" in (tmp_path / "page.html").read_text()


def test_a_wrong_video_is_refused_before_torch_is_imported(folder: Path) -> None:
    code = (
        "import sys\n"
        "from vqa_cli.main import run_command\n"
        "print(run_command(['ask', 'text.mp4', 'q', '-o', 'a', '-o', 'b']))\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split("\n")[:2] == ["3", "[]"]
