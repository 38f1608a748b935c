"""How long `vqa --help` and every `vqa COMMAND --help` take, beside an empty typer app.

    python benchmarks/help_time.py [--rounds 9] [--command eval]...

The empty app is one file with as many commands, and as many options on each, as `vqa` has: what
typer itself costs for a surface of that size. Both are started anew each time and take turns.
Prints one JSON object: medians of wall seconds and of seconds on the processor (less disturbed by
what else runs), and their ratios, for which the target is 1.3.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from vqa_cli.main import parser as vqa_parser

TARGET = 1.3
ROUNDS = 9


def surface() -> dict[str, int]:
    """Every command of `vqa`, and how many options and arguments it has."""
    return {name: len(command.params) for name, command in _leaves()}


def _leaves() -> Iterator[tuple[str, Any]]:
    for name, command in vqa_parser().commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {each}", found) for each, found in inner.items())


def empty_app(commands: dict[str, int]) -> str:
    """Source of the app; `bench decode` is called `bench-decode` there."""
    lines = ["import typer", "app = typer.Typer()"]
    for name, count in commands.items():
        lines += [f"@app.command({joined(name)!r})", "def _("]
        lines += [
            f"    o{number}: str = typer.Option('', help='An option of this command.'),"
            for number in range(count)
        ]
        lines += [") -> None:", "    '''A command that does nothing.'''"]
    return "\n".join([*lines, "app()", ""])


def joined(name: str) -> str:
    """The name of a command in the empty app."""
    return name.replace(" ", "-")


def timed(command: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one process that must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compared(ours: list[str], theirs: list[str], rounds: int) -> dict[str, Any]:
    """Medians of both and the ratios; one round before the first is not counted."""
    pairs = [(timed(ours), timed(theirs)) for _ in range(rounds + 1)][1:]
    row: dict[str, Any] = {}
    for index, unit in enumerate(("seconds", "processor_seconds")):
        mine, empty = (statistics.median(pair[side][index] for pair in pairs) for side in (0, 1))
        row |= {f"vqa_{unit}": round(mine, 4), f"empty_{unit}": round(empty, 4)}
        row[f"ratio_{unit}"] = round(mine / empty, 3)
    return row


def main() -> None:
    """Build, run in turns, print."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--rounds", type=int, default=ROUNDS)
    reader.add_argument("--command", action="append", help="only these [all, and vqa itself]")
    given = reader.parse_args()
    commands = surface()
    chosen = given.command or ["", *commands]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "empty.py"
        script.write_text(empty_app(commands), encoding="utf-8")
        for name in chosen:
            ours = [sys.executable, "-m", "vqa_cli", *name.split(), "--help"]
            theirs = [sys.executable, str(script), *([joined(name)] if name else []), "--help"]
            rows[f"vqa {name} --help".replace("  ", " ")] = compared(ours, theirs, given.rounds)
    worst = max(row["ratio_seconds"] for row in rows.values())
    facts = {
        "what": "vqa --help beside an empty typer app",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", *sys.argv]),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "typer": metadata.version("typer"),
            "load_at_start": round(os.getloadavg()[0], 2),
        },
        "commands": len(commands),
        "options": sum(commands.values()),
        "rounds": given.rounds,
        "rows": rows,
        "target": TARGET,
        "worst_ratio": worst,
        "met": worst <= TARGET,
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
