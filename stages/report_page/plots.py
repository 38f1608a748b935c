"""The page's pictures as places on a drawing: what is where, in which colour, under which name.

The templates turn these into SVG. Every picture has a text that says the same in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.report_page.labels import Box, Label, placed
from stages.report_page.model import Histogram, Page, Point, Run, System
from stages.report_page.published import beside_papers, headline, in_table, system_value
from stages.report_page.scales import Scale, finite, linear, percents, spread_out

NUM_COLORS = 8
SHAPES = (
    "M-4.6,0a4.6,4.6 0 1,0 9.2,0a4.6,4.6 0 1,0 -9.2,0z",
    "M-4.2,-4.2h8.4v8.4h-8.4z",
    "M0,-5.4L5.2,4.2H-5.2z",
    "M0,-5.8L5.8,0L0,5.8L-5.8,0z",
    "M-1.8,-5.4h3.6v3.6h3.6v3.6h-3.6v3.6h-3.6v-3.6h-3.6v-3.6h3.6z",
)
"""Circle, square, triangle, diamond, plus. With the colours they make forty pairs, so that no two
of forty systems look the same, and neighbours differ to an eye without colour too."""
LONGEST_LABEL = 26
MOST_NAMED = 16
"""With more marks than this only those that nothing cheaper beats are named in a plot."""


@dataclass(frozen=True)
class Look:
    """How one system is drawn everywhere: a colour class and a shape."""

    color: int
    shape: str


def look_of(place: int) -> Look:
    """The look of the system at `place` in `Page.systems`."""
    return Look(place % NUM_COLORS, SHAPES[place % len(SHAPES)])


@dataclass(frozen=True)
class Mark:
    """One system in a scatter plot.

    Attributes:
        color: None: published.
        label: None: too many marks, and this one is not among the best for their cost.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    color: int | None
    shape: str
    title: str
    label: Label | None


Band = tuple[float, float, str]


@dataclass(frozen=True)
class Scatter:
    """A figure against a cost.

    Attributes:
        bands: Left end, right end and label of the part of the axis that each number of kept
            frames has; empty: the axis is one of numbers.
    """

    title: str
    x_name: str
    y_name: str
    width: int
    height: int
    box: Box
    bands: list[Band]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    marks: list[Mark]
    all_named: bool
    text: str


@dataclass(frozen=True)
class _Measured:
    name: str
    cost: float
    value: float
    ci95: tuple[float, float] | None
    look: Look | None


FRAMES_KEPT, MS_PER_VIDEO = "frames kept", "ms per video"


def against_frames(page: Page) -> Scatter | None:
    """A figure against the frames kept; none: fewer than two systems can be drawn.

    The figure is the headline, or the one that published rows have. Each number of frames has a
    band of the axis, in which its marks stand side by side.
    """
    figure = beside_papers(page)
    points = [
        _Measured(item.name, item.keep, value, _interval_of(item, figure), look_of(place))
        for place, item in enumerate(page.systems)
        if item.keep and (value := system_value(item, figure)) is not None and item.blind is None
    ]
    points += [
        _Measured(item.name, item.keep, item.metrics[figure], None, None)
        for item in in_table(page)[0]
        if item.keep and figure in item.metrics
    ]
    return _scatter(points, figure, FRAMES_KEPT)


def against_time(page: Page) -> Scatter | None:
    """The headline figure against model time for one question."""
    points = [
        _Measured(item.name, item.ms_per_video, item.value, item.ci95, look_of(place))
        for place, item in enumerate(page.systems)
        if item.ms_per_video and item.value is not None and item.blind is None
    ]
    return _scatter(points, headline(page), MS_PER_VIDEO)


def _interval_of(item: System, figure: str) -> tuple[float, float] | None:
    return item.ci95 if figure == item.headline else None


def _scatter(points: list[_Measured], figure: str, x_name: str) -> Scatter | None:
    points = [item for item in points if len(finite((item.cost, item.value))) == 2]
    if len(points) < 2:
        return None
    width, height = 640, 350 + 8 * min(max(len(points) - 8, 0), 20)
    box = Box(40, 24, width - 10, height - 44)
    across = spread_out([item.cost for item in points], box.left, box.right)
    bands = _bands(points, box) if x_name == FRAMES_KEPT else {}
    ends = [end for item in points for end in finite(item.ci95 or ())]
    up = percents([*(item.value for item in points), *ends], box.bottom, box.top)
    places = [(across.at(item.cost), up.at(item.value)) for item in points]
    if bands:
        places = _side_by_side(points, [y for _, y in places], bands)
    words = "; ".join(_words(item, x_name) for item in points)
    ticks = [(round((left + right) / 2, 1), label) for left, right, label in bands.values()]
    return Scatter(
        title=f"{figure} against {x_name}",
        x_name=x_name + (", logarithmic" if across.logarithmic and not bands else ""),
        y_name=f"{figure}, %",
        width=width,
        height=height,
        box=box,
        bands=list(bands.values()),
        x_ticks=ticks or across.marked(),
        y_ticks=up.marked(),
        marks=_marks(points, places, up, box, x_name),
        all_named=len(points) <= MOST_NAMED,
        text=f"{figure} in percent against {x_name}. {words}.",
    )


