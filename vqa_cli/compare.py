"""`vqa compare`: is the difference between two systems real?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    MAX_SEED,
    OUTPUT,
    DebugOption,
    JsonOption,
    QuietOption,
    WorkspaceOption,
    open_workspace,
)

NAMES = {"mcnemar-exact": "McNemar's exact test", "sign-flip": "sign-flip test by video"}


def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="Predictions or metrics: id, label or path.",
            autocompletion=completion.ids_of("predictions", "metrics"),
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="The same of the other system.",
            autocompletion=completion.ids_of("predictions", "metrics"),
        ),
    ],
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            min=0,
            max=MAX_SEED,
            help="Seed of the resampling.",
            rich_help_panel=COMPUTED,
            metavar="N",
        ),
    ] = 0,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    flips: Annotated[
        Path | None,
        typer.Option(
            "--flips",
            metavar="FILE",
            help="Write the flipped questions: .jsonl, .csv, .parquet [none].",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    show: Annotated[
        int,
        typer.Option(
            "--show",
            min=0,
            help="Flipped questions listed on the terminal.",
            rich_help_panel=OUTPUT,
            metavar="N",
        ),
    ] = 10,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Paired difference A - B with its interval, tests, a table by type, and what flipped."""
    from stages import compare as stage

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    if flips is not None:
        stage.check_flips_path(flips)
    found = stage.compare(open_workspace(workspace), first, second, seed)
    if flips is not None:
        stage.write_flips(flips, found["flips"])
    if as_json:
        console.json(found | ({"flips_file": str(flips)} if flips else {}))
        return
    _print_figures(console, found)
    _print_parts(console, found)
    _print_flips(console, found, show)
    if flips is not None:
        console.note(f"flipped questions: {flips}")
    for note in found["notes"]:
        console.note(f"note: {note}")


def _print_figures(console: Console, found: dict[str, Any]) -> None:
    videos = f" about {found['n_videos']:,} videos" if found["n_videos"] else ""
    _line(
        console, f"{found['benchmark']} {found['split']}, {found['n_common']:,} questions{videos}"
    )
    for side in ("a", "b"):
        _line(console, f"  {side.upper()}: {found[side]['artifact']}")
    _line(console, _left_out(found))
    rows = [[name, *_compared(row)] for name, row in found["figures"].items()]
    console.table("", ["figure", "A", "B", "A - B", "95 % interval"], rows)
    _line(console, _verdict(found))


def _left_out(found: dict[str, Any]) -> str:
    """Which questions are not compared."""
    counts = (
        (len(found["only_a"]), "only A has"),
        (len(found["only_b"]), "only B has"),
        (len(found["not_scored"]), "that failed on one side"),
        (found["n_unlabelled"], "without a known answer"),
    )
    parts = [f"{count:,} {what}" for count, what in counts if count]
    named = [*found["only_a"], *found["only_b"]] + [
        row["question_id"] for row in found["not_scored"]
    ]
    examples = f" (such as {', '.join(named[:3])})" if named else ""
    return (
        f"  not compared: {', '.join(parts)}{examples}" if parts else "  every question is compared"
    )


def _compared(row: dict[str, Any]) -> list[str]:
    return [f"{row['a']:.2f}", f"{row['b']:.2f}", f"{row['difference']:+.2f}", _interval(row)]


def _interval(row: dict[str, Any]) -> str:
    return "-" if row["ci95"] is None else "{:+.2f} to {:+.2f}".format(*row["ci95"])


def _verdict(found: dict[str, Any]) -> str:
    lines = [
        f"A is better on {found['a_better']:,} questions, B on {found['b_better']:,}",
        f"{NAMES[found['test']]}: p = {_p(found['p_value'])}",
    ]
    if found["test"] == "mcnemar-exact" and found["p_value_clustered"] is not None:
        lines.append(f"{NAMES['sign-flip']}: p = {_p(found['p_value_clustered'])}")
    if found["detectable"] is None:
        lines.append("too few disagreements for any difference to show four times in five")
    else:
        lines.append(
            f"smallest difference that these questions show four times in five:"
            f" {found['detectable']:.2f} points"
        )
    return "\n".join(lines)


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def _print_parts(console: Console, found: dict[str, Any]) -> None:
    columns = ["questions", "A", "B", "A - B", "95 % interval", "p (Holm)"]
    for what, title in (("by_type", "type"), ("by_group", "group")):
        rows = [
            [name, f"{row['n']:,}", *_compared(row), _p(row["p_holm"])]
            for name, row in found[what].items()
        ]
        if len(rows) > 1:
            console.table("", [title, *columns], rows)
    if len(found["by_type"]) > 1:
        console.note(
            f"{len(found['by_type'])} types, as many comparisons: one interval in twenty misses by"
            " chance; p (Holm) allows for their number"
        )


def _print_flips(console: Console, found: dict[str, Any], show: int) -> None:
    flips = found["flips"]
    if not flips or not show:
        return
    # Who reads a file or a pipe wants to find the question, not a column that fits.
    cut = _cut if console.data.is_terminal else _whole
    rows = [
        [cut(flip["question_id"]), flip["type"] or "-", cut(flip["answer"]), cut(flip["a"]),
         cut(flip["b"]), flip["better"].upper()]
        for flip in flips[:show]
    ]  # fmt: skip
    count = f"{len(rows):,}"
    shown = f"the first {count} of {len(flips):,}" if len(flips) > len(rows) else count
    console.table(
        f"flipped questions, {shown}", ["question", "type", "answer", "A", "B", "better"], rows
    )


def _cut(text: str | None, width: int = 24) -> str:
    if text is None:
        return "-"
    return text if len(text) <= width else text[: width - 1] + "…"


def _whole(text: str | None) -> str:
    return "-" if text is None else text


def _line(console: Console, text: str) -> None:
    console.data.print(text, markup=False, soft_wrap=True)
