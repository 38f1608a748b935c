"""The lineage graph: artifacts in columns by rank, lines from what was read to what was made.

A line that passes a column has a narrow lane of its own there, shared by all readers of one
artifact, so that no line runs behind a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from stages.report_page.model import Node

WIDE, HIGH, GAP_X, GAP_Y = 176.0, 40.0, 48.0, 10.0
LANE = 8.0

Spot = tuple[str, int]
"""An artifact's id and a column: its own, or one that its lane passes."""


@dataclass(frozen=True)
class Placed:
    """One artifact's box; `number` is its row in the table of commands."""

    number: int
    kind: str
    label: str
    title: str
    x: float
    y: float


@dataclass(frozen=True)
class Graph:
    """The drawing; `edges` are SVG paths."""

    width: float
    height: float
    boxes: list[Placed]
    edges: list[str]
    text: str


def lineage_graph(nodes: Sequence[Node], prefixes: Sequence[str] = ()) -> Graph | None:
    """Columns by rank; in a column, everything stands near what it came from.

    Labels lose the first of `prefixes` that they begin with, which most of them share.
    """
    if not nodes:
        return None
    order = {rank: place for place, rank in enumerate(sorted({node.rank for node in nodes}))}
    column_of = {node.id: order[node.rank] for node in nodes}
    heights = _heights(nodes, column_of, len(order))
    boxes = [
        Placed(
            number,
            node.kind,
            _short(node.label, prefixes),
            f"{node.kind} {node.label} ({node.id})",
            _left(column_of[node.id]),
            heights[node.id, column_of[node.id]] - HIGH / 2,
        )
        for number, node in enumerate(nodes)
    ]
    steps = dict.fromkeys(step for spots in _edges(nodes, column_of) for step in pairwise(spots))
    lanes = [spot for spot in heights if column_of[spot[0]] != spot[1]]
    edges = [_bend(left, right, heights) for left, right in steps]
    edges += [f"M{_left(spot[1]):g},{heights[spot]:g}h{WIDE:g}" for spot in lanes]
    bottom = max([box.y + HIGH for box in boxes] + [heights[spot] + LANE / 2 for spot in lanes])
    width = _left(len(order)) - GAP_X + 1
    return Graph(width, bottom + 1, boxes, edges, _words(nodes))


LONGEST = 25


def _short(label: str, prefixes: Sequence[str]) -> str:
    """What tells a label from others, which is at its end as often as at its beginning."""
    prefix = next((item for item in prefixes if label.startswith(item) and label != item), "")
    own = label.removeprefix(prefix)
    return own if len(own) <= LONGEST else f"{own[: LONGEST // 2]}…{own[-(LONGEST // 2) :]}"


def _left(column: int) -> float:
    return 1 + column * (WIDE + GAP_X)


def _edges(nodes: Sequence[Node], column_of: dict[str, int]) -> list[list[Spot]]:
    """From each read artifact over its lanes to the reader."""
    return [
        [
            *((source, column) for column in range(column_of[source], column_of[node.id])),
            (node.id, column_of[node.id]),
        ]
        for node in nodes
        for source in dict.fromkeys(node.inputs)
        if source in column_of and column_of[source] < column_of[node.id]
    ]


def _heights(
    nodes: Sequence[Node], column_of: dict[str, int], num_columns: int
) -> dict[Spot, float]:
    """The middle of every box and lane in pixels from the top; columns are centred."""
    before: dict[Spot, list[Spot]] = {(node.id, column_of[node.id]): [] for node in nodes}
    for spots in _edges(nodes, column_of):
        for left, right in pairwise(spots):
            before.setdefault(right, []).append(left)
    columns = [[spot for spot in before if spot[1] == number] for number in range(num_columns)]
    sizes = {spot: HIGH if column_of[spot[0]] == spot[1] else LANE for spot in before}
    tallest = max(sum(sizes[spot] + GAP_Y for spot in column) for column in columns)
    heights: dict[Spot, float] = {}
    for column in columns:
        column.sort(key=lambda spot: (_mean([heights[left] for left in before[spot]]), spot))
        y = 1 + (tallest - sum(sizes[spot] + GAP_Y for spot in column)) / 2
        for spot in column:
            heights[spot] = y + sizes[spot] / 2
            y += sizes[spot] + GAP_Y
    return heights


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _bend(left: Spot, right: Spot, heights: dict[Spot, float]) -> str:
    """From the right side of one box or lane to the left side of one in the next column."""
    x1, y1 = _left(left[1]) + WIDE, heights[left]
    x2, y2 = _left(right[1]), heights[right]
    middle = (x1 + x2) / 2
    return f"M{x1:g},{y1:g}C{middle:g},{y1:g} {middle:g},{y2:g} {x2:g},{y2:g}"


def _words(nodes: Sequence[Node]) -> str:
    kinds: dict[str, int] = {}
    for node in nodes:
        kinds[node.kind] = kinds.get(node.kind, 0) + 1
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"What was made from what: {counts}. The table below names them with their inputs."
