"""What the pages hold: fenced and indented blocks, what stands above them, their command lines.

Read by the tests of this folder through `conftest.py`. The rules for writers are in
docs/extending.md ("The pages").
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer

from stages.benchmarks.manifest import parse_manifest
from vqa_cli.main import app

REPOSITORY = Path(__file__).resolve().parents[2]
SHELL, WORDS, DIRECTIVE, DATA = "sh", "text", "{toctree}", ("json", "toml", "python")
OTHER_PROGRAMS = {
    *(".", ".ci/run", "cd", "curl", "export", "set", "sleep", "hf", "pip", ".venv/bin/pip"),
    *("python3", "pre-commit", "sphinx-build", "accelerate", "torchrun", "ray", "sbatch", "srun"),
}
"""Programs of other people in our blocks: read here, run by `.ci/run` or by the reader."""
COMMENT = re.compile(r"<!-- (.+) -->")
FENCE = re.compile(r"^\s*```(\S*)$")
PUBLIC = "vqa"


@dataclass(frozen=True)
class Block:
    """One block of code of a page.

    Attributes:
        page: Path below the repository.
        line: Number of its first line.
        language: What stands after the fence; `sh` or `text` by content where nothing does.
        text: The content.
        mark: The HTML comment right above it, or an empty string.
        follows: The block before it, where nothing but blank lines is between the two.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str = ""
    follows: Block | None = None

    @property
    def runs(self) -> bool:
        """Whether its commands are executed."""
        return self.mark.startswith(("runs", "fails with"))

    @property
    def code(self) -> int:
        """The exit code that its last command is to have."""
        return int(self.mark.rpartition(" ")[2]) if self.mark.startswith("fails") else 0

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in their order."""
    found: list[Block] = []
    lines = (REPOSITORY / page).read_text(encoding="utf-8").splitlines()
    number, mark, last_end = 0, "", -1
    while number < len(lines):
        line = lines[number]
        indented = line.startswith("    ") and (number == 0 or not lines[number - 1].strip())
        if fence := FENCE.match(line):
            end = next(i for i in range(number + 1, len(lines)) if FENCE.match(lines[i]))
            text = "\n".join(lines[number + 1 : end])
            language = fence[1] or _guessed(text)
        elif indented:
            end = _end_of_indented(lines, number)
            text = "\n".join(part[4:] for part in lines[number : end + 1])
            language = _guessed(text)
        else:
            if line.strip():
                comment = COMMENT.fullmatch(line.strip())
                mark, last_end = comment[1] if comment else "", -1
            number += 1
            continue
        before = found[-1] if found and last_end >= 0 else None
        found.append(Block(page, number + 1, language, text, mark, before))
        number, mark, last_end = end + 1, "", end
    return found


def _end_of_indented(lines: list[str], start: int) -> int:
    """The last line of the block; a blank line parts what is typed from what is printed."""
    end = start
    while end + 1 < len(lines) and lines[end + 1].startswith("    "):
        end += 1
    return end


def _guessed(text: str) -> str:
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    ours = (PUBLIC, "torchrun", "python")
    return SHELL if first in ours or first in OTHER_PROGRAMS else WORDS


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; comments and line breaks are gone."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            if words := shlex.split(part, comments=True):
                yield words


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that a line names, and the words after its name; none: a group of commands."""
    command: Any = _root()
    rest = list(words[1:])
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if set(rest[0]) & set("|[") or rest[0].isupper():
            return None, rest
        name = rest.pop(0)
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    return (None if hasattr(command, "commands") else command), rest


def parse(words: list[str]) -> dict[str, Any]:
    """Give a command line to the real option parser; what its options are.

    Raises:
        Exception: the parser's usage error.
    """
    command, rest = command_of(words)
    if command is None or "--help" in rest:
        return {}
    return dict(command.make_context(" ".join(words[:2]), rest).params)


def all_options() -> set[str]:
    """Every option of every command."""
    found, groups = {"--help", "--version", "--install-completion", "--show-completion"}, [_root()]
    while groups:
        group = groups.pop()
        for command in group.commands.values():
            if hasattr(command, "commands"):
                groups.append(command)
            found |= {text for parameter in command.params for text in parameter.opts}
    return found


@cache
def _root() -> Any:
    """All commands; building them takes longer than parsing a page."""
    return typer.main.get_command(app)


def check_command(words: list[str], place: str) -> None:
    """Parse what is ours, whatever starts it; the rest is a file of ours or a known program."""
    words = [_expanded(word) for word in words]
    program = words[0]
    ours = next((i for i, word in enumerate(words) if word.rpartition("/")[2] == PUBLIC), None)
    if "vqa_cli" in words:
        parse([PUBLIC, *words[words.index("vqa_cli") + 1 :]])
    elif ours is not None:
        assert _starts_others(words[:ours]), f"{place}: {words}"
        parse(words[ours:])
    elif program.endswith("python") and words[1:2] != ["-m"]:
        assert (REPOSITORY / words[1]).is_file(), f"{place}: no file {words[1]}"
    else:
        assert _starts_others(words) or program.endswith("python"), f"{place}: {words}"


def _expanded(word: str) -> str:
    """A word with its variables filled in: numbers, from 0 where they count something."""
    return re.sub(r"\$(\w+)", lambda name: "0" if name[1].endswith("ID") else "1", word)


def _starts_others(words: list[str]) -> bool:
    """Nothing, an assignment, or a known program and its options."""
    return not words or "=" in words[0] or words[0] in OTHER_PROGRAMS


def check_data(block: Block) -> None:
    """JSON (one value, or one a line), TOML and Python are what they say they are."""
    if block.language == "toml":
        if "layouts" in tomllib.loads(block.text):
            parse_manifest(block.text, block.place)
    elif block.language == "python":
        compile(block.text, block.place, "exec")
    else:
        for line in block.text.splitlines():
            json.loads(line)


def missing_lines(shown: str, printed: str) -> list[str]:
    """Lines of a shown output that were not printed in that order; `...` stands for any others.

    Spaces do not count, nor do ids, bars and numbers with a decimal point: another processor
    rounds otherwise.
    """
    rest = iter([_plain(line) for line in printed.splitlines()])
    wanted = [_plain(line) for line in shown.splitlines()]
    return [line for line in wanted if line not in ("", "...") and line not in rest]


def _plain(line: str) -> str:
    line = re.sub("[▁▂▃▄▅▆▇█]+", "█", re.sub(r"[0-9a-f]{12}", "ID", line))
    line = re.sub(r"[+-]?\d+\.\d+", "N", re.sub("─+", "─", line))
    return " ".join(line.split())
