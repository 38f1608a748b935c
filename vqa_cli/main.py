"""The command line: which command is meant, and the one place where errors become exit codes.

0 done; 1 done, with failures above the limit; 2 usage, or an ambiguous choice of inputs; 3 config
or data; 4 a missing input; 5 the machine; 6 verification; 70 a bug of `vqa` itself; 130
interrupted; 141 nobody reads the output any more.

Only the command that is named is imported: the others are known by their line of the catalogue.
Imports stand inside functions, so that Ctrl-C during them ends as it does anywhere else.
"""

from __future__ import annotations

import errno
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

    from stages.core.errors import VqaError
    from vqa_cli.catalogue import Entry

USAGE = 2
INTERRUPTED = 130
INTERNAL = 70
"""A bug of ours: never 1, which says that an artifact is complete."""
NOBODY_READS = 141
COMPLETING = "_VQA_COMPLETE"
"""Set by the shell when it asks how a line could go on."""


def main() -> None:
    """Run `vqa` and leave with the documented exit code."""
    # Idle OpenMP threads that spin take the cores that decode workers need: measured on two
    # cores, features from videos took 7.8 s of CPU time without spinning and 23.7 s with it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    _print_what_the_terminal_can()
    code = run_command(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = NOBODY_READS
    if code == NOBODY_READS:  # what is left in the buffer has no reader: say nothing about it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _print_what_the_terminal_can() -> None:
    """A character that the locale does not have becomes an escape, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def application(names: frozenset[str]) -> typer.Typer:
    """The commands; those that are in `names` with their options, the others as a line of help."""
    import typer

    from vqa_cli.catalogue import ENTRIES, GUIDE
    from vqa_cli.options import root

    app = typer.Typer(
        rich_markup_mode="markdown",
        name="vqa",
        help="Video question answering research: features, teachers, students, keyframes, "
        "evaluation.",
        epilog=GUIDE,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    app.callback()(root)
    for entry in ENTRIES:
        if entry.name in names:
            _add(app, entry)
        else:
            app.command(entry.name, short_help=entry.summary, rich_help_panel=entry.panel)(_unread)
    return app


def _unread() -> None:
    """Stands for a command that is not asked for."""


def _add(app: typer.Typer, entry: Entry) -> None:
    from importlib import import_module

    from vqa_cli.catalogue import epilog

    found: Any = getattr(import_module(f"vqa_cli.{entry.module}"), entry.function)
    shown: dict[str, Any] = {"short_help": entry.summary, "rich_help_panel": entry.panel}
    if entry.is_group:
        app.add_typer(found, name=entry.name, **shown)
    else:
        app.command(entry.name, epilog=epilog(entry.name), **shown)(found)


@cache
def parser(*names: str) -> Any:
    """The commands as they are parsed, those of `names` with their options; none: all of them.

    Kept, because building a command takes longer than most dry runs.
    """
    import typer

    from vqa_cli.catalogue import ENTRIES

    wanted = frozenset(names) or frozenset(entry.name for entry in ENTRIES)
    return typer.main.get_command(application(wanted))


def __getattr__(name: str) -> Any:
    """`app`: every command at once, for programs that look at all of them."""
    if name == "app":
        from vqa_cli.catalogue import ENTRIES

        return application(frozenset(entry.name for entry in ENTRIES))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns its exit code.

    The codes are those of this module.
    """
    as_json, debug = "--json" in arguments, "--debug" in arguments  # until the options are known
    try:
        from vqa_cli.command_line import (
            completed_words,
            is_given,
            named_commands,
            or_help,
            refuse_empty_values,
        )

        completing = os.environ.get(COMPLETING)
        command = parser(*named_commands(completed_words() if completing else arguments))
        if completing:
            return _complete(command)
        as_json = is_given("--json", arguments, command)
        debug = is_given("--debug", arguments, command)
        refuse_empty_values(arguments, command)
        outcome = command(or_help(arguments), prog_name="vqa", standalone_mode=False)
        if outcome == INTERRUPTED:  # what the parser makes of Ctrl-C
            raise KeyboardInterrupt
        return outcome if isinstance(outcome, int) else 0
    except KeyboardInterrupt:
        return _told(_interrupted(arguments), as_json, debug)
    except BrokenPipeError:
        return NOBODY_READS
    except SystemExit as leaving:  # the parser leaves with 1 where nobody reads
        if isinstance(leaving.__context__, BrokenPipeError):
            return NOBODY_READS
        raise
    except Exception as error:
        if type(error).__name__ == "Exit":  # the parser's: it has printed what there is to say
            return int(getattr(error, "exit_code", 0))
        explained = _explained(error, arguments)
        if explained.exit_code == USAGE and not explained.hint:
            meant = " ".join(name for name in named_commands(arguments) if name)
            explained.hint = f"see {f'vqa {meant}'.strip()} --help"
        return _told(explained, as_json, debug)


def _complete(command: Any) -> int:
    """Answer the shell; an error in the middle of somebody's typing is never shown."""
    from vqa_cli.command_line import with_joined_values

    try:
        os.environ.update(with_joined_values(os.environ))
        command([], prog_name="vqa", complete_var=COMPLETING, standalone_mode=False)
    except Exception:
        return 1
    return 0


def _interrupted(arguments: list[str]) -> VqaError:
    from stages.core.errors import VqaError
    from vqa_cli.command_line import after_interrupt

    error = VqaError("interrupted", f"run the same command again: {after_interrupt(arguments)}")
    error.exit_code = INTERRUPTED
    return error


def _explained(error: Exception, arguments: list[str]) -> VqaError:
    """Errors of the option parser, the machine's own, and bugs of ours."""
    from stages.core.errors import MachineError, UsageError, VqaError

    if isinstance(error, VqaError):
        return error
    if hasattr(error, "format_message"):  # the parser's usage errors, whichever click it is from
        from vqa_cli.usage_errors import explain

        return explain(error, arguments)
    if type(error).__name__ == "Abort":  # Ctrl-C in other versions of the parser
        return _interrupted(arguments)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return MachineError(f"out of memory: {error}", "smaller --set batch_size=...")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UsageError(
            "a name on the command line is longer than a file's can be",
            "vqa status lists what is here",
        )
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return MachineError(
            f"{type(error).__name__}: {what}",
            "vqa doctor says what the disk can do; --debug where it happened",
        )
    explained = VqaError(
        f"internal error: {type(error).__name__}: {error}",
        "this is a bug; run again with --debug and report the traceback",
    )
    explained.exit_code = INTERNAL
    return explained


def _told(error: VqaError, as_json: bool, debug: bool) -> int:
    """Print an error in the one shape that all have; returns its exit code."""
    from vqa_cli.console import Console

    Console(as_json=as_json, debug=debug).error(error)
    if debug:
        import traceback

        traceback.print_exc(file=sys.stderr)
    return error.exit_code
