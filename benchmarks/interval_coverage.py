"""Do the intervals hold the truth 95 times in 100, and do the tests cry wolf 5 times in 100?

    python benchmarks/interval_coverage.py [--draws 2000] [--clusters 60,570] [--resamples 1000]

Draws clustered right-or-wrong data whose true mean is known, calls the functions of
`stages.benchmarks.statistics` on each, and prints one JSON object: per kind of data the share of
intervals that hold the truth (and of the plain percentile method on the same data, for comparison),
the false positive rates of McNemar's and of the sign-flip test where two systems are equally good,
and the power where they differ by the `smallest_difference` of such data. A share of 0.95 measured
with 2,000 draws has a standard error of 0.005.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.benchmarks.statistics import (
    cluster_interval,
    difference_interval,
    macro_interval,
    mcnemar,
    sign_flip,
    smallest_difference,
)

MEAN_SIZE = 8.8
"""Questions per video, as in NExT-QA's val split."""
TYPE_SHARES = (0.34, 0.5, 0.09, 0.07)
"""Shares of four types of questions, as unequal as STAR's."""
TYPES = tuple("abcd")
ALPHA = 0.05


@dataclass(frozen=True)
class Shape:
    """One kind of data.

    Attributes:
        clusters: Number of videos.
        sizes: `equal`: nine questions a video; `skewed`: 1 to many, 8.8 on average.
        correlation: Of two questions about one video (intra-class).
        accuracy: True mean, 0 to 1.
    """

    clusters: int
    sizes: str
    correlation: float
    accuracy: float


@dataclass(frozen=True)
class Pair:
    """Two systems on one kind of data: true shares of questions that only one has right."""

    clusters: int
    sizes: str
    correlation: float
    only_first: float
    only_second: float


