"""`--sweep "frames=8,16,32 keep=1,4"`: one command, every combination, one table."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import ConfigError, UsageError
from vqa_cli.console import Console
from vqa_cli.options import COMPUTED
from vqa_cli.settings import assign, parse_value

if TYPE_CHECKING:
    from stages.artifacts.result import StageResult

Settings = dict[str, Any]
PlotOption = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE.svg",
        help="With --sweep: the accuracy against the first swept number as a picture [none].",
        rich_help_panel=COMPUTED,
    ),
]
SHOWN = ("accuracy", "keyframe_recall", "keyframe_precision")


@dataclass(frozen=True)
class Swept:
    """One combination: what came out, or why it is impossible."""

    settings: Settings
    result: StageResult | None
    skipped: str = ""

    def as_json(self) -> dict[str, Any]:
        """For the JSON."""
        if self.result is None:
            return {"settings": self.settings, "skipped": self.skipped}
        return {"settings": self.settings, **self.result.as_json("eval")}

    def row(self, names: Sequence[str]) -> list[str]:
        """Its line of the table."""
        own = [str(self.settings[name]) for name in names]
        if self.result is None:
            return [*own, self.skipped, "", "", "", ""]
        facts = self.result.details
        metrics = facts["metrics"]
        interval = "{:.1f} - {:.1f}".format(*metrics["ci95"]) if "ci95" in metrics else "-"
        first, *others = (_shown(metrics.get(name)) for name in SHOWN)
        return [*own, first, interval, *others, _shown(facts["ms_per_video"])]


def columns(names: Sequence[str]) -> list[str]:
    """Heads of the table."""
    return [*names, "accuracy", "95 % interval", "keyframe recall", "precision", "ms a question"]


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "-"


def combinations(text: str) -> list[Settings]:
    """Every combination of `name=value,value` groups, the last group changing fastest.

    Raises:
        UsageError: A group is not of that form, or a name or a value occurs twice.
    """
    groups: dict[str, list[Any]] = {}
    for part in text.split():
        name, separator, values = part.partition("=")
        if not (separator and name and values) or name in groups:
            raise UsageError(
                f"--sweep: {part!r} is not of the form name=value,value, or occurs twice",
                '--sweep "frames=8,16,32 keep=1,4"',
            )
        groups[name] = [parse_value(value) for value in values.split(",")]
        if len(set(values.split(","))) < len(groups[name]):
            raise UsageError(f"--sweep: {part!r} has a value twice", "each one once")
    if not groups:
        raise UsageError("--sweep is empty", '--sweep "frames=8,16,32 keep=1,4"')
    return [
        dict(zip(groups, chosen, strict=True)) for chosen in itertools.product(*groups.values())
    ]


def check_plot(plot: Path | None, combined: Sequence[Settings]) -> None:
    """Before anything is computed: can this sweep be drawn, and into this file?

    Raises:
        UsageError: No swept setting has two numbers, or the file is a folder.
    """
    if plot is None:
        return
    from stages.artifacts import atomic
    from stages.report_page.curve import swept_number

    if swept_number(combined) is None:
        raise UsageError(
            "--plot: no swept setting has two numbers", '--sweep "keep=1,2,4,8" --plot curve.svg'
        )
    if plot.is_dir():
        raise UsageError(f"--plot {plot} is a folder", f"--plot {plot / 'curve.svg'}")
    atomic.make_directory(plot.parent)


def draw_sweep(
    console: Console,
    plot: Path | None,
    title: str,
    measured: Sequence[tuple[Settings, Mapping[str, Any]]],
) -> None:
    """Write the sweep's curve to the file that the user named, if there is one."""
    if plot is None or not measured:
        return
    from stages.artifacts import atomic
    from stages.report_page.curve import Measured, sweep_curve

    atomic.write_text(plot, sweep_curve([Measured(*pair) for pair in measured], title))
    console.note(f"curve: {plot}")


def run_sweep(
    console: Console,
    text: str,
    values: Mapping[str, Any],
    evaluate: Callable[[Settings], StageResult],
    *,
    plot: Path | None = None,
    title: str = "",
) -> list[StageResult]:
    """Evaluate every combination over `values` and print one table (or its JSON).

    A combination that is impossible is a line with its reason.

    Args:
        console: Where to print.
        text: What `--sweep` says.
        values: Settings of the command.
        evaluate: Runs one evaluation.
        plot: Where the curve goes; none: nowhere.
        title: Of the curve.

    Returns:
        What came out of the possible ones.
    """
    combined = combinations(text)
    check_plot(plot, combined)
    done = [_one(values, settings, evaluate) for settings in combined]
    measured = [
        (item.settings, item.result.details["metrics"]) for item in done if item.result is not None
    ]
    draw_sweep(console, plot, title, measured)
    if console.as_json:
        console.json({"command": "eval", "sweep": [item.as_json() for item in done]})
    else:
        names = list(combined[0])
        console.end_progress()
        console.table("", columns(names), [item.row(names) for item in done])
    return [item.result for item in done if item.result is not None]


def plan_sweep(
    console: Console,
    text: str,
    values: Mapping[str, Any],
    plan: Callable[[Settings], dict[str, Any]],
) -> None:
    """What every combination would do; an impossible one has its reason in place of a plan."""
    planned: list[tuple[str, dict[str, Any]]] = []
    for settings in combinations(text):
        label = ", ".join(f"{name} {value}" for name, value in settings.items())
        try:
            planned.append((label, plan(_over(values, settings))))
        except (UsageError, ConfigError) as error:
            planned.append((label, {"skipped": error.message}))
    console.plans("eval", planned)


def _over(values: Mapping[str, Any], settings: Settings) -> Settings:
    """A combination over the command's values."""
    merged = copy.deepcopy(dict(values))
    for name, value in settings.items():
        assign(merged, name, value)
    return merged


def _one(
    values: Mapping[str, Any], settings: Settings, evaluate: Callable[[Settings], StageResult]
) -> Swept:
    try:
        return Swept(settings, evaluate(_over(values, settings)))
    except (UsageError, ConfigError) as error:
        return Swept(settings, None, error.message)
