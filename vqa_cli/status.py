"""`vqa status`: what is done, half done, running or stale."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stages.core.errors import VqaError
from vqa_cli.console import Console, duration
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    RUN,
    DebugOption,
    JsonOption,
    QuietOption,
    WorkspaceOption,
    open_workspace,
)

if TYPE_CHECKING:
    from stages.artifacts.store import Workspace

STYLES = {
    "running": "bold cyan",
    "stale": "yellow",
    "unreadable": "bold red",
    "unfinished": "yellow",
}
INTERVAL = 2.0
INTERRUPTED = 130


def status(
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Look again and again until Ctrl-C; plain lines where the "
            "output is no terminal, one object a line with --json.",
            rich_help_panel=RUN,
        ),
    ] = False,
    interval: Annotated[
        float,
        typer.Option(
            "--interval",
            min=0.1,
            max=3600,
            help="Seconds between two looks of --watch.",
            rich_help_panel=RUN,
            metavar="SECONDS",
        ),
    ] = INTERVAL,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """What exists in a workspace, what is running and how fast, what is half done or stale and why.

    Ctrl-C ends --watch with exit code 130; what is running goes on.
    """
    from stages.artifacts import inspect

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    root = open_workspace(workspace)
    if watch:
        _watch(console, root, interval)
        return
    found = inspect.workspace_status(root)
    if as_json:
        console.json(found)
    elif not found["artifacts"]:
        console.note(f"nothing in {workspace} yet; try: vqa demo")
    else:
        _show(console, found)


def _show(console: Console, found: dict[str, Any]) -> None:
    """The table, and below it what is running, what is wrong, and the sums."""
    rows = found["artifacts"]
    console.data.print(_grid(found, rows))
    for line in (*_busy(rows), *_problems(rows), _sums(found)):
        console.data.print(line, soft_wrap=True)


def _watch(console: Console, workspace: Workspace, interval: float) -> None:
    """Show snapshots until Ctrl-C.

    Raises:
        VqaError: Ctrl-C, with its exit code.
    """
    try:
        if console.as_json:
            for found in _snapshots(workspace, interval):
                console.json(found)
        elif console.data.is_terminal:
            _redraw(console, workspace, interval)
        else:
            for found in _snapshots(workspace, interval):
                for line in _plain_lines(found):
                    print_line(console, line)
    except KeyboardInterrupt:
        error = VqaError("stopped watching", "what runs goes on; vqa status shows it once")
        error.exit_code = INTERRUPTED
        raise error from None


def _snapshots(workspace: Workspace, interval: float) -> Iterator[dict[str, Any]]:
    from stages.artifacts import inspect

    while True:
        yield inspect.workspace_status(workspace)
        time.sleep(interval)


def _redraw(console: Console, workspace: Workspace, interval: float) -> None:
    with Live(console=console.data, auto_refresh=False) as live:
        for found in _snapshots(workspace, interval):
            shown = [row for row in found["artifacts"] if row["state"] != "finished"]
            parts: list[RenderableType] = [*_busy(shown)]
            parts += [_grid(found, shown)] if shown else ["nothing is running"]
            live.update(Group(*parts, *_problems(shown), _sums(found)), refresh=True)


def _busy(rows: list[dict[str, Any]]) -> list[Text]:
    """What is being written, and how fast."""
    return [
        Text(f"{row['kind']}/{row['id']}: {_in_words(row)}", STYLES["running"])
        for row in rows
        if row["state"] == "running"
    ]


def _grid(found: dict[str, Any], rows: list[dict[str, Any]]) -> Table:
    """Artifacts below the stage that makes them; fits eighty columns."""
    grid = Table(title=found["workspace"], title_justify="left", box=SIMPLE_HEAD)
    grid.add_column("artifact", overflow="fold")
    grid.add_column("state", no_wrap=True)
    for name in ("shards", "done", "failed", "size"):
        grid.add_column(name, justify="right", no_wrap=True)
    stage = ""
    for row in rows:
        if row["stage"] != stage:
            stage = row["stage"]
            grid.add_row(Text(stage, "bold"))
        state = Text(row["state"], STYLES.get(row["state"], ""))
        grid.add_row(Text(f" {row['id']}"), state, *_figures(row))
    return grid


def _problems(rows: list[dict[str, Any]]) -> list[Text]:
    """Why artifacts are stale or cannot be read."""
    stale = [Text(f"stale {row['id']}: {why}") for row in rows for why in row["stale_why"]]
    return stale + [Text(f"{row['id']}: {row['problem']}") for row in rows if row["problem"]]


def _sums(found: dict[str, Any]) -> Text:
    count = len(found["artifacts"])
    return Text(f"{count} artifacts, {_size(found['bytes'])}; {_size(found['free'])} free")


def _figures(row: dict[str, Any]) -> list[str]:
    return [_shards(row), _done(row), str(row["failed"]), _size(row["bytes"])]


def _shards(row: dict[str, Any]) -> str:
    """`3/8`, and how many are being built."""
    if not row["shards"]:
        return "-"
    running = f" +{row['shards_running']}" if row["shards_running"] else ""
    return f"{row['shards_done']}/{row['shards']}{running}"


def _done(row: dict[str, Any]) -> str:
    """Items; of a training the forward passes."""
    if row["training"]:
        return f"{row['training']['pass']} passes"
    if row["state"] in ("running", "unfinished") and row["total"]:
        return f"{row['done']}/{row['total']}"
    return str(row["done"])


def _pace(row: dict[str, Any]) -> list[str]:
    rate = "-" if row["rate"] is None else f"{row['rate']:.1f}/s"
    return [rate, "-" if row["eta_seconds"] is None else duration(row["eta_seconds"])]


def _plain_lines(found: dict[str, Any]) -> list[str]:
    """One line for each artifact that is being written or was left."""
    now = time.strftime("%H:%M:%S")
    busy = [row for row in found["artifacts"] if row["state"] in ("running", "unfinished")]
    if not busy:
        return [f"{now} nothing is running; {len(found['artifacts'])} artifacts"]
    return [f"{now} {row['state']} {row['kind']}/{row['id']}: {_in_words(row)}" for row in busy]


def _in_words(row: dict[str, Any]) -> str:
    parts = [f"{_shards(row)} shards"] if row["shards"] else []
    parts += [f"{_done(row)} done", f"{row['failed']} failed", _size(row["bytes"])]
    if row["rate"] is not None:
        rate, left = _pace(row)
        parts += [rate, f"{left} left"]
    return ", ".join(parts)


def print_line(console: Console, line: str) -> None:
    """One plain line, out at once: a log file is being followed."""
    console.data.print(Text(line), soft_wrap=True)
    console.data.file.flush()


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