def cluster_sizes(sizes: str, clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Questions per video [C]."""
    if sizes == "equal":
        return np.full(clusters, round(MEAN_SIZE), dtype=np.int64)
    return 1 + rng.negative_binomial(0.9, 0.9 / (0.9 + MEAN_SIZE - 1), clusters).astype(np.int64)


def draw(shape: Shape, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values 0 or 100 and the video of each question; a video's accuracy is Beta distributed."""
    sizes = cluster_sizes(shape.sizes, shape.clusters, rng)
    chances = np.full(shape.clusters, shape.accuracy)
    if shape.correlation:
        strength = 1 / shape.correlation - 1
        a, b = shape.accuracy * strength, (1 - shape.accuracy) * strength
        chances = rng.beta(a, b, shape.clusters)
    videos = np.repeat(np.arange(shape.clusters), sizes)
    return 100.0 * (rng.random(len(videos)) < chances[videos]), videos


def draw_pair(
    pair: Pair, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Gains -100, 0 or 100 and videos; a video's shares are Dirichlet distributed."""
    sizes = cluster_sizes(pair.sizes, pair.clusters, rng)
    shares = np.array([pair.only_first, pair.only_second, 1 - pair.only_first - pair.only_second])
    chances = np.tile(shares, (pair.clusters, 1))
    if pair.correlation:
        chances = rng.dirichlet(shares * (1 / pair.correlation - 1), pair.clusters)
    videos = np.repeat(np.arange(pair.clusters), sizes)
    spot = rng.random(len(videos))
    first = spot < chances[videos, 0]
    second = ~first & (spot < chances[videos, 0] + chances[videos, 1])
    return 100.0 * first - 100.0 * second, videos


def mean_coverage(shape: Shape, draws: int, resamples: int, seed: int = 0) -> float:
    """Share of the intervals of the mean that hold it."""
    rng, held = np.random.default_rng(seed), 0
    for number in range(draws):
        values, videos = draw(shape, rng)
        held += holds(cluster_interval(values, videos, number, resamples), 100 * shape.accuracy)
    return held / draws


def macro_coverage(shape: Shape, draws: int, resamples: int, seed: int = 0) -> float:
    """The same of the unweighted mean over four types of one difficulty."""
    rng, held, defined = np.random.default_rng(seed), 0, 0
    for number in range(draws):
        values, videos = draw(shape, rng)
        labels = [TYPES[at] for at in rng.choice(len(TYPES), len(values), p=TYPE_SHARES)]
        interval = macro_interval(values, labels, videos, TYPES, number, resamples)
        defined += interval is not None
        held += holds(interval, 100 * shape.accuracy)
    return held / defined


def pair_coverage(pair: Pair, draws: int, resamples: int, seed: int = 0) -> float:
    """Share of the intervals of the difference that hold it."""
    rng, held = np.random.default_rng(seed), 0
    truth = 100 * (pair.only_first - pair.only_second)
    for number in range(draws):
        gains, videos = draw_pair(pair, rng)
        held += holds(difference_interval(gains, videos, number, resamples), truth)
    return held / draws


def percentile_coverage(shape: Shape, draws: int, resamples: int, seed: int = 0) -> float:
    """What the plain percentile method would hold, on the data of `mean_coverage`."""
    rng, other, held = np.random.default_rng(seed), np.random.default_rng(seed + 1), 0
    for _ in range(draws):
        values, videos = draw(shape, rng)
        sums = np.bincount(videos, values, shape.clusters)
        sizes = np.bincount(videos, minlength=shape.clusters)
        chosen = other.integers(0, shape.clusters, (resamples, shape.clusters))
        means = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        held += holds((float(low), float(high)), 100 * shape.accuracy)
    return held / draws


def holds(interval: tuple[float, float] | None, truth: float) -> bool:
    """Whether `truth` is inside, ends included."""
    return interval is not None and bool(interval[0] <= truth <= interval[1])


def rejections(pair: Pair, draws: int, flips: int, seed: int = 0) -> dict[str, float]:
    """Share of draws on which each test finds a difference at 5 %."""
    rng, found = np.random.default_rng(seed), {"mcnemar_exact": 0, "sign_flip": 0}
    for number in range(draws):
        gains, videos = draw_pair(pair, rng)
        exact = mcnemar(int((gains > 0).sum()), int((gains < 0).sum()))
        found["mcnemar_exact"] += exact <= ALPHA
        found["sign_flip"] += sign_flip(gains, videos, number, flips) <= ALPHA
    return {name: count / draws for name, count in found.items()}


def at_smallest_difference(pair: Pair, seed: int = 0) -> tuple[float, Pair]:
    """The median `smallest_difference` of data like `pair`, and systems that differ by it."""
    rng = np.random.default_rng(seed)
    sizes = [smallest_difference(*draw_pair(pair, rng)) for _ in range(101)]
    points = float(np.median([size for size in sizes if size is not None]))
    differing = pair.only_first + pair.only_second
    first = (differing + points / 100) / 2
    return points, Pair(pair.clusters, pair.sizes, pair.correlation, first, differing - first)


def correlations(count: int, clusters: list[int]) -> tuple[float, ...]:
    """With few videos one more: there it is hardest."""
    return (0.0, 0.1, 0.3) if count == min(clusters) else (0.0, 0.1)


def shapes(clusters: list[int]) -> Iterator[Shape]:
    """Every kind of data that is measured."""
    for count in clusters:
        for sizes in ("equal", "skewed"):
            for correlation in correlations(count, clusters):
                for accuracy in (0.74, 0.95):
                    yield Shape(count, sizes, correlation, accuracy)


def pairs(clusters: list[int]) -> Iterator[Pair]:
    """Systems that differ on a tenth of the questions by 0.6 points; by 7, nearly one way."""
    for count in clusters:
        for sizes in ("equal", "skewed"):
            for correlation in correlations(count, clusters):
                yield Pair(count, sizes, correlation, 0.054, 0.048)
                if count == min(clusters):  # with many videos the two are alike
                    yield Pair(count, sizes, correlation, 0.08, 0.01)


def measure(cell: Shape | Pair, draws: int, resamples: int) -> dict[str, Any]:
    """One row of the table."""
    if isinstance(cell, Shape):
        found: dict[str, Any] = {
            "mean": mean_coverage(cell, draws, resamples),
            "mean_by_percentile_method": percentile_coverage(cell, draws, resamples),
            "macro": macro_coverage(cell, draws, resamples),
        }
    else:
        half = (cell.only_first + cell.only_second) / 2
        equal = Pair(cell.clusters, cell.sizes, cell.correlation, half, half)
        points, apart = at_smallest_difference(equal)
        found = {
            "difference": pair_coverage(cell, draws, resamples),
            "false_positives": rejections(equal, draws, resamples),
            "smallest_difference_points": points,
            "power_at_smallest_difference": rejections(apart, draws, resamples),
        }
    print(cell, found, file=sys.stderr, flush=True)
    return asdict(cell) | found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--clusters", default="60,570")
    parser.add_argument("--resamples", type=int, default=1000, help="and sign flips")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    started = time.monotonic()
    clusters = [int(count) for count in options.clusters.split(",")]
    cells: list[Shape | Pair] = [*shapes(clusters), *pairs(clusters)]
    with multiprocessing.Pool(options.processes) as pool:
        work = [(cell, options.draws, options.resamples) for cell in cells]
        rows = pool.starmap(measure, work, chunksize=1)
    facts = {
        "benchmark": "coverage of the intervals, size and power of the tests",
        "date": datetime.now(tz=UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "command": shlex.join(["python", "benchmarks/interval_coverage.py", *sys.argv[1:]]),
        "draws": options.draws,
        "resamples": options.resamples,
        "seconds": round(time.monotonic() - started, 1),
        "coverage": [row for row in rows if "mean" in row],
        "pairs": [row for row in rows if "difference" in row],
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
