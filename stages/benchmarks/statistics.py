"""Figures with what belongs to them: who was counted, and how sure one can be.

Pure functions over arrays; reads and writes nothing. Percentages are not rounded. Questions about
one video are not independent, so intervals resample videos, not questions.

Intervals are studentised: every resample is measured in its own standard error (bootstrap-t; Efron
and Tibshirani, An Introduction to the Bootstrap, 1993, 12.5). The plain percentile method is too
narrow when there are few videos of unequal size, each mostly right or mostly wrong:
`benchmarks/interval_coverage.py` measures both.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import asin, atan2, ceil, floor, hypot, inf, isfinite, sin, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["ok", "failed", "unlabelled"]
NUM_RESAMPLES = 2000
NUM_FLIPS = 10_000
"""Random sign flips of the clustered test; its p-value is no smaller than 1 in as many plus one."""
BLOCK = 2**22
"""Resampled counts held at once (32 MiB)."""
Z = 1.959963984540054
"""97.5 % quantile of the normal distribution."""
CONFIDENCE = 0.95
POWER = 0.8
ROUNDING = 1e-9
"""Share of what is measured below which a difference is rounding, not spread."""


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


# --- intervals -----------------------------------------------------------------------------------


def cluster_interval(
    values: Sequence[float] | NDArray[Any],
    clusters: Sequence[Hashable],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> tuple[float, float] | None:
    """95 % studentised bootstrap interval of the mean of `values`, resampling whole clusters.

    It holds the mean, stays within the range of `values`, and does not depend on the order of the
    rows. None with fewer than two clusters: one video says nothing about others. Where all clusters
    have the same mean, the data show no spread and the interval has no width.
    """
    return macro_interval(values, [""] * len(values), clusters, ("",), seed, num_resamples)


def macro_interval(
    values: Sequence[float] | NDArray[Any],
    labels: Sequence[str | None],
    clusters: Sequence[Hashable],
    members: Sequence[str],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> tuple[float, float] | None:
    """The same for the unweighted mean over `members` of the mean of `values` with that label.

    Rows with other labels are not used. Resamples without a row of some member are drawn but not
    counted: the figure is not defined on them.

    Returns:
        Low and high end; none unless every member has rows, there are two clusters or more, and
        the figure is defined on at least half of the resamples.
    """
    array = np.asarray(values, dtype=np.float64)
    observed = _observe(array, labels, clusters, members)
    if observed is None:
        return None
    ratios = _ratios(observed, _resampled(observed, np.random.default_rng(seed), num_resamples))
    if 2 * len(ratios) < num_resamples:
        return None
    used = array[[label in members for label in labels]]
    return _within(observed, _ends(observed, ratios), float(used.min()), float(used.max()))


def difference_interval(
    gains: Sequence[float] | NDArray[Any],
    clusters: Sequence[Hashable],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    *,
    labels: Sequence[str | None] | None = None,
    members: Sequence[str] = ("",),
) -> tuple[float, float] | None:
    """95 % interval of the mean of `gains`, one system's values minus another's, in percent.

    The hull of two studentised bootstraps: one resamples videos, one flips the signs of whole
    videos' deviations (clustered wild bootstrap; Cameron, Gelbach and Miller, Review of Economics
    and Statistics 90, 2008). With few videos the first is too narrow where rare gains and losses
    come from few of them, the second where nearly all are gains; their hull is right in both cases
    and slightly wider than either.

    Args:
        gains: One per question.
        clusters: The video of each question.
        seed: Of resamples and flips.
        num_resamples: Draws of each.
        labels: With `members`: the interval of the unweighted mean over these, as in
            `macro_interval`.
        members: The labels that count.

    Returns:
        Low and high end; none where `macro_interval` has none.
    """
    array = np.asarray(gains, dtype=np.float64)
    observed = _observe(array, [""] * len(array) if labels is None else labels, clusters, members)
    if observed is None:
        return None
    rng = np.random.default_rng(seed)
    resampled = _ratios(observed, _resampled(observed, rng, num_resamples))
    if 2 * len(resampled) < num_resamples:
        return None
    drawn = _within(observed, _ends(observed, resampled), -100.0, 100.0)
    flipped = _ends(observed, _ratios(observed, _flipped(observed, rng, num_resamples)))
    return max(-100.0, min(drawn[0], flipped[0])), min(100.0, max(drawn[1], flipped[1]))


def _cluster_totals(
    values: NDArray[np.float64],
    labels: Sequence[str | None],
    clusters: Sequence[Hashable],
    members: Sequence[str],
) -> NDArray[np.float64]:
    """Sum and number of values per cluster and member [C, 2, K]; the rows' order cannot matter."""
    names = {name: at for at, name in enumerate(sorted({str(one) for one in set(clusters)}))}
    rows = {one: names[str(one)] * len(members) for one in set(clusters)}
    columns = {name: at for at, name in enumerate(members)}
    cells = np.fromiter(map(rows.__getitem__, clusters), np.int64, len(clusters))
    if len(members) > 1:
        cells += np.fromiter((columns[str(label)] for label in labels), np.int64, len(labels))
    # Sorted before summing, so that equal rows in another order give equal bits.
    order = np.lexsort((values, cells))
    size, shape = len(names) * len(members), (len(names), len(members))
    sums = np.bincount(cells[order], values[order], size).astype(np.float64)
    counts = np.bincount(cells, minlength=size).astype(np.float64)
    return np.stack([sums.reshape(shape), counts.reshape(shape)], axis=1)


