"""Runs the pages' commands in this process, in copies of what the quick start leaves behind."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vqa_cli.main import run_command

BACKBONES = {
    "instructblip-flan-t5-xl": "tiny",
    "blip2-flan-t5-xl": "tiny-blip2",
    "clip-vit-base-patch16": "tiny-clip",
}
"""What stands in for weights that cannot be had here."""
SETTINGS = {
    "train-teacher": ["--set", "training.precision=float32", "--set", "training.epochs=1"],
    "distill": ["--set", "training.precision=float32", "--set", "training.epochs=1"],
}
"""Added to lines with stand-ins: the published float16 needs an accelerator, ten epochs time."""
DECODES = ("prepare", "extract-frames", "extract-features")
"""Lines that get one decode process: the bytes are the same, and a machine of tests is busy."""


def _pages() -> Any:
    path = Path(__file__).with_name("pages.py")
    spec = importlib.util.spec_from_file_location("docs_pages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


PAGES = _pages()


@pytest.fixture(scope="session")
def pages() -> ModuleType:
    """The reader of pages."""
    return PAGES


@dataclass
class Walk:
    """A reader who types the commands of pages in one folder."""

    folder: Path
    printed: dict[str, str] = field(default_factory=dict)
    """What each block printed, by its place."""

    def page(self, page: str) -> None:
        """Type the commands of a page, in their order, and compare what it says they print."""
        for block in PAGES.blocks(page):
            if block.mark.startswith("file: "):
                self._write(block.mark.removeprefix("file: "), block.text)
            elif block.runs:
                self.type(block)
            elif block.follows is not None and block.follows.runs:
                self.compare(block, self.printed[block.follows.place])

    def compare(self, shown: Any, printed: str) -> None:
        """A block of output against what was printed."""
        assert not PAGES.missing_lines(shown.text, printed), f"{shown.place}\n{printed}"

    def type(self, block: Any) -> None:
        """Type the lines of a block; what they printed is kept."""
        printed = ""
        lines = list(PAGES.command_lines(block.text))
        for number, words in enumerate(lines, start=1):
            if words[0] == "cd":
                (self.folder,) = self.folder.glob(words[1])
                continue
            assert words[0] == "vqa", f"{block.place}: only vqa is run, not {words[0]}"
            if block.mark == "runs with stand-ins":
                words = [BACKBONES.get(word, word) for word in words] + SETTINGS.get(words[1], [])
            if words[1] in DECODES and "--workers" not in words:
                words += ["--workers", "1"]
            code, text = self._run(words[1:])
            printed += text
            wanted = block.code if number == len(lines) else 0
            assert code == wanted, f"{block.place}: {words} ended with {code}\n{text}"
        self.printed[block.place] = printed

    def _run(self, words: list[str]) -> tuple[int, str]:
        caught = io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(caught),
            contextlib.redirect_stderr(caught),
        ):
            code = run_command(words)
        return code, caught.getvalue()

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text + "\n", encoding="utf-8")

    def copy(self, folder: Path) -> Walk:
        """The same reader at another desk."""
        return Walk(Path(shutil.copytree(self.folder, folder / "copy")))


@pytest.fixture(scope="session")
def plain_terminal() -> Iterator[None]:
    """No workspace and no width of the tester's own."""
    kept = {name: os.environ.pop(name, None) for name in ("VQA_WORKSPACE", "COLUMNS")}
    yield
    os.environ.update({name: value for name, value in kept.items() if value is not None})


@pytest.fixture(scope="session")
def started(plain_terminal: None, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Somebody who went through the quick start, with a few videos of their own."""
    walk = Walk(tmp_path_factory.mktemp("docs"))
    walk.page("docs/quickstart.md")
    _own_videos(walk.folder)
    return walk


def _own_videos(folder: Path) -> None:
    """Generated videos under the names that the pages use."""
    made = sorted((folder / "vqa-workspace/questions").glob("shapes-train-*/videos/train/*.mp4"))
    names = ("my_videos/kitchen.mp4", "my_videos/trips/street.mp4")
    charades = [f"Charades_v1_480/V{number}.mp4" for number in range(4)]
    for source, name in zip(made, (*names, *charades), strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)


@pytest.fixture
def walk(started: Walk, tmp_path: Path) -> Walk:
    """A copy of `started` that may be written into."""
    return started.copy(tmp_path)


@pytest.fixture
def newcomer(plain_terminal: None, tmp_path: Path) -> Walk:
    """Somebody in an empty folder."""
    return Walk(tmp_path)


@pytest.fixture
def star_files(walk: Walk) -> Walk:
    """The same with files in the formats of STAR and QVHighlights, made up here."""
    for split in ("train", "val"):
        text = json.dumps([_star_row(split, number) for number in range(4)])
        (walk.folder / f"STAR_{split}.json").write_text(text, encoding="utf-8")
    for name, first in (("a.json", 0), ("b.json", 1)):
        rows = [
            {"question_id": _star_row("val", number)["question_id"], "prediction": first}
            for number in range(4)
        ]
        (walk.folder / name).write_text(json.dumps(rows), encoding="utf-8")
    moment = {"qid": 1, "query": "A man cooks", "vid": "abc_60.0_210.0", "duration": 150}
    truth = {"relevant_windows": [[0, 10]], "relevant_clip_ids": [0, 1, 2, 3, 4]}
    truth["saliency_scores"] = [[4, 3, 2]] * 5
    said = {"pred_relevant_windows": [[0.0, 9.0, 0.9]], "pred_saliency_scores": [0.5] * 75}
    for name, row in (
        ("highlight_val_release.jsonl", moment | truth),
        ("hl_val_submission.jsonl", moment | said),
    ):
        (walk.folder / name).write_text(json.dumps(row) + "\n", encoding="utf-8")
    return walk


def _star_row(split: str, number: int) -> dict[str, Any]:
    kind = ("Interaction", "Sequence", "Prediction", "Feasibility")[number]
    words = ["The cup.", "The book.", "The towel.", "The bag."]
    return {
        "question_id": f"{kind}_T1_{split}{number}",
        "question": "Which object was put down by the person?",
        "video_id": f"V{number}",
        "start": 0.0,
        "end": 5.0,
        "answer": words[0],
        "choices": [{"choice_id": place, "choice": word} for place, word in enumerate(words)],
    }
