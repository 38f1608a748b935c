"""Names beside the marks of a plot: each where it covers neither a mark nor another name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CHARACTER = 6.0
"""Width of one character at the labels' size, in pixels; on the wide side of common fonts."""
HEIGHT = 13.0
NEAR = 8.0
FAR = (16.0, 26.0, 38.0, 52.0, 68.0, 86.0, 106.0)
DIRECTIONS = ((1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1))


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, x to the right and y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The common area."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)

    def within(self, other: Box) -> bool:
        """Whether no part of it lies outside `other`."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Label:
    """A placed name.

    Attributes:
        x: Where the text begins, ends, or has its middle, by `anchor`.
        y: Of its base line.
        anchor: `start`, `end` or `middle`.
        leader: From where to where a thin line shows whose name it is; none: it stands beside.
    """

    text: str
    x: float
    y: float
    anchor: str
    leader: tuple[float, float, float, float] | None


def placed(
    names: Sequence[str], at: Sequence[tuple[float, float]], taken: Sequence[Box], frame: Box
) -> list[Label]:
    """A label for each mark, as near to it as there is room.

    Args:
        names: What to write.
        at: Centres of the marks.
        taken: What must stay visible: marks and whiskers.
        frame: What no label may leave.

    Returns:
        In the order of `names`. Where every place is taken, the least bad one.
    """
    occupied = list(taken)
    labels: list[Label] = []
    for name, (x, y) in zip(names, at, strict=True):
        width = CHARACTER * len(name)
        choices = [item for item in _choices(name, x, y, width) if item[1].within(frame)]
        best: tuple[float, Label, Box] | None = None
        for label, box in choices:
            cost = sum(box.overlap(other) for other in occupied)
            if best is None or cost < best[0]:
                best = (cost, label, box)
            if cost == 0:
                break
        if best is None:
            best = (0.0, *_clamped(name, x, y, width, frame))
        labels.append(best[1])
        occupied.append(best[2])
    return labels


def _choices(name: str, x: float, y: float, width: float) -> Iterator[tuple[Label, Box]]:
    for distance in (NEAR, *FAR):
        for right, down in DIRECTIONS:
            anchor = {1: "start", -1: "end", 0: "middle"}[right]
            # Far labels keep near in x: room is above and below where marks share an x.
            text_x = x + right * (distance if down == 0 else min(distance, 2 * NEAR))
            text_y = y + 4 + down * (distance if right == 0 or distance > NEAR else NEAR)
            left = text_x - {1: 0.0, -1: width, 0: width / 2}[right]
            box = Box(left, text_y - 10, left + width, text_y - 10 + HEIGHT)
            leader = None if distance == NEAR else (x, y, text_x - right * 2, text_y - 4)
            yield Label(name, round(text_x, 1), round(text_y, 1), anchor, leader), box


def _clamped(name: str, x: float, y: float, width: float, frame: Box) -> tuple[Label, Box]:
    left = min(max(x + NEAR, frame.left), max(frame.right - width, frame.left))
    base = min(max(y + 4, frame.top + 10), frame.bottom - 3)
    label = Label(name, round(left, 1), round(base, 1), "start", None)
    return label, Box(left, base - 10, left + width, base + 3)
