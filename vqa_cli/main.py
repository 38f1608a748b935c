"""The commands of `vqa` in pipeline order, and the one place where errors become exit codes.

0 done; 1 done, with failures above the limit; 2 usage, or an ambiguous choice of inputs; 3 config
or data; 4 a missing input; 5 the machine; 6 verification; 70 a bug of `vqa` itself; 130
interrupted; 141 nobody reads the output any more.
"""

from __future__ import annotations

import os
import sys
import traceback
from functools import cache
from typing import Any

import typer

from stages.core.errors import MachineError, UsageError, VqaError
from vqa_cli import (
    artifacts,
    ask,
    bench,
    benchmarks,
    checkpoint,
    compare,
    demo,
    distill,
    doctor,
    evaluate,
    extract_features,
    extract_frames,
    prepare,
    pretrain_videodistill,
    pseudo_label,
    refine_localizer,
    report,
    run,
    score,
    status,
    train_answerer,
    train_localizer,
    train_teacher,
    train_videodistill,
)
from vqa_cli.console import Console

app = typer.Typer(
    rich_markup_mode="markdown",
    name="vqa",
    help="Video question answering research: features, teachers, students, keyframes, evaluation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(demo.demo)
app.command("benchmarks")(benchmarks.benchmarks)
app.command("prepare")(prepare.prepare)
app.command("extract-frames")(extract_frames.extract_frames)
app.command("extract-features")(extract_features.extract_features)
app.command("train-teacher")(train_teacher.train_teacher)
app.command("distill")(distill.distill)
app.command("train-answerer")(train_answerer.train_answerer)
app.command("train-localizer")(train_localizer.train_localizer)
app.command("pseudo-label")(pseudo_label.pseudo_label)
app.command("refine-localizer")(refine_localizer.refine_localizer)
app.command("pretrain-videodistill")(pretrain_videodistill.pretrain_videodistill)
app.command("train-videodistill")(train_videodistill.train_videodistill)
app.command("eval")(evaluate.evaluate)
app.command("score")(score.score)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("ask")(ask.ask)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(checkpoint.app, name="checkpoint")

INTERRUPTED = 130
INTERNAL = 70
"""A bug of ours: never 1, which says that an artifact is complete."""


def main() -> None:
    """Run `vqa` and leave with the documented exit code."""
    # Idle OpenMP threads that spin take the cores that decode workers need: measured on two
    # cores, features from videos took 7.8 s of CPU time without spinning and 23.7 s with it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    sys.exit(run_command(sys.argv[1:]))


@cache
def parser() -> Any:
    """The commands as they are parsed; building them takes longer than most dry runs."""
    return typer.main.get_command(app)


def run_command(arguments: list[str]) -> int:
    """Run one command line; returns its exit code.

    The codes are those of this module.
    """
    debug = "--debug" in arguments
    console = Console(as_json="--json" in arguments, debug=debug)
    try:
        outcome = parser()(arguments, standalone_mode=False)
        if outcome == INTERRUPTED:  # what the parser makes of Ctrl-C
            return _interrupted(console)
        return outcome if isinstance(outcome, int) else 0
    except VqaError as error:
        console.error(error)
        _show_traceback(debug)
        return error.exit_code
    except KeyboardInterrupt:
        return _interrupted(console)
    except BrokenPipeError:
        return 141
    except Exception as error:
        return _unexpected(error, console, debug)


def _interrupted(console: Console) -> int:
    error = VqaError("interrupted", "run the same command again: finished shards are kept")
    error.exit_code = INTERRUPTED
    console.error(error)
    return INTERRUPTED


def _unexpected(error: Exception, console: Console, debug: bool) -> int:
    """Errors of the option parser, the machine's own, and bugs of ours."""
    if hasattr(error, "format_message"):  # the parser's usage errors, whichever click it is from
        explained: VqaError = UsageError(error.format_message(), "see vqa COMMAND --help")
    elif type(error).__name__ == "Exit":
        code: Any = getattr(error, "exit_code", 0)
        return int(code)
    elif type(error).__name__ == "Abort":  # the same in other versions of it
        return _interrupted(console)
    elif isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        explained = MachineError(f"out of memory: {error}", "smaller --set batch_size=...")
    elif isinstance(error, OSError):
        explained = MachineError(f"{type(error).__name__}: {error}", "run again with --debug")
    else:
        explained = VqaError(
            f"internal error: {type(error).__name__}: {error}",
            "this is a bug; run again with --debug and report the traceback",
        )
        explained.exit_code = INTERNAL
    console.error(explained)
    _show_traceback(debug)
    return explained.exit_code


def _show_traceback(debug: bool) -> None:
    if debug:
        traceback.print_exc(file=sys.stderr)
