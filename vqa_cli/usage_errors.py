"""What the option parser refuses, in the shape of our own errors: what, where, what to do next.

The parser's classes are private to typer, in two different packages by its version; they are told
apart by their names, and read through attributes that both have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from stages.core.errors import UsageError
from vqa_cli.catalogue import EXAMPLES

UNKNOWN_COMMAND = re.compile(r"No such command '(.*?)'\.", re.DOTALL)


def explain(error: Any, words: Sequence[str]) -> UsageError:
    """The parser's `error` about the command line `words` as one of ours."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "vqa"
    text = " ".join(error.format_message().split()).rstrip(".").replace(": Value error, ", ": ")
    help_line = f"see {where} --help"
    unknown = UNKNOWN_COMMAND.match(error.format_message())
    if unknown:
        known = getattr(getattr(context, "command", None), "commands", {})
        named = f"{where}: no such command: {unknown.group(1)}"
        return UsageError(named, did_you_mean(unknown.group(1), known) or help_line)
    if type(error).__name__ == "NoSuchOption":
        return _unknown_option(error.option_name, context, where, help_line)
    example = EXAMPLES.get(where.removeprefix("vqa ").strip())
    if type(error).__name__ == "MissingParameter" and example:
        return UsageError(f"{where}: {_lower(text)}", f"as in: {example}")
    return UsageError(f"{where}: {_lower(text)}{_as_typed(error, words, text)}", help_line)


def _as_typed(error: Any, words: Sequence[str], text: str) -> str:
    """The value that is refused, where the parser does not show it itself."""
    options = getattr(getattr(error, "param", None), "opts", ())
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, joined, value = word.partition("=")
        typed = value if joined else following
        if option in options and repr(typed) not in text:
            return f" (given: {typed!r})"
    return ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or nothing where nothing comes near; leading dashes do not count."""
    bare = {name.lstrip("-"): name for name in known}
    near = get_close_matches(word.lstrip("-"), list(bare), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(bare[name] for name in near)}?" if near else ""


def _unknown_option(name: str, context: Any, where: str, help_line: str) -> UsageError:
    """With the commands that know this option, or the one that was meant."""
    message = f"{where}: no such option: {name}"
    command = getattr(context, "command", None)
    owners = _owners(name)
    if not owners:
        return UsageError(message, did_you_mean(name, _options(command)) or help_line)
    if getattr(command, "commands", None):
        return UsageError(message, f"it stands behind the command, as in vqa {owners[0]} {name}")
    return UsageError(message, f"{name} is an option of {', '.join(owners)}")


def _options(command: Any) -> list[str]:
    return [text for parameter in getattr(command, "params", ()) for text in parameter.opts]


def _owners(option: str) -> list[str]:
    """The commands that have this option."""
    from vqa_cli.main import parser

    leaves: dict[str, Any] = {}
    for name, command in parser().commands.items():
        inner = getattr(command, "commands", None) or {}
        leaves |= {f"{name} {each}": found for each, found in inner.items()} or {name: command}
    return [name for name, command in leaves.items() if option in _options(command)]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