@dataclass(frozen=True, slots=True)
class _Observed:
    """A mean over K members of sum / count, its standard error, and what resamples are made from.

    Sums are held as deviations from the observed mean, so that squares lose no digits to its size.
    """

    centre: float
    error: float
    parts: NDArray[np.float64]
    """K sums of deviations, then K counts, of each cluster [2K, C]."""


def _observe(
    values: NDArray[np.float64],
    labels: Sequence[str | None],
    clusters: Sequence[Hashable],
    members: Sequence[str],
) -> _Observed | None:
    """None with fewer than two clusters, or if a member has no row."""
    used = [row for row, label in enumerate(labels) if label in members]
    totals = _cluster_totals(
        values[used], [labels[row] for row in used], [clusters[row] for row in used], members
    )
    num_clusters = len(totals)
    sizes = totals[:, 1].sum(axis=0)
    if num_clusters < 2 or not sizes.all():
        return None
    means = totals[:, 0].sum(axis=0) / sizes
    deviations = totals[:, 0] - means * totals[:, 1]
    deviations[np.abs(deviations) <= ROUNDING * np.abs(totals[:, 0]).max()] = 0.0
    parts = np.ascontiguousarray(np.concatenate([deviations, totals[:, 1]], axis=1).T)
    _, error = _deviations(parts, np.ones((1, num_clusters)))
    return _Observed(float(means.mean()), float(error[0]), parts)


_Deviations = tuple[NDArray[np.float64], NDArray[np.float64]]
"""How far each resample is from the observed figure, and its standard error [b]."""


def _ends(observed: _Observed, ratios: NDArray[np.float64]) -> tuple[float, float]:
    """The bootstrap-t interval from sorted ratios; it always holds the observed figure."""
    if observed.error == 0:
        return observed.centre, observed.centre
    tail = (1 - CONFIDENCE) / 2 * (len(ratios) - 1)
    low, high = ratios[floor(tail)], ratios[ceil(len(ratios) - 1 - tail)]
    return (
        observed.centre - max(0.0, float(high)) * observed.error,
        observed.centre - min(0.0, float(low)) * observed.error,
    )


def _within(
    observed: _Observed, ends: tuple[float, float], least: float, most: float
) -> tuple[float, float]:
    """Ends inside the range of the values; an infinite one is the score interval's instead.

    Where only a handful of questions differ from all others (three wrong of 600), so many resamples
    hold none of them that the ratios have no 2.5 % quantile. Wilson's interval (Journal of the
    American Statistical Association 22, 1927) needs none: its share is the mean's place in the
    range, its number of trials the one that has the clustered standard error.
    """
    low, high = ends
    if np.isinf(ends).any():
        share = (observed.centre - least) / (most - least)
        spread = share * (1 - share)
        trials = spread / (observed.error / (most - least)) ** 2
        grown = Z**2 / trials
        middle, half = share + grown / 2, Z * sqrt(spread / trials + grown / trials / 4)
        low = low if isfinite(low) else least + (most - least) * (middle - half) / (1 + grown)
        high = high if isfinite(high) else least + (most - least) * (middle + half) / (1 + grown)
    return max(low, least), min(high, most)


def _ratios(observed: _Observed, blocks: Iterable[_Deviations]) -> NDArray[np.float64]:
    """Deviations in units of their own errors, sorted; infinite where only the error is zero."""
    found, rounding = [], ROUNDING * observed.error
    for shift, error in blocks:
        ratios = np.where(np.abs(shift) <= rounding, 0.0, np.copysign(inf, shift))
        found.append(np.divide(shift, error, out=ratios, where=error > rounding))
    return np.sort(np.concatenate(found))


def _resampled(observed: _Observed, rng: np.random.Generator, draws: int) -> Iterator[_Deviations]:
    """Clusters drawn with replacement."""
    for counts in _resample_counts(observed.parts.shape[1], rng, draws):
        yield _deviations(observed.parts, counts)


