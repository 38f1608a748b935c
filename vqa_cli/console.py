"""Everything printed: data on stdout, talk on stderr.

With `--json` stdout carries one object. Progress is a bar on a terminal and a line every half
minute elsewhere, so that a log file stays readable.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import rich.console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from stages.artifacts.result import StageResult
from stages.core.errors import VqaError

PLAIN_PROGRESS_SECONDS = 30.0


class Console:
    """The printer of one command."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, debug: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.talk = rich.console.Console(stderr=True, highlight=False)
        self.data = rich.console.Console(highlight=False)
        self._bar: Progress | None = None
        self._task: Any = None
        self._what = ""
        self._last_line = time.monotonic()
        logging.basicConfig(
            level=logging.INFO if debug else logging.WARNING,
            format="%(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )

    def note(self, text: str) -> None:
        """One sentence for the person at the terminal."""
        if not self.quiet:
            self.talk.print(text, markup=False, soft_wrap=True)

    def progress(self, done: int, total: int, what: str) -> None:
        """`done` of `total` items of `what` are ready; the `Progress` of stages."""
        if self.quiet:
            return
        if not self.talk.is_terminal:
            self._progress_line(done, total, what)
            return
        if self._bar is None or what != self._what:
            self._start_bar(total, what)
        assert self._bar is not None
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self.end_progress()

    def _progress_line(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if now - self._last_line >= PLAIN_PROGRESS_SECONDS:
            self._last_line = now
            self.talk.print(f"{what}: {done} of {total}", markup=False)

    def _start_bar(self, total: int, what: str) -> None:
        self.end_progress()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.talk,
            transient=True,
        )
        self._bar.start()
        self._what = what
        self._task = self._bar.add_task(escape(what), total=total)

    def end_progress(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def json(self, value: Any) -> None:
        """One JSON object on stdout."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def stage(self, command: str, results: list[StageResult]) -> None:
        """What a stage did; with several splits the JSON carries all and, as `artifact`, the last.

        Args:
            command: Name of the command.
            results: One result per artifact.
        """
        self.end_progress()
        if self.as_json:
            self.json(_stage_json(command, results))
            return
        for result in results:
            self._stage_lines(result)
        following = results[-1].next
        if following and not self.quiet:
            self.talk.print("next:", *following, sep="\n  ", markup=False, soft_wrap=True)

    def _stage_lines(self, result: StageResult) -> None:
        counts = result.counts
        verb = "reused" if result.reused else ("written" if result.artifact else "unfinished")
        summary = f"{counts.get('done', 0)} of {counts.get('total', 0)}"
        if counts.get("failed"):
            summary += f", {counts['failed']} failed (failures.parquet)"
        self.data.print(
            f"{verb} {result.draft['kind']} {result.draft['id']}: {summary}"
            f" in {result.seconds:.1f} s",
            markup=False,
            soft_wrap=True,
        )
        self.data.print(f"  {result.draft['path']}", markup=False, soft_wrap=True)
        for text in result.notes:
            self.note(f"  {text}")

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        """A table on stdout; the first column is text, the others are numbers."""
        grid = Table(title=title or None, title_justify="left")
        for number, column in enumerate(columns):
            grid.add_column(
                column, justify="right" if number else "left", overflow="fold", no_wrap=number > 0
            )
        for row in rows:
            grid.add_row(*(escape(cell) for cell in row))
        self.data.print(grid)

    def error(self, error: VqaError) -> None:
        """One error, as JSON on stdout or as two lines on stderr."""
        self.end_progress()
        if self.as_json:
            code = error.exit_code
            self.json({"error": {"code": code, "message": error.message, "hint": error.hint}})
            return
        self.talk.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
        if error.hint:
            self.talk.print(f"[bold]hint:[/] {escape(error.hint)}", soft_wrap=True)


def _stage_json(command: str, results: list[StageResult]) -> dict[str, Any]:
    objects = [result.as_json(command) for result in results]
    if len(objects) == 1:
        return objects[0]
    counts: dict[str, int] = {}
    for result in results:
        for name, value in result.counts.items():
            counts[name] = counts.get(name, 0) + value
    return {
        **objects[-1],
        "artifacts": [item["artifact"] for item in objects],
        "reused": all(result.reused for result in results),
        "counts": counts,
        "inputs": sorted({name for result in results for name in result.inputs}),
        "seconds": round(sum(result.seconds for result in results), 3),
    }


def failures_exit_code(results: list[StageResult], max_failures: float) -> int:
    """1 when any artifact has more failures than allowed, else 0."""
    return int(any(result.failure_share > max_failures for result in results))
