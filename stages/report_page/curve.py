"""A figure against a swept setting, as one SVG that needs nothing else: the papers' K curves.

Reads: nothing.   Writes: nothing; the caller keeps the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from stages.core.errors import UsageError
from stages.report_page.scales import Scale, percents

LEFT, RIGHT, TOP, BOTTOM = 70.0, 470.0, 40.0, 340.0
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by people with any colour vision (Okabe and Ito)."""
FIGURES = ("accuracy", "R@1", "R1@0.5")
SEED = "seed"
NUM_STEPS = 4


def swept_number(combined: Sequence[Mapping[str, Any]]) -> str | None:
    """The first swept setting with two numbers, which a curve can run along."""
    for name in combined[0] if combined else ():
        values = {settings[name] for settings in combined}
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if name != SEED and numbers and len(values) > 1:
            return name
    return None


@dataclass(frozen=True)
class Measured:
    """One combination of a sweep.

    Attributes:
        settings: What was swept, by name.
        metrics: What came out, in percent.
    """

    settings: Mapping[str, Any]
    metrics: Mapping[str, Any]


def sweep_curve(measured: Sequence[Measured], title: str) -> str:
    """The first swept number along, accuracy (or its benchmark's like) up; an SVG.

    Other swept settings give a line each. Seeds are averaged, each one a faint point; with a
    single seed the bar is its 95 % interval.

    Raises:
        UsageError: No swept setting has two numbers, or nothing was measured.
    """
    figure = next((name for name in FIGURES if any(name in m.metrics for m in measured)), None)
    x_name = swept_number([m.settings for m in measured])
    if figure is None or x_name is None:
        raise UsageError(
            "a curve needs a swept setting with two numbers at least, and a figure for each",
            '--sweep "keep=1,2,4", with --evaluate where networks are trained',
        )
    lines = _lines([m for m in measured if figure in m.metrics], x_name, figure)
    values = [value for line in lines.values() for found in line.values() for value in found[0]]
    ends = [end for line in lines.values() for _, bar in line.values() for end in bar]
    along = _along(sorted({x for line in lines.values() for x in line}))
    up = percents([*values, *ends], BOTTOM, TOP, steps=NUM_STEPS)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    source = (resources.files("stages.report_page") / "curve.svg.j2").read_text("utf-8")
    return environment.from_string(source).render(
        title=title,
        x_name=x_name,
        y_name=f"{figure}, percent",
        x_ticks=[{"at": at, "label": label} for at, label in along.marked()],
        y_ticks=[{"at": at, "label": label} for at, label in up.marked()],
        lines=[_drawn(name, line, i, along, up) for i, (name, line) in enumerate(lines.items())],
    )


Line = dict[float, tuple[list[float], Sequence[float]]]
"""x -> the seeds' values, and the interval of a single one."""


def _lines(measured: Sequence[Measured], x_name: str, figure: str) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for item in measured:
        others = {k: v for k, v in item.settings.items() if k not in (x_name, SEED)}
        name = ", ".join(f"{key} {value}" for key, value in others.items())
        values, bar = lines.setdefault(name, {}).setdefault(item.settings[x_name], ([], []))
        values.append(item.metrics[figure])
        bar = item.metrics.get("ci95", []) if figure == "accuracy" and len(values) == 1 else []
        lines[name][item.settings[x_name]] = (values, bar)
    return {name: dict(sorted(line.items())) for name, line in lines.items()}


def _along(places: Sequence[float]) -> Scale:
    """The axis of the swept setting; by doublings when it spans a factor of eight."""
    low, high = min(places), max(places)
    doublings = low > 0 and high >= 8 * low
    return Scale(low, high, LEFT + 20, RIGHT - 20, tuple(places), logarithmic=doublings)


def _drawn(name: str, line: Line, number: int, along: Scale, up: Scale) -> dict[str, Any]:
    """A line for the template."""
    means = {x: sum(values) / len(values) for x, (values, _) in line.items()}
    return {
        "name": name,
        "color": COLORS[number % len(COLORS)],
        "legend": 60 + 22 * number,
        "path": " ".join(f"{along.at(x)},{up.at(mean)}" for x, mean in means.items()),
        "means": [
            {"at": along.at(x), "y": up.at(mean), "label": f"{x:g}: {mean:.1f}"}
            for x, mean in means.items()
        ],
        "singles": [
            {"at": along.at(x), "y": up.at(value)}
            for x, (values, _) in line.items()
            for value in values
            if len(values) > 1
        ],
        "bars": [
            {"at": along.at(x), "low": up.at(bar[0]), "high": up.at(bar[1])}
            for x, (_, bar) in line.items()
            if bar
        ],
    }
