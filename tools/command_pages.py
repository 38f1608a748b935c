"""Write docs/commands.md from the command line itself, or check that it is in sync.

    python tools/command_pages.py [--check]

Reads the declarations of the commands in `vqa_cli`: functions, options, examples. `--check` writes
nothing and ends with 1 if the page differs.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import types
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from vqa_cli.main import app

PAGE = Path(__file__).resolve().parents[1] / "docs/commands.md"
MADE = "<!-- made by tools/command_pages.py; edit the commands in vqa_cli and run it again -->"
INTRODUCTION = """\
Every command, in the order of `vqa --help`, with what `vqa COMMAND --help` says. An option with
"needed" must be given; one with "repeatable" may be given several times. What most commands share
is said once, at the end. JSON and exit codes: [JSON](json.md)."""
SHARED_FROM = 10
"""An option that at least so many commands have in the same words is explained once."""
KINDS = {str: "text", int: "integer", float: "number", Path: "path", bool: ""}
Row = tuple[str, str, str, str]


@dataclass(frozen=True)
class Command:
    """One command as it was declared.

    Attributes:
        words: As it is typed, `vqa bench decode`.
        panel: The heading of `vqa --help` that it stands under.
        text: What it does.
        example: A line below its help; may be empty.
        arguments: Names of what stands without an option.
        rows: Names, what it takes, default and meaning of each argument and option.
    """

    words: str
    panel: str
    text: str
    example: str
    arguments: tuple[str, ...]
    rows: tuple[Row, ...]


def page() -> str:
    """The whole page."""
    commands = list(_commands(app, "vqa"))
    counted = Counter(row for command in commands for row in command.rows)
    shared = [row for row, times in counted.items() if times >= SHARED_FROM]
    parts = [MADE, "# Commands", INTRODUCTION]
    for number, command in enumerate(commands):
        if number == 0 or commands[number - 1].panel != command.panel:
            parts.append(f"## {command.panel}")
        parts += _section(command, shared)
    parts += ["## Options that most commands share", _table(shared)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _commands(group: typer.Typer, words: str, panel: str = "") -> Iterator[Command]:
    for command in group.registered_commands:
        heading = panel or _text(command.rich_help_panel) or "All"
        if not command.hidden and command.callback is not None:
            yield _command(f"{words} {command.name}", heading, command)
    for sub in group.registered_groups:
        assert sub.typer_instance is not None
        heading = _text(sub.rich_help_panel) or "All"
        yield from _commands(sub.typer_instance, f"{words} {sub.name}", heading)


def _command(words: str, panel: str, declared: Any) -> Command:
    parameters = inspect.signature(declared.callback, eval_str=True).parameters.values()
    described = [(p, _info(p)) for p in parameters if p.annotation is not typer.Context]
    shown = [(parameter, info) for parameter, info in described if not info.hidden]
    arguments = [_usage(parameter, info) for parameter, info in shown if not _is_option(info)]
    text = _text(declared.help) or inspect.getdoc(declared.callback) or ""
    rows = tuple(_row(parameter, info) for parameter, info in shown)
    return Command(words, panel, text, _text(declared.epilog), tuple(arguments), rows)


def _info(parameter: inspect.Parameter) -> Any:
    """typer's Option or Argument of a parameter."""
    return typing.get_args(parameter.annotation)[1]


def _is_option(info: Any) -> bool:
    return type(info).__name__ == "OptionInfo"


def _argument(parameter: inspect.Parameter, info: Any) -> str:
    name = _text(info.metavar) or parameter.name.upper()
    return f"{name}..." if _kind(parameter)[1] and not name.endswith("...") else name


def _usage(parameter: inspect.Parameter, info: Any) -> str:
    name = _argument(parameter, info)
    return name if parameter.default is inspect.Parameter.empty else f"[{name}]"


def _row(parameter: inspect.Parameter, info: Any) -> Row:
    if _is_option(info):
        # Inside Annotated the first name stands where typer's older form has the default.
        given = [name for name in (info.default, *(info.param_decls or ())) if _text(name)]
        given = given or ["--" + parameter.name.replace("_", "-")]
        names = ", ".join(f"`{name}`" for name in given)
    else:
        names = f"`{_argument(parameter, info)}`"
    kind, several = _kind(parameter)
    takes = f"`{info.metavar}`" if _is_option(info) and info.metavar else kind + _range(info)
    needed = parameter.default is inspect.Parameter.empty
    words = [" ".join((info.help or "").split())]
    words += ["Repeatable."] if several and "epeat" not in words[0] else []
    words += [f"Or the variable `{info.envvar}`."] if info.envvar else []
    return names, takes, "needed" if needed else _default(parameter.default), " ".join(words)


def _kind(parameter: inspect.Parameter) -> tuple[str, bool]:
    """What a value is, and whether there may be several."""
    annotation = typing.get_args(parameter.annotation)[0]
    if isinstance(annotation, types.UnionType):  # X | None
        annotation = next(part for part in annotation.__args__ if part is not type(None))
    if typing.get_origin(annotation) is list:
        return KINDS.get(annotation.__args__[0], "text"), True
    return KINDS.get(annotation, "text"), False


def _range(info: Any) -> str:
    low, high = info.min, info.max
    if low is not None and high is not None:
        return f", {low:g} to {high:g}"
    return f", at least {low:g}" if low is not None else ""


def _default(value: Any) -> str:
    if value is None or value is False or value == ():
        return ""
    return f"`{'on' if value is True else value}`"


def _section(command: Command, shared: Sequence[Row]) -> list[str]:
    own = [row for row in command.rows if row not in shared]
    also = [row[0].split(", ")[0] for row in command.rows if row in shared]
    usage = " ".join([command.words, *command.arguments, "[OPTIONS]"])
    return [
        f"### {command.words}",
        command.text,
        f"```text\nusage: {usage}\n```",
        command.example,
        _table(own) if own else "",
        f"Shared: {', '.join(also)}." if also else "",
    ]


def _text(found: Any) -> str:
    """Text as typer keeps it; what was not set is a placeholder object."""
    return found.strip() if isinstance(found, str) else ""


def _table(rows: Sequence[Row]) -> str:
    lines = [("option", "takes", "default", "meaning"), ("---",) * 4, *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page or compare it; 1 if it differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    text = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"differs: {PAGE.name}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
