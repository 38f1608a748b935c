"""A figure against a swept setting, as one SVG that needs nothing else: the papers' K curves.

Reads: nothing.   Writes: nothing; the caller keeps the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from stages.core.errors import UsageError

LEFT, RIGHT, TOP, BOTTOM = 70.0, 470.0, 40.0, 340.0
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by people with any colour vision (Okabe and Ito)."""
FIGURES = ("accuracy", "R@1", "R1@0.5")
SEED = "seed"
NUM_TICKS = 5


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
    scale = _Scale(sorted({x for line in lines.values() for x in line}), [*values, *ends])
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    source = (resources.files("stages.report_page") / "curve.svg.j2").read_text("utf-8")
    return environment.from_string(source).render(
        title=title,
        x_name=x_name,
        y_name=f"{figure}, percent",
        x_ticks=[{"at": scale.x(x), "label": f"{x:g}"} for x in scale.along],
        y_ticks=[{"at": scale.y(y), "label": f"{y:g}"} for y in scale.ticks],
        lines=[_drawn(name, line, i, scale) for i, (name, line) in enumerate(lines.items())],
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


class _Scale:
    """Where values lie on the picture; x by doublings when it spans a factor of eight."""

    def __init__(self, along: list[float], values: list[float]) -> None:
        self.along = along
        self.logarithmic = along[0] > 0 and along[-1] >= 8 * along[0]
        span = max(max(values) - min(values), 1.0)
        step = _round_step(span / (NUM_TICKS - 1))
        low, high = math.floor(min(values) / step), math.ceil(max(values) / step)
        self.ticks = [step * number for number in range(low, high + 1)]

    def x(self, value: float) -> float:
        """Pixels from the left."""
        first, last, own = (
            math.log2(v) if self.logarithmic else v for v in (self.along[0], self.along[-1], value)
        )
        return round(LEFT + 20 + (RIGHT - LEFT - 40) * (own - first) / ((last - first) or 1.0), 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.ticks[0], self.ticks[-1]
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / ((high - low) or 1.0), 1)


def _round_step(least: float) -> float:
    """The least of 1, 2, 5, 10, 20, ... (or a tenth, ...) that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least - 1e-9)


def _drawn(name: str, line: Line, number: int, scale: _Scale) -> dict[str, Any]:
    """A line for the template."""
    means = {x: sum(values) / len(values) for x, (values, _) in line.items()}
    return {
        "name": name,
        "color": COLORS[number % len(COLORS)],
        "legend": 60 + 22 * number,
        "path": " ".join(f"{scale.x(x)},{scale.y(mean)}" for x, mean in means.items()),
        "means": [
            {"at": scale.x(x), "y": scale.y(mean), "label": f"{x:g}: {mean:.1f}"}
            for x, mean in means.items()
        ],
        "singles": [
            {"at": scale.x(x), "y": scale.y(value)}
            for x, (values, _) in line.items()
            for value in values
            if len(values) > 1
        ],
        "bars": [
            {"at": scale.x(x), "low": scale.y(bar[0]), "high": scale.y(bar[1])}
            for x, (_, bar) in line.items()
            if bar
        ],
    }
