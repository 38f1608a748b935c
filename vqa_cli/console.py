"""Everything printed: data on stdout, talk on stderr.

With `--json` stdout carries one object. Progress is a bar on a terminal and a line every half
minute elsewhere, so that a log file stays readable.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import rich.console
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from rich.progress import Progress

    from stages.artifacts.result import StageResult
    from stages.artifacts.store import Artifact
    from stages.core.errors import VqaError

PLAIN_PROGRESS_SECONDS = 30.0
PIPE_WIDTH = 160
NO_WIDTH = 1_000_000
"""Columns that no table has."""

FIRST_METRICS = (
    "accuracy", "accuracy_all", "accuracy_macro", "by_type", "by_group", "ci95",
    "keyframe_recall", "keyframe_precision", "keyframe_recall_random",
)  # fmt: skip
"""Metrics in the order of the table; the others follow by name, numbers in them by value."""


class Console:
    """The printer of one command."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        debug: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.as_json = as_json
        # Of the processes that torchrun or accelerate started together only the first one talks.
        self.first = os.environ.get("RANK", "0") == "0"
        self.quiet = quiet or not self.first
        self.talk = rich.console.Console(stderr=True, highlight=False)
        self.data = rich.console.Console(highlight=False, width=_data_width())
        self._bar: Progress | None = None
        self._task: Any = None
        self._what = ""
        self._clock = clock
        self._last_line = clock()
        self._began = (self._last_line, 0)
        """When the current kind of items began, and how many were done by then."""
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
        if not _can_redraw(self.talk):
            self._progress_line(done, total, what)
            return
        if self._bar is None or what != self._what:
            self._start_bar(total, what)
        assert self._bar is not None
        self._bar.update(self._task, completed=done, total=total)
        if done >= total:
            self.end_progress()

    def _progress_line(self, done: int, total: int, what: str) -> None:
        now = self._clock()
        if what != self._what:
            self._what, self._began, self._last_line = what, (now, done), now
        if now - self._last_line >= PLAIN_PROGRESS_SECONDS and done > self._began[1]:
            self._last_line = now
            rate = (done - self._began[1]) / max(now - self._began[0], 1e-9)
            left = f"{rate_text(rate)}, about {duration((total - done) / rate)} left"
            counted = f"{what}: {done:,} of {total:,}, {left}"
            self.talk.print(counted, markup=False, soft_wrap=True)

    def _start_bar(self, total: int, what: str) -> None:
        self.end_progress()
        self._bar = _bar(self.talk)
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
        if not self.first:
            return
        encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
        sys.stdout.write(json.dumps(value, ensure_ascii=not encoding.startswith("utf")) + "\n")
        sys.stdout.flush()

    def stage(self, command: str, results: list[StageResult]) -> None:
        """What a stage did; with several splits the JSON carries all and, as `artifact`, the last.

        Args:
            command: Name of the command.
            results: One result per artifact.
        """
        self.end_progress()
        if not self.first:
            return
        if self.as_json:
            self.json(_stage_json(command, results))
            return
        for result in results:
            self._stage_lines(result)
        following = results[-1].next
        if following and not self.quiet:
            self.talk.print("next:", *following, sep="\n  ", markup=False, soft_wrap=True)

    def _stage_lines(self, result: StageResult) -> None:
        if self.quiet:
            self.data.print(result.draft["id"], markup=False, soft_wrap=True)
            return
        counts = result.counts
        verb = "reused" if result.reused else ("written" if result.artifact else "unfinished")
        summary = f"{counts.get('done', 0):,} of {counts.get('total', 0):,}"
        if counts.get("failed"):
            summary += f", {counts['failed']:,} failed (failures.parquet)"
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
        """A table on stdout; columns of words are set left, numbers right.

        The title stands before it, as long as it is. Where nobody looks, a wide table is not cut.
        """
        if title:
            self.data.print(title, markup=False, soft_wrap=True)
        grid = Table(box=SIMPLE_HEAD)
        for number, column in enumerate(columns):
            words = any(any(c.isalpha() for c in row[number].split(" ")[0]) for row in rows)
            grid.add_column(
                column, justify="left" if words else "right", overflow="fold", no_wrap=number > 0
            )
        for row in rows:
            grid.add_row(*(escape(cell) for cell in row))
        if not self.data.is_terminal:
            whole = self.data.measure(grid, options=self.data.options.update(max_width=NO_WIDTH))
            self.data.width = max(PIPE_WIDTH, whole.maximum)
        self.data.print(grid)

    def evaluation(self, result: StageResult) -> None:
        """Metrics of an evaluation."""
        self.end_progress()
        if self.as_json:
            self.json(result.as_json("eval"))
            return
        self._stage_lines(result)
        facts = result.details
        if not facts.get("metrics"):
            return
        counts = f"{facts['n_scored']:,} scored, {facts['n_failed']:,} failed"
        rows = _metric_rows(facts["metrics"])
        self.table(
            f"{facts['benchmark']} {facts['split']}, {facts['system']}: {counts}",
            ["metric", "value"],
            rows,
        )

    def demo(self, result: dict[str, Any]) -> None:
        """The demo's table and where the report is."""
        columns = ["system", "seed", "frames", "accuracy", "95 % interval", "keyframe recall"]
        rows = [
            [
                row["name"],
                str(row["seed"]),
                f"{row['frames']} -> {row['keep']}" if row["frames"] else "-",
                f"{row['accuracy']:.1f}",
                "{:.1f} - {:.1f}".format(*row["ci95"]) if row["ci95"] else "-",
                _number(row["keyframe_recall"]),
                _number(row["keyframe_precision"]),
                _number(row["ms_per_video"]),
            ]
            for row in result["rows"]
        ]
        self.table("", [*columns, "precision", "ms a question"], rows)
        self.data.print(f"report: {result['report']}", markup=False, soft_wrap=True)
        self.note(f"{result['seconds']:.0f} s")

    def benchmark(self, manifest: Any, prepared: set[tuple[str, str]]) -> None:
        """One benchmark in full."""
        self.data.print(f"{manifest.name}: {manifest.title}", markup=False)
        self.data.print(f"{manifest.citation}\nlicence: {manifest.licence}", markup=False)
        for line in manifest.get:
            self.data.print(f"  {line}", markup=False, soft_wrap=True)
        rows = [
            [
                name,
                ", ".join(split.roles) or "-",
                f"{split.questions:,}" if split.questions else "?",
                f"{split.videos:,}" if split.videos else "?",
                "yes" if split.labelled else "no",
                "yes" if (manifest.name, name) in prepared else "-",
            ]
            for name, split in manifest.splits.items()
        ]
        columns = ["split", "used to", "questions", "videos", "answers", "prepared here"]
        self.table("", columns, rows)

    def manifest(self, artifact: Artifact) -> None:
        """The manifest of one artifact."""
        if self.as_json:
            self.json(artifact.manifest | {"path": str(artifact.path)})
            return
        text = json.dumps(artifact.manifest, indent=2, ensure_ascii=False)
        self.data.print(str(artifact.path), markup=False, soft_wrap=True)
        self.data.print(text, markup=False, soft_wrap=True)

    def plans(self, command: str, plans: list[tuple[str, dict[str, Any]]]) -> None:
        """What `--dry-run` found out, per split."""
        self.end_progress()
        if self.as_json:
            self.json({"command": command, "dry_run": True, "plans": dict(plans)})
            return
        names = list(dict.fromkeys(name for _, plan in plans for name in plan))
        rows = [
            [label, *(_fact(name, plan[name]) if name in plan else "" for name in names)]
            for label, plan in plans
        ]
        self.table("", ["plan", *names], rows)

    def plan(self, command: str, plan: dict[str, Any]) -> None:
        """What the `--dry-run` of training and evaluation found out; one line a fact."""
        self.end_progress()
        if self.as_json:
            self.json({"command": command, "dry_run": True, "plan": plan})
            return
        for name, value in plan.items():
            self.data.print(f"{_words(name)}: {_fact(name, value)}", markup=False, soft_wrap=True)

    def steps(self, title: str, steps: list[dict[str, Any]]) -> None:
        """The plan of a recipe: each command line, and under it what it would cost."""
        self.note(title)
        for step in steps:
            self.data.print("vqa " + shlex.join(step["command"]), markup=False, soft_wrap=True)
            for line in _plan_lines(step):
                self.data.print(f"  {line}", markup=False, soft_wrap=True)

    def error(self, error: VqaError) -> None:
        """One error, as JSON on stdout or as two lines on stderr."""
        self.end_progress()
        if self.as_json and self.first:
            code = error.exit_code
            self.json({"error": {"code": code, "message": error.message, "hint": error.hint}})
            return
        self.talk.print(f"[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
        if error.hint:
            self.talk.print(f"[bold]hint:[/] {escape(error.hint)}", soft_wrap=True)


def _can_redraw(console: rich.console.Console) -> bool:
    """Whether a bar can be drawn over itself: colour that was forced into a pipe is no terminal."""
    watched = sys.stderr.isatty() and not os.environ.get("CI")
    return watched and console.is_terminal and not console.is_dumb_terminal


def _bar(console: rich.console.Console) -> Progress:
    """A bar with count, rate and time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Items a second, once there are some."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else rate_text(task.speed))

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )


def rate_text(per_second: float) -> str:
    """`3.1/s`, and `4.0/min` where a second is too short a time."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{60 * per_second:.1f}/min"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _data_width() -> int | None:
    """Tables in files and pipes are not cut to the eighty columns of no terminal."""
    return None if sys.stdout.isatty() else PIPE_WIDTH


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


def _metric_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """Metrics as table rows; groups are indented. One order, new or read back from a manifest."""
    rows = []
    for name in sorted(metrics, key=_place):
        value = metrics[name]
        if isinstance(value, dict):
            rows += [[f"  {part}", f"{value[part]:.2f}"] for part in sorted(value, key=_by_number)]
        elif isinstance(value, list):
            rows.append([name, " - ".join(f"{number:.2f}" for number in value)])
        else:
            rows.append([name, f"{value:.2f}"])
    return rows


def _place(metric: str) -> tuple[int, list[tuple[str, int]]]:
    known = metric in FIRST_METRICS
    return FIRST_METRICS.index(metric) if known else len(FIRST_METRICS), _by_number(metric)


def _by_number(name: str) -> list[tuple[str, int]]:
    """A key by which `R@5` comes before `R@10`."""
    return [(words, int(digits or 0)) for words, digits in re.findall(r"(\D*)(\d*)", name)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _fact(name: str, value: Any) -> str:
    """One value of a plan for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{_words(key)} {_fact(key, each)}" for key, each in value.items())
    return value if isinstance(value, str) else _amount(name, value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _plan_lines(step: dict[str, Any]) -> list[str]:
    """What is known of one step of a recipe before it runs."""
    if step["plan"] is None:
        return [step["note"]] if step["note"] else []
    plans = step["plan"].get("plans") or {"": step["plan"]["plan"]}
    lines = []
    for label, plan in plans.items():
        facts = [f"{_words(name)} {_fact(name, value)}" for name, value in plan.items()]
        lines.append(f"{label}: {', '.join(facts)}" if label else ", ".join(facts))
    return lines


def _amount(name: str, value: float | None) -> str:
    """A number of a plan for people."""
    if value is None:
        return "-"
    if name.endswith("bytes") or name == "free":
        return f"{value / 1e9:,.2f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"
    return f"{value:,.0f}"


def failures_exit_code(results: list[StageResult], max_failures: float) -> int:
    """1 when any artifact has more failures than allowed, else 0."""
    return int(any(result.failure_share > max_failures for result in results))
