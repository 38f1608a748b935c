"""Where values lie on a drawing, and the round numbers written beside its axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LOGARITHMIC_FROM = 10.0
"""Positive values that spread by more than this factor lie by their logarithm."""


@dataclass(frozen=True)
class Scale:
    """One axis.

    Attributes:
        low: Value at the beginning of the axis.
        high: Value at its end.
        first: Where it begins, in the drawing's units.
        last: Where it ends.
        ticks: Round values, ascending.
        logarithmic: Equal distances are equal factors.
    """

    low: float
    high: float
    first: float
    last: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The place of a value, kept inside the axis."""
        low, high, own = (
            math.log(max(v, 1e-12)) if self.logarithmic else v for v in (self.low, self.high, value)
        )
        share = min(max((own - low) / ((high - low) or 1.0), 0.0), 1.0)
        return round(self.first + share * (self.last - self.first), 1)

    def marked(self) -> list[tuple[float, str]]:
        """Place and label of every tick."""
        return [(self.at(tick), short(tick)) for tick in self.ticks]


def short(value: float) -> str:
    """A round number in few characters."""
    if 0 < abs(value) < 0.01 or abs(value) >= 1e5:
        digits, power = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:g}"


def finite(values: Iterable[float | None]) -> list[float]:
    """Those that can be drawn."""
    return [value for value in values if value is not None and math.isfinite(value)]


def round_step(least: float) -> float:
    """The least of 1, 2, 5, 10, 20, ... (or of their tenths, ...) that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least - 1e-9)


def linear(values: Sequence[float], first: float, last: float, *, steps: int = 5) -> Scale:
    """An axis from a round number to a round number around finite `values`."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        room = 0.1 * max(abs(low), 1.0)
        # What is never negative, such as a loss of 0, has no axis below 0.
        low, high = low - room if low < 0 else max(low - room, 0.0), high + room
    span = high - low
    step = round_step(span / steps)
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    end = max(end, begin + 1)
    digits = max(0, -math.floor(math.log10(step)))
    ticks = tuple(round(number * step, digits) for number in range(begin, end + 1))
    return Scale(ticks[0], ticks[-1], first, last, ticks)


LEAST_POINTS = 10.0
"""An axis of percents is no shorter: a difference of a tenth must not look like a large one."""


def percents(values: Sequence[float], first: float, last: float, *, steps: int = 5) -> Scale:
    """An axis within 0 and 100 around finite percents; around others one as `linear` makes it."""
    low, high = (min(values), max(values)) if values else (0.0, 100.0)
    if low < 0 or high > 100:
        return linear(values, first, last, steps=steps)
    room = max(LEAST_POINTS - (high - low), 0.0) / 2
    low = min(max(low - room, 0.0), 100.0 - LEAST_POINTS)
    high = max(min(high + room, 100.0), low + LEAST_POINTS)
    return linear([low, high], first, last, steps=steps)


def spread_out(values: Sequence[float], first: float, last: float) -> Scale:
    """An axis for values such as times and frame counts: by logarithm where they spread widely."""
    if values and min(values) == max(values):
        values = [0.5 * values[0], 1.5 * values[0]]
    if not values or min(values) <= 0 or max(values) <= LOGARITHMIC_FROM * min(values):
        return _with_room(linear(values, first, last))
    low, high = min(values) / 1.25, max(values) * 1.25
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    within = tuple(tick for tick in ticks if low <= tick <= high)
    if len(within) > 8:
        within = tuple(tick for tick in within if round(math.log10(tick), 6).is_integer())
    return Scale(low, high, first, last, within, logarithmic=True)


def _with_room(scale: Scale) -> Scale:
    """A little of the axis left free on both sides, so that marks do not stand on its ends."""
    room = 0.04 * (scale.high - scale.low)
    return Scale(scale.low - room, scale.high + room, scale.first, scale.last, scale.ticks)
