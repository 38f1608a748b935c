"""Every command on a page is executed, or at least read by the real option parser."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
DOCS = ["README.md", "CONTRIBUTING.md", *(page for page in DOCS if "_build" not in page)]
WALKED = (
    "own-videos.md",
    "json.md",
    "report.md",
    "faq.md",
    "troubleshooting.md",
    "recipes.md",
    "checkpoints.md",
)


def test_the_quick_start_does_what_it_says(pages: Any, started: Any) -> None:
    running = [block.place for block in pages.blocks("docs/quickstart.md") if block.runs]
    assert list(started.printed) == running
    assert list(started.folder.glob("vqa-workspace/report/*/index.html"))


@pytest.mark.parametrize("page", WALKED)
def test_the_commands_of_a_page_do_what_it_says(walk: Any, page: str) -> None:
    walk.page(f"docs/{page}")
    assert walk.printed


def test_the_readme_s_path_works_on_stand_ins(star_files: Any) -> None:
    star_files.page("README.md")
    assert star_files.printed


def test_the_example_of_the_ask_page_answers_as_shown(pages: Any, newcomer: Any) -> None:
    found = pages.blocks("docs/ask.md")
    typed = next(block for block in found if "vqa prepare" in block.text)
    newcomer.type(typed)
    rest = found[found.index(typed) + 1 :]
    shown = list(itertools.takewhile(lambda block: block.follows is not None, rest))
    assert shown
    for block in shown:
        newcomer.compare(block, newcomer.printed[typed.place])


def test_no_page_with_commands_to_run_is_forgotten(pages: Any) -> None:
    running = {page for page in DOCS if any(block.runs for block in pages.blocks(page))}
    walked = {f"docs/{page}" for page in WALKED}
    assert running == walked | {"docs/quickstart.md", "README.md"}


@pytest.mark.parametrize("page", DOCS)
def test_every_block_is_run_parsed_or_an_output(pages: Any, page: str) -> None:
    for block in pages.blocks(page):
        if block.language == pages.SHELL:
            for words in pages.command_lines(block.text):
                pages.check_command(words, block.place)
        elif block.language in pages.DATA:
            pages.check_data(block)
        elif block.language != pages.DIRECTIVE:
            assert block.language == pages.WORDS, f"{block.place}: {block.language}"
            typed = [line for line in block.text.splitlines() if line.startswith("vqa ")]
            assert not typed, f"{block.place}: commands belong into a block marked sh: {typed}"


def test_a_block_that_is_wrong_is_noticed(pages: Any, tmp_path: Path) -> None:
    for words in (["vqa", "evaluate"], ["vqa", "eval", "--no-such-option"], ["make", "docs"]):
        with pytest.raises(Exception, match=r"evaluate|no-such-option|make"):
            pages.check_command(words, "here")
    assert pages.missing_lines("a  1.5\n...\nc", "a 2.25\nb\nc") == []
    assert pages.missing_lines("a\nb", "b\na") == ["b"]


def test_the_page_of_commands_is_in_sync() -> None:
    tool = ROOT / "tools/command_pages.py"
    done = subprocess.run(
        [sys.executable, str(tool), "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{done.stderr} run python tools/command_pages.py"