def _flipped(observed: _Observed, rng: np.random.Generator, draws: int) -> Iterator[_Deviations]:
    """Every cluster kept, its deviations with a random sign."""
    residuals, sizes = np.split(observed.parts, 2)
    weights = 1 / (sizes.sum(axis=1) * len(sizes))
    influences, num_clusters = np.einsum("kc,k->c", residuals, weights), sizes.shape[1]
    for signs in _random_signs(num_clusters, rng, draws):
        shifts = np.einsum("bc,kc->bk", signs, residuals) * weights
        left = signs * influences - np.einsum("bk,kc->bc", shifts * weights * len(sizes), sizes)
        squares = np.einsum("bc,bc->b", left, left)
        yield shifts.sum(axis=1), np.sqrt(squares * num_clusters / (num_clusters - 1))


def _random_signs(
    count: int, rng: np.random.Generator, draws: int
) -> Iterator[NDArray[np.float64]]:
    """Patterns of signs [b, count], in blocks that keep memory bounded."""
    block = max(1, BLOCK // count)
    for first in range(0, draws, block):
        signs = 2 * rng.integers(0, 2, size=(min(block, draws - first), count)) - 1
        yield signs.astype(np.float64)


def _resample_counts(
    num_clusters: int, rng: np.random.Generator, draws: int
) -> Iterator[NDArray[np.float64]]:
    """How often each resample drew each cluster [b, C], in blocks that keep memory bounded."""
    block = max(1, BLOCK // num_clusters)
    for first in range(0, draws, block):
        rows = min(block, draws - first)
        chosen = rng.integers(0, num_clusters, size=(rows, num_clusters))
        chosen += np.arange(rows)[:, None] * num_clusters
        counts = np.bincount(chosen.ravel(), minlength=rows * num_clusters)
        yield counts.reshape(rows, num_clusters).astype(np.float64)


def _deviations(parts: NDArray[np.float64], counts: NDArray[np.float64]) -> _Deviations:
    """Of resamples that drew each cluster `counts` times; those without some member are left out.

    The error is the linearised one of a mean of ratios whose units are whole clusters (ratio
    estimates: Cochran, Sampling Techniques, 1977, chapter 6), with the factor C / (C - 1).

    Args:
        parts: K sums of deviations, then K counts, of each cluster [2K, C].
        counts: How often each cluster was drawn [b, C].
    """
    # einsum and not @: a matrix library's sums may depend on its number of threads.
    drawn, num_members = np.einsum("bc,pc->bp", counts, parts), len(parts) // 2
    usable = (drawn[:, num_members:] > 0).all(axis=1)
    counts, sums, sizes = counts[usable], *np.split(drawn[usable], 2, axis=1)
    shifts = sums / sizes
    slopes = np.concatenate([1 / sizes, -shifts / sizes], axis=1) / num_members
    influences = np.einsum("bp,pc->bc", slopes, parts)
    squares = np.einsum("bc,bc,bc->b", counts, influences, influences)
    return shifts.mean(axis=1), np.sqrt(squares * parts.shape[1] / (parts.shape[1] - 1))


# --- two systems on the same questions -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two systems on the same questions, first minus second."""

    difference: float
    """In percentage points."""
    ci95: tuple[float, float] | None
    """`difference_interval`, clustered by video."""
    only_first: int
    """Questions on which only the first is right, or the first is better."""
    only_second: int
    p_value: float
    """Of `test`, two-sided."""
    test: Literal["mcnemar-exact", "sign-flip"]
    """McNemar's where every question is right or wrong; else the clustered sign-flip test."""
    p_value_clustered: float
    """Two-sided sign-flip test that flips whole videos."""
    detectable: float | None
    """`smallest_difference` of these systems on as many questions, in percentage points."""


def paired_difference(
    first: Sequence[float] | NDArray[Any],
    second: Sequence[float] | NDArray[Any],
    clusters: Sequence[Hashable],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> PairedDifference:
    """Compare two systems question by question; the sequences are aligned and not empty.

    Args:
        first: Of each question whether it is right (bool), or its value in percent.
        second: The same of the other system.
        clusters: The video of each question.
        seed: Of resamples and of sign flips.
        num_resamples: Draws of the interval.
    """
    a, b = _in_percent(first), _in_percent(second)
    if not len(a) == len(b) == len(clusters) or not len(a):
        raise ValueError(f"not aligned: {len(a)}, {len(b)} and {len(clusters)} rows")
    gain = a - b
    only_first, only_second = int((gain > 0).sum()), int((gain < 0).sum())
    judged = bool(np.isin(np.concatenate([a, b]), (0.0, 100.0)).all())
    by_video = sign_flip(gain, clusters, seed)
    return PairedDifference(
        difference=float(np.sort(gain).mean()),
        ci95=difference_interval(gain, clusters, seed, num_resamples),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second) if judged else by_video,
        test="mcnemar-exact" if judged else "sign-flip",
        p_value_clustered=by_video,
        detectable=smallest_difference(gain, clusters),
    )


def _in_percent(values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
    array = np.asarray(values)
    return array.astype(np.float64) * (100.0 if array.dtype == np.bool_ else 1.0)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar p-value; 1 when the systems never disagree.

    It takes the questions as independent. Where those about one video tend to flip together its
    p-values are too small; `sign_flip` is the test that allows for it.
    """
    from scipy.stats import binomtest  # a second to import, and only comparisons need it

    disagreements = only_first + only_second
    return float(binomtest(only_first, disagreements).pvalue) if disagreements else 1.0


def sign_flip(
    gains: Sequence[float] | NDArray[Any],
    clusters: Sequence[Hashable],
    seed: int = 0,
    num_flips: int = NUM_FLIPS,
) -> float:
    """Two-sided p-value that the sum of `gains` is zero, flipping the sign of whole clusters.

    If the systems are alike, each could have given the other's answers on any video, and every
    pattern of signs is as likely as the one seen. All patterns are tried where they are at most
    `num_flips`, otherwise so many random ones and the observed one.
    """
    array = np.asarray(gains, dtype=np.float64)
    sums = _cluster_totals(array, [""] * len(array), clusters, ("",))[:, 0, 0]
    sums = sums[sums != 0]
    if 2 ** min(len(sums), 64) <= num_flips:
        return _share_as_large(sums, _all_signs(len(sums)))
    as_large = 1.0
    for signs in _random_signs(len(sums), np.random.default_rng(seed), num_flips):
        as_large += len(signs) * _share_as_large(sums, signs)
    return as_large / (num_flips + 1)


def _all_signs(count: int) -> NDArray[np.float64]:
    """Every pattern of `count` signs [2 ** count, count]."""
    numbers = np.arange(2**count)[:, None]
    return (2 * (numbers >> np.arange(count) & 1) - 1).astype(np.float64)


def _share_as_large(sums: NDArray[np.float64], signs: NDArray[np.float64]) -> float:
    """Share of the patterns whose sum is at least as far from zero as the observed one."""
    observed = abs(float(sums.sum())) * (1 - ROUNDING)
    return float((np.abs(np.einsum("bc,c->b", signs, sums)) >= observed).mean())


def smallest_difference(
    gains: Sequence[float] | NDArray[Any], clusters: Sequence[Hashable]
) -> float | None:
    """The true difference that a comparison like this one would find four times in five.

    Size of McNemar's two-sided test at 5 %: n d² = (z(0.975) √ψ + z(0.8) √(ψ - d²))², solved for d
    (Connor, Biometrics 43, 1987, 207-211), with ψ the share of questions on which the systems
    differ, or the mean square of the gains where these are not right or wrong. n is the number of
    questions over the design effect, the clustered variance of the mean gain over that of
    independent questions (Kish, Survey Sampling, 1965, 8.2), and no less than 1.

    Args:
        gains: First minus second of each question, in percent.
        clusters: The video of each question.

    Returns:
        Percentage points; none with fewer than two videos, or where even systems that differ on
        this many questions always in the same direction would not be told apart.
    """
    from scipy.stats import norm

    array = np.asarray(gains, dtype=np.float64) / 100.0
    effect, sizes = _design_effect(array, clusters), np.sort(np.abs(array))
    differing, reachable = float((sizes**2).mean()), float(sizes.mean())
    if effect is None or not differing:
        return None
    effective, by_chance, missed = len(array) / effect, norm.ppf(0.975), norm.ppf(POWER)
    radius = hypot(sqrt(effective), missed)
    if by_chance >= radius:
        return None
    # With d = √ψ sin(x) the equation is √n sin(x) - z(0.8) cos(x) = z(0.975).
    found = sqrt(differing) * sin(atan2(missed, sqrt(effective)) + asin(by_chance / radius))
    return 100.0 * found if found <= reachable else None


def _design_effect(gains: NDArray[np.float64], clusters: Sequence[Hashable]) -> float | None:
    """Clustered over independent variance of the mean, 1 or more; none for one cluster."""
    totals = _cluster_totals(gains, [""] * len(gains), clusters, ("",))[:, :, 0]
    if len(totals) < 2:
        return None
    mean = totals[:, 0].sum() / len(gains)
    within = float(((np.sort(gains) - mean) ** 2).sum()) / (len(gains) - 1)
    if within == 0:
        return 1.0
    between = float(((totals[:, 0] - mean * totals[:, 1]) ** 2).sum()) / (len(totals) - 1)
    return max(1.0, between * len(totals) / len(gains) / within)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that one false alarm among all is held at the level.

    Holm, Scandinavian Journal of Statistics 6, 1979, 65-70; valid however the tests depend.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[at]))
        adjusted[at] = largest
    return adjusted
