"""Figures with what belongs to them: who was counted, and how sure one can be.

Pure functions over arrays; reads and writes nothing. Percentages are not rounded. Questions about
one video are not independent, so intervals resample videos, not questions.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["ok", "failed", "unlabelled"]
NUM_RESAMPLES = 2000
BLOCK = 2**22
"""Resampled counts held at once (32 MiB)."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Every question is in exactly one of three groups."""

    n_scored: int
    n_failed: int
    n_unlabelled: int

    @property
    def n_questions(self) -> int:
        return self.n_scored + self.n_failed + self.n_unlabelled

    def as_json(self) -> dict[str, int]:
        """The counts under the names of the JSON output."""
        return {
            "n_questions": self.n_questions,
            "n_scored": self.n_scored,
            "n_failed": self.n_failed,
            "n_unlabelled": self.n_unlabelled,
        }


def tally(statuses: Sequence[Status]) -> Tally:
    """Count the questions of each status."""
    counts = {name: statuses.count(name) for name in ("ok", "failed", "unlabelled")}
    if sum(counts.values()) != len(statuses):
        raise ValueError(f"unknown status among {sorted(set(statuses))}")
    return Tally(counts["ok"], counts["failed"], counts["unlabelled"])


def percent(correct: Sequence[bool], out_of: int | None = None) -> float:
    """100 × right / all; `out_of` replaces the number of answers given."""
    total = len(correct) if out_of is None else out_of
    return 100.0 * sum(correct) / total


def percent_by(labels: Sequence[str], correct: Sequence[bool]) -> dict[str, float]:
    """Accuracy per label, labels sorted."""
    pairs: dict[str, list[bool]] = {}
    for label, right in zip(labels, correct, strict=True):
        pairs.setdefault(label, []).append(right)
    return {label: percent(pairs[label]) for label in sorted(pairs)}


def percent_in_groups(
    groups: Mapping[str, Sequence[str]], labels: Sequence[str], correct: Sequence[bool]
) -> dict[str, float]:
    """Accuracy per named set of labels, pooled over its questions; empty groups are left out."""
    pooled = {}
    for name, members in groups.items():
        inside = [right for label, right in zip(labels, correct, strict=True) if label in members]
        if inside:
            pooled[name] = percent(inside)
    return pooled


def macro(by_label: Mapping[str, float], labels: Sequence[str]) -> float | None:
    """Unweighted mean over `labels`; none unless every one of them was scored."""
    if not labels or any(label not in by_label for label in labels):
        return None
    return sum(by_label[label] for label in labels) / len(labels)


def cluster_interval(
    values: Sequence[float] | NDArray[Any],
    clusters: Sequence[Hashable],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean of `values`, resampling whole clusters.

    The result does not depend on the order of the rows. None with fewer than two clusters: one
    video says nothing about others.
    """
    sums, sizes = _cluster_sums(values, clusters)
    if len(sums) < 2:
        return None
    means = _resampled_means(sums, sizes, np.random.default_rng(seed), num_resamples)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _cluster_sums(
    values: Sequence[float] | NDArray[Any], clusters: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and size per cluster [C], in an order that the order of the rows cannot change."""
    names = sorted({str(cluster) for cluster in clusters})
    numbers = {name: number for number, name in enumerate(names)}
    index = np.array([numbers[str(cluster)] for cluster in clusters], dtype=np.int64)
    array = np.asarray(values, dtype=np.float64)
    # Sorted before summing, so that equal rows in another order give equal bits.
    order = np.lexsort((array, index))
    sums = np.bincount(index[order], array[order], len(names)).astype(np.float64)
    return sums, np.bincount(index, minlength=len(names)).astype(np.float64)


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], rng: np.random.Generator, draws: int
) -> NDArray[np.float64]:
    """Mean of each of `draws` resamples [draws]; blocks keep memory bounded."""
    count = len(sums)
    block = max(1, BLOCK // count)
    means = []
    for first in range(0, draws, block):
        chosen = rng.integers(0, count, size=(min(block, draws - first), count))
        means.append(sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1))
    return np.concatenate(means)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two systems on the same questions, first minus second."""

    difference: float
    """In percentage points."""
    ci95: tuple[float, float] | None
    """Bootstrap interval of the difference, clustered by video."""
    only_first: int
    """Questions that only the first has right."""
    only_second: int
    p_value: float
    """Exact two-sided McNemar test on the questions where they disagree."""


def paired_difference(
    first: Sequence[bool],
    second: Sequence[bool],
    clusters: Sequence[Hashable],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> PairedDifference:
    """Compare two systems question by question; the sequences are aligned and not empty."""
    if not len(first) == len(second) == len(clusters) or not first:
        raise ValueError(f"not aligned: {len(first)}, {len(second)} and {len(clusters)} rows")
    a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    only_first, only_second = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    return PairedDifference(
        difference=100.0 * (only_first - only_second) / len(a),
        ci95=cluster_interval(100.0 * (a - b), clusters, seed, num_resamples),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p-value; 1 when the systems never disagree."""
    from scipy.stats import binomtest  # a second to import, and only comparisons need it

    disagreements = only_first + only_second
    return float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0
