"""Long curves with few points that look the same.

Reads and writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from stages.report_page.model import Point


def thinned(
    points: Sequence[Point], most: int, always: Collection[float] = ()
) -> tuple[Point, ...]:
    """At most `most` (4 at least) of `points`: the first, the last, and each part's extremes.

    The highest and the lowest of all points are among them. Points at the places `always` are kept
    besides.
    """
    if len(points) <= most:
        return tuple(points)
    inner = range(1, len(points) - 1)
    parts = (most - 2) // 2
    kept = {0, len(points) - 1}
    for part in range(parts):
        own = inner[part * len(inner) // parts : (part + 1) * len(inner) // parts]
        kept |= {
            min(own, key=lambda at: points[at][1]),
            max(own, key=lambda at: points[at][1]),
        }
    kept |= {number for number, (at, _) in enumerate(points) if at in always}
    return tuple(points[at] for at in sorted(kept))