MOST_WORDED_BANDS = 10


def _bands(points: Sequence[_Measured], box: Box) -> dict[float, Band]:
    """An equal part of the axis for each cost, ascending."""
    costs = sorted({item.cost for item in points})
    wide = (box.right - box.left) / len(costs)
    unit = {cost: " frame" if cost == 1 else " frames" for cost in costs}
    return {
        cost: (
            round(box.left + place * wide, 1),
            round(box.left + (place + 1) * wide, 1),
            f"{cost:g}{unit[cost] if len(costs) <= MOST_WORDED_BANDS else ''}",
        )
        for place, cost in enumerate(costs)
    }


def _side_by_side(
    points: Sequence[_Measured], heights: Sequence[float], bands: dict[float, Band]
) -> list[tuple[float, float]]:
    """Marks of one cost side by side in the middle of its band, so that none covers another."""
    groups: dict[float, list[int]] = {}
    for number, item in enumerate(points):
        groups.setdefault(item.cost, []).append(number)
    places = [(0.0, height) for height in heights]
    for cost, group in groups.items():
        left, right, _ = bands[cost]
        step = min(WIDEST_STEP, (right - left) / len(group))
        begin = (left + right) / 2 - step * (len(group) - 1) / 2
        for offset, number in enumerate(group):
            places[number] = (round(begin + offset * step, 1), heights[number])
    return places


WIDEST_STEP = 16.0
"""Pixels between marks of one band."""


def _words(item: _Measured, x_name: str) -> str:
    interval = f" ({item.ci95[0]:.1f} to {item.ci95[1]:.1f})" if item.ci95 else ""
    published = ", published" if item.look is None else ""
    return f"{item.name}{published}: {item.value:.1f}{interval} at {item.cost:.4g} {x_name}"


