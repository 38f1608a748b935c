"""The words of a command line, read before the parser reads them.

Which command has to be imported, and whether errors are wanted as JSON: both must be known when
the parser has failed, too.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stages.core.errors import UsageError
from vqa_cli.catalogue import ENTRIES

FREE_TEXT = ("-o", "--option")
"""Answers in words: `vqa ask` judges them itself."""


SHARDED = ("extract-frames", "extract-features", "pseudo-label", "eval")
TRAINING = (
    "train-teacher", "distill", "train-localizer", "refine-localizer", "train-answerer",
    "pretrain-videodistill", "train-videodistill",
)  # fmt: skip
READING = ("ask", "serve", "compare", "doctor", "bench", "benchmarks", "status")


def after_interrupt(words: Sequence[str]) -> str:
    """What Ctrl-C left of the command, in a few words."""
    (name,) = named_commands(words)
    if name in SHARDED:
        return "finished shards are kept"
    if name in TRAINING:
        return "it goes on from where its state was last stored"
    if name in ("run", "demo"):
        return "finished steps are kept, and shards of the one that was running"
    if name in READING:
        return "nothing was written to the workspace"
    return "what is not finished is never used"


def with_joined_values(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of bash's question, where it takes `--name=value` for three words."""
    try:
        words = shlex.split(environment.get("COMP_WORDS", ""))
        position = int(environment.get("COMP_CWORD", ""))
    except ValueError:  # no bash, or an open quote
        return {}
    loose = [
        number
        for number, word in enumerate(words)
        if word == "=" and words[number - 1].startswith("--")
    ]
    kept = [word for number, word in enumerate(words) if number not in loose]
    before = sum(number < position for number in loose)
    if not loose:
        return {}
    return {"COMP_WORDS": shlex.join(kept), "COMP_CWORD": str(position - before)}


def named_commands(words: Sequence[str]) -> tuple[str, ...]:
    """The commands among the words, in their order; the first one is meant.

    None named: a word that is no command, so that the parser knows all of them by name alone.
    """
    known = {entry.name for entry in ENTRIES}
    return tuple(dict.fromkeys(word for word in words if word in known))[:1] or ("",)


def completed_words() -> list[str]:
    """What the person has typed so far, as shells hand it over."""
    typed = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return typed.split()


def or_help(words: list[str]) -> list[str]:
    """A line that names nothing to do asks for the guide; `help ask` for the help of ask."""
    if words[:1] == ["help"]:
        return [*words[1:], "--help"]
    groups = {entry.name for entry in ENTRIES if entry.is_group}
    nothing = not words or (len(words) == 1 and words[0] in groups)
    return [*words, "--help"] if nothing else words


def is_given(flag: str, words: Sequence[str], root: Any) -> bool:
    """Whether `flag` stands among the words as an option: neither as a value nor behind `--`.

    Args:
        flag: `--json`, say.
        words: The command line.
        root: The parser.
    """
    return any(option == flag and value is None for option, value in _options(words, root))


def refuse_empty_values(words: Sequence[str], root: Any) -> None:
    """An option with an empty value is a slip, often of an unset variable; it never means none.

    Raises:
        UsageError: Names the first.
    """
    for option, value in _options(words, root):
        if value == "" and option not in FREE_TEXT:
            raise UsageError(f"{option} is given an empty value", "name one, or leave it out")


def _options(words: Sequence[str], root: Any) -> Iterator[tuple[str, str | None]]:
    """The options on the line with their values; none: it takes none, or the line ends."""
    command, rest = root, list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return
        if not word.startswith("-"):
            command = getattr(command, "commands", {}).get(word, command)
        elif word.startswith("--") and "=" in word:
            option, _, value = word.partition("=")
            yield option, value
        else:
            takes = _takes_the_next(word, command) and bool(rest)
            yield word, rest.pop(0) if takes else None


def _takes_the_next(word: str, command: Any) -> bool:
    """Whether the next word is the value of this one; of `-qw` the last letter counts."""
    option = word if word.startswith("--") else f"-{word[-1]}"
    return any(
        option in parameter.opts and not parameter.is_flag
        for parameter in command.params
        if parameter.param_type_name == "option"
    )