def _marks(
    points: Sequence[_Measured],
    places: Sequence[tuple[float, float]],
    up: Scale,
    box: Box,
    x_name: str,
) -> list[Mark]:
    whiskers = [
        (up.at(item.ci95[0]), up.at(item.ci95[1]))
        if item.ci95 and len(finite(item.ci95)) == 2
        else None
        for item in points
    ]
    taken = [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    taken += [
        Box(x - 2, found[1], x + 2, found[0])
        for (x, _), found in zip(places, whiskers, strict=True)
        if found
    ]
    named = _named(points)
    names = [shortened(points[number].name, LONGEST_LABEL) for number in named]
    found_labels = placed(names, [places[number] for number in named], taken, box)
    labels = dict(zip(named, found_labels, strict=True))
    return [
        Mark(
            x=x,
            y=y,
            low=found[0] if found else None,
            high=found[1] if found else None,
            color=item.look.color if item.look else None,
            shape=item.look.shape if item.look else SHAPES[3],
            title=_words(item, x_name),
            label=labels.get(number),
        )
        for number, (item, (x, y), found) in enumerate(zip(points, places, whiskers, strict=True))
    ]


def _named(points: Sequence[_Measured]) -> list[int]:
    """Places of the marks that get a label."""
    if len(points) <= MOST_NAMED:
        return list(range(len(points)))
    return [
        number
        for number, item in enumerate(points)
        if item.look is None
        or not any(p.cost <= item.cost and p.value > item.value for p in points if p.look)
    ]


def shortened(text: str, length: int) -> str:
    """At most `length` characters."""
    return text if len(text) <= length else text[: max(length - 1, 1)] + "…"


@dataclass(frozen=True)
class Bar:
    """One system's accuracy on one type."""

    x: float
    y: float
    width: float
    height: float
    color: int
    blind: bool
    value: str
    title: str


@dataclass(frozen=True)
class TypeBars:
    """Accuracy by question type, a group of bars per type."""

    width: float
    base: float
    y_ticks: list[tuple[float, str]]
    groups: list[tuple[float, str, str]]
    """Middle, shortened name and whole name of each type."""
    bars: list[Bar]
    text: str


def type_bars(page: Page) -> TypeBars | None:
    """Grouped bars; none where accuracy is not known by type."""
    systems = [(place, item) for place, item in enumerate(page.systems) if item.by_type]
    types = [name for name in page.types if any(name in item.by_type for _, item in systems)]
    if not systems or not types:
        return None
    left, top, base, gap = 44.0, 18.0, 214.0, 18.0
    wide = min(max(((1060 - left) / len(types) - gap) / len(systems), 5.0), 26.0)
    group = wide * len(systems) + gap
    values = finite(item.by_type.get(name) for _, item in systems for name in types)
    up = percents([0.0, *values], base, top)
    bars = [
        Bar(
            x=round(left + gap / 2 + number * group + wide * order, 1),
            y=up.at(value),
            width=round(wide - (1 if wide > 6 else 0.5), 1),
            height=round(base - up.at(value), 1),
            color=look_of(place).color,
            blind=item.blind is not None,
            value=f"{value:.0f}" if wide >= 21 else "",
            title=f"{item.name}, {name}: {value:.1f} %",
        )
        for number, name in enumerate(types)
        for order, (place, item) in enumerate(systems)
        if (value := item.by_type.get(name)) is not None and finite([value])
    ]
    names = [
        (round(left + (number + 0.5) * group, 1), shortened(name, max(int(group / 6.4), 3)), name)
        for number, name in enumerate(types)
    ]
    words = "; ".join(
        f"{item.name}: "
        + ", ".join(f"{name} {item.by_type[name]:.1f}" for name in types if name in item.by_type)
        for _, item in systems
    )
    width = round(left + group * len(types) + 8, 1)
    return TypeBars(width, base, up.marked(), names, bars, f"Accuracy in percent by type. {words}.")


@dataclass(frozen=True)
class Interval:
    """A value with its interval on the table's common scale, 0 to 100 units wide."""

    at: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Intervals:
    """The drawn column of the table.

    Attributes:
        low: Value at the left end.
        high: At the right end.
    """

    scale: Scale

    def of(self, value: float, ci95: tuple[float, float] | None) -> Interval:
        """Where one row's mark and bar lie."""
        ends = finite(ci95 or ())
        if len(ends) < 2:
            return Interval(self.scale.at(value), None, None)
        return Interval(self.scale.at(value), self.scale.at(ends[0]), self.scale.at(ends[1]))


def intervals(page: Page) -> Intervals:
    """The common scale of all values and intervals, published rows included."""
    values = finite(item.value for item in page.systems)
    values += [end for item in page.systems for end in finite(item.ci95 or ())]
    values += finite(item.metrics.get(headline(page)) for item in in_table(page)[0])
    return Intervals(percents(values, 4, 116, steps=4))


@dataclass(frozen=True)
class Curve:
    """One small multiple of a training run."""

    name: str
    points: str
    last: tuple[float, float]
    y_ticks: list[tuple[float, str]]
    x_ends: tuple[str, str]
    final: str
    text: str


def training_curves(run: Run) -> list[Curve]:
    """Every curve of a run that has a finite point, 210 x 96 units each."""
    return [
        _curve(name, clean)
        for name, points in run.curves.items()
        if (clean := [point for point in points if len(finite(point)) == 2])
    ]


def _curve(name: str, points: Sequence[Point]) -> Curve:
    steps, values = [step for step, _ in points], [value for _, value in points]
    across = Scale(min(steps), max(steps), 40, 204, ())
    up = (percents if name.startswith("accuracy") else linear)(values, 74, 8, steps=2)
    drawn = [(across.at(step), up.at(value)) for step, value in points]
    return Curve(
        name=name,
        points=" ".join(f"{x},{y}" for x, y in drawn),
        last=drawn[-1],
        y_ticks=up.marked(),
        x_ends=(f"{min(steps):g}", f"{max(steps):g}"),
        final=f"{values[-1]:.4g}",
        text=f"{name} over {len(points)} points from step {min(steps):g} to {max(steps):g}: "
        f"first {values[0]:.4g}, last {values[-1]:.4g}, "
        f"lowest {min(values):.4g}, highest {max(values):.4g}",
    )


@dataclass(frozen=True)
class Shares:
    """One system's histogram; `reference` outlines where the true spans lie."""

    system: str
    color: int | None
    bars: list[tuple[float, float, float, float]]
    reference: str
    top: str
    text: str


TRUE_SPANS = "true spans"


def kept_over_time(page: Page) -> list[Shares]:
    """Where kept frames lie, all on one scale, 210 x 72 units each."""
    places = {item.name: place for place, item in enumerate(page.systems)}
    shares = [share for item in page.histograms for share in finite(item.shares)]
    if not shares:
        return []
    highest = max(shares) or 1.0
    truth = next((item for item in page.histograms if item.system == TRUE_SPANS), None)
    return [
        _shares(item, truth if item is not truth else None, places.get(item.system), highest)
        for item in page.histograms
        if item.shares
    ]


def _shares(item: Histogram, truth: Histogram | None, place: int | None, highest: float) -> Shares:
    base, top, width = 60.0, 6.0, 200.0

    def up(share: float) -> float:
        return round(base - (base - top) * share / highest, 1)

    bins = width / len(item.shares)
    bars = [
        (round(5 + number * bins, 1), up(share), round(bins - 0.8, 1), round(base - up(share), 1))
        for number, share in enumerate(item.shares)
        if finite([share])
    ]
    line = ""
    if truth is not None and truth.shares:
        step = width / len(truth.shares)
        line = " ".join(
            f"{5 + (number + side) * step:.1f},{up(share)}"
            for number, share in enumerate(truth.shares)
            for side in (0, 1)
        )
    third = len(item.shares) // 3 or 1
    parts = [sum(item.shares[:third]), sum(item.shares[third:-third]), sum(item.shares[-third:])]
    words = f"first third {parts[0]:.0%}, middle {parts[1]:.0%}, last third {parts[2]:.0%}"
    color = None if place is None else look_of(place).color
    text = f"{item.system}: {words}"
    return Shares(item.system, color, bars, line, f"{highest:.0%}", text)
