"""Moment retrieval and highlight detection as QVHighlights measures them.

Reads and writes nothing: `score_moments` takes the true spans and ratings of queries and what was
predicted for each, and works on all queries at once. Definitions: `specs/benchmarks.md` 6.

Axes: Q queries, P predicted windows (ten at most), G true windows, T thresholds, L clips of 2 s,
R raters, H highlight levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Smallest overlap (intersection over union) that counts as found."""
RANGES: dict[str, tuple[float, float] | None] = {
    "full": None,
    "short": (0.0, 10.0),
    "middle": (10.0, 30.0),
    "long": (30.0, 150.0),
}
"""Lengths in seconds of the true windows that a range is about, beyond the first up to the second;
none: every window."""
LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}
"""Lowest rating that makes a clip a highlight."""
MAX_WINDOWS = 10
"""Windows of a query that average precision looks at: the first ones of its list."""
CLIP_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Moments:
    """What a system says about one query."""

    windows: tuple[tuple[float, float, float], ...]
    """(start, end, score) in seconds, in the system's order."""
    saliency: tuple[float, ...] | None = None
    """One number per clip of 2 s, more is better; none: not said."""


@dataclass(frozen=True, slots=True)
class MomentTruth:
    """What is known about one query."""

    spans: tuple[tuple[float, float], ...]
    """Where the moment is, in seconds; at least one."""
    duration: float | None = None
    """Length of the clip in seconds; none: that of the ratings."""
    saliency: tuple[tuple[int, ...], ...] = ()
    """Ratings [clip][rater], 0 to 4; empty: not known."""


@dataclass(frozen=True, slots=True)
class MomentScores:
    """Figures in percent, not rounded, and each query's share of the first of them."""

    metrics: dict[str, Any]
    r1: Floats
    """[Q], 100 where the first window overlaps by half at least, else 0."""
    ap: Floats
    """[Q], average precision over the thresholds, all windows counted."""
    notes: list[str]


def score_moments(
    truths: Sequence[MomentTruth], predictions: Sequence[Moments], *, as_published: bool = False
) -> MomentScores:
    """R1, mAP and highlight figures of queries that all have a prediction.

    A query without predicted windows is a miss: R1 0 and average precision 0. With `as_published`
    it is left out of mAP, and there is no R1, because the public scorer stops at such a query.
    `R1@t` judges the first window of each list whatever its score; mAP takes the first ten in list
    order, sorts them by score (equal ones stay in list order) and lets each find the free true
    window of highest overlap, the later one of equals. Ranges filter the true windows by length,
    and the queries that have one left.

    Args:
        truths: Q queries with their spans.
        predictions: What was predicted for each.
        as_published: The public scorer's way with queries without windows.

    Raises:
        ValueError: The sequences are empty or not aligned.
    """
    if len(truths) != len(predictions) or not truths:
        raise ValueError(f"{len(truths)} queries and {len(predictions)} predictions")
    true, known = _padded([truth.spans for truth in truths], 2)
    ordered, given = _ten_by_score(predictions)
    first, _ = _padded([item.windows[:1] for item in predictions], 3)
    answered = np.array([bool(item.windows) for item in predictions])
    overlap = _overlaps(ordered[:, :, :2], true)
    best = _overlaps(first[:, :1, :2], true)[:, 0]
    hull = _hull_overlaps(first[:, 0, :2], true)
    lengths = true[:, :, 1] - true[:, :, 0]
    tables: dict[str, Any] = {}
    hits = precisions = np.zeros((len(truths), len(THRESHOLDS)))
    for name, limits in RANGES.items():
        wanted = known if limits is None else known & _within(lengths, limits)
        range_hits = _first_hits(best, hull, wanted) & answered[:, None]
        range_precisions = _average_precisions(overlap, given, wanted)
        if limits is None:
            hits, precisions = range_hits.astype(np.float64), range_precisions
        asked = wanted.any(axis=1)
        if asked.any():
            tables[name] = _range_table(
                range_hits[asked], range_precisions[asked], answered[asked], as_published
            )
    notes = _empty_notes(int((~answered).sum()), as_published)
    metrics = _headline(tables) | highlight_metrics(truths, predictions, notes)
    return MomentScores(
        metrics | {"ranges": tables}, 100.0 * hits[:, 0], 100.0 * precisions.mean(axis=1), notes
    )


def _empty_notes(count: int, as_published: bool) -> list[str]:
    if not count:
        return []
    if as_published:
        return [
            f"{count} queries have no predicted window: left out of mAP; no R1, because the "
            "public scorer stops there"
        ]
    return [f"{count} queries have no predicted window: a miss in R1 and 0 in mAP"]


def _headline(tables: dict[str, Any]) -> dict[str, Any]:
    """The figures that papers print, by the names of the JSON output."""
    metrics: dict[str, Any] = {}
    full = tables.get("full", {})
    for threshold in ("0.5", "0.7"):
        if "R1" in full:
            metrics[f"R1@{threshold}"] = full["R1"][threshold]
    if "mAP" in full:
        metrics["mAP"] = full["mAP"]["average"]
        metrics |= {f"mAP@{name}": full["mAP"][name] for name in ("0.5", "0.75")}
    for name in ("short", "middle", "long"):
        if "mAP" in tables.get(name, {}):
            metrics[f"MR-{name}-mAP"] = tables[name]["mAP"]["average"]
    return metrics


def _range_table(
    hits: Bools, precisions: Floats, answered: Bools, as_published: bool
) -> dict[str, Any]:
    """`{"R1": {threshold: value}, "mAP": {threshold: value, "average": value}}` of one range."""
    names = [f"{threshold:g}" for threshold in THRESHOLDS]
    table: dict[str, Any] = {}
    if answered.all() or not as_published:
        table["R1"] = dict(zip(names, (100.0 * hits.mean(axis=0)).tolist(), strict=True))
    counted = precisions[answered] if as_published else precisions
    if len(counted):
        means = 100.0 * counted.mean(axis=0)
        table["mAP"] = dict(zip(names, means.tolist(), strict=True))
        table["mAP"]["average"] = float(means.mean())
    return table


# --- arrays ----------------------------------------------------------------------------------


def _padded(rows: Sequence[Sequence[Sequence[float]]], width: int) -> tuple[Floats, Bools]:
    """Lists of different lengths as [Q, longest (at least one), width], and what is no padding."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    present = np.arange(max(1, int(lengths.max()))) < lengths[:, None]
    out = np.zeros((*present.shape, width))
    flat = [number for row in rows for item in row for number in item]
    out[present] = np.array(flat, np.float64).reshape(-1, width)
    return out, present


def _ten_by_score(predictions: Sequence[Moments]) -> tuple[Floats, Bools]:
    """The first ten windows of each query by falling score [Q, P, 3], and which P there are."""
    windows, present = _padded([item.windows[:MAX_WINDOWS] for item in predictions], 3)
    falling = np.where(present, -windows[:, :, 2], np.inf)
    order = np.argsort(falling, axis=1, kind="stable")
    return np.take_along_axis(windows, order[:, :, None], axis=1), present


def _overlaps(windows: Floats, true: Floats) -> Floats:
    """Intersection over union of [Q, P, 2] and [Q, G, 2] as [Q, P, G]; 0 where both are empty."""
    start, end = windows[:, :, None, 0], windows[:, :, None, 1]
    low, high = true[:, None, :, 0], true[:, None, :, 1]
    shared = np.maximum(0.0, np.minimum(end, high) - np.maximum(start, low))
    union = (end - start) + (high - low) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _hull_overlaps(windows: Floats, true: Floats) -> Floats:
    """Intersection over the hull of both, of [Q, 2] and [Q, G, 2] as [Q, G]."""
    start, end = windows[:, :1], windows[:, 1:]
    low, high = true[:, :, 0], true[:, :, 1]
    shared = np.maximum(0.0, np.minimum(end, high) - np.maximum(start, low))
    hull = np.maximum(end, high) - np.minimum(start, low)
    return np.divide(shared, hull, out=np.zeros_like(shared), where=hull > 0)


def _within(lengths: Floats, limits: tuple[float, float]) -> Bools:
    inside: Bools = (lengths > limits[0]) & (lengths <= limits[1])
    return inside


def _first_hits(best: Floats, hull: Floats, wanted: Bools) -> Bools:
    """[Q, T]: whether the first window hits the wanted true one that it overlaps most."""
    chosen = np.where(wanted, best, -1.0).argmax(axis=1)
    reached = np.take_along_axis(hull, chosen[:, None], axis=1)
    return (reached >= np.array(THRESHOLDS)) & wanted.any(axis=1, keepdims=True)


def _average_precisions(overlap: Floats, given: Bools, wanted: Bools) -> Floats:
    """Interpolated average precision [Q, T] of windows in falling order of score.

    Only predictions that overlap by the lowest threshold can match, so everything else is decided
    without looking at the thresholds.
    """
    candidates = np.where(given[:, :, None] & wanted[:, None, :], overlap, -1.0)
    found = np.zeros((len(candidates), len(THRESHOLDS), candidates.shape[1]), np.bool_)
    hopeful = np.flatnonzero((candidates >= THRESHOLDS[0]).any(axis=(1, 2)))
    for rows in _alike(hopeful, wanted):
        found[rows] = _matched(candidates[rows][:, :, : _width(wanted[rows])])
    ranks = np.arange(1, found.shape[2] + 1)
    precision = np.where(given[:, None, :], np.cumsum(found, axis=2) / ranks, 0.0)
    envelope = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
    windows = np.maximum(1, wanted.sum(axis=1))
    return (envelope * found).sum(axis=2) / windows[:, None]


def _width(wanted: Bools) -> int:
    """Up to which true window any is wanted."""
    return int(np.flatnonzero(wanted.any(axis=0))[-1]) + 1


def _alike(rows: NDArray[np.intp], wanted: Bools) -> list[NDArray[np.intp]]:
    """`rows` in groups of similar numbers of true windows, so that few cells are padding."""
    last = wanted.shape[1] - wanted[rows][:, ::-1].argmax(axis=1)
    group = np.ceil(np.log2(last))
    return [rows[group == value] for value in np.unique(group)]


def _matched(overlap: Floats) -> Bools:
    """[Q, T, P]: whether each window, in order, finds a true one [Q, P, G] that is still free.

    Overlaps are negative where there is nothing to match.
    """
    queries, windows, truths = overlap.shape
    limits = np.array(THRESHOLDS)[None, :, None]
    free = np.ones((queries, len(THRESHOLDS), truths), np.bool_)
    found = np.zeros((queries, len(THRESHOLDS), windows), np.bool_)
    for rank in range(windows):
        column = overlap[:, None, rank, :]
        # The last of equal overlaps is taken, as in an ascending sort read backwards.
        open_to = np.where(free & (column >= limits), column, -1.0)[:, :, ::-1]
        chosen = truths - 1 - open_to.argmax(axis=2)
        found[:, :, rank] = open_to.max(axis=2) > 0
        query, threshold = np.nonzero(found[:, :, rank])
        free[query, threshold, chosen[query, threshold]] = False
    return found


# --- highlights ------------------------------------------------------------------------------


def highlight_metrics(
    truths: Sequence[MomentTruth], predictions: Sequence[Moments], notes: list[str]
) -> dict[str, float]:
    """`HL-min-<level>-mAP` and `-Hit1` of the queries with ratings; `{}` if nobody predicts any.

    A query with ratings but without predicted saliency counts 0; `notes` says how many there are.
    """
    rated = [index for index, truth in enumerate(truths) if truth.saliency]
    said = [index for index in rated if predictions[index].saliency is not None]
    if not said:
        return {}
    if len(said) < len(rated):
        notes.append(f"{len(rated) - len(said)} queries have no saliency scores: they count 0")
    ratings, scores, present = _saliency_arrays(
        [truths[index] for index in said], [predictions[index] for index in said]
    )
    top = np.array([int(np.argmax(predictions[index].saliency or (0.0,))) for index in said])
    metrics = {}
    for name, lowest in LEVELS.items():
        positive = (ratings >= lowest) & present[:, :, None]
        precision = _highlight_precision(scores, positive, present)
        hit = _top_hits(top, positive)
        metrics[f"HL-min-{name}-mAP"] = 100.0 * float(precision.mean(axis=1).sum()) / len(rated)
        metrics[f"HL-min-{name}-Hit1"] = 100.0 * float(hit.sum()) / len(rated)
    return metrics


def num_clips(truth: MomentTruth) -> int:
    """Clips of 2 s in a query's video."""
    seconds = truth.duration
    return len(truth.saliency) if seconds is None else math.floor(seconds / CLIP_SECONDS)


def _saliency_arrays(
    truths: Sequence[MomentTruth], predictions: Sequence[Moments]
) -> tuple[NDArray[np.int64], Floats, Bools]:
    """Ratings [Q, L, R], scores [Q, L] cut or filled with zeros, and which clips there are."""
    counts = np.array([num_clips(truth) for truth in truths])
    raters = max(len(clip) for truth in truths for clip in truth.saliency)
    present = np.arange(max(1, int(counts.max()))) < counts[:, None]
    ratings = np.zeros((*present.shape, raters), np.int64)
    scores = np.zeros(present.shape)
    for row, (truth, item) in enumerate(zip(truths, predictions, strict=True)):
        known = truth.saliency[: counts[row]]
        ratings[row, : len(known)] = known
        said = (item.saliency or ())[: counts[row]]
        scores[row, : len(said)] = said
    return ratings, scores, present


def _top_hits(top: NDArray[np.int64], positive: Bools) -> Bools:
    """[Q]: whether the clip of highest score is one of a rater's; beyond the end it is none."""
    inside = top < positive.shape[1]
    rows = np.arange(len(top))
    hit: Bools = positive[rows, np.where(inside, top, 0)].any(axis=1) & inside
    return hit


def _highlight_precision(scores: Floats, positive: Bools, present: Bools) -> Floats:
    """Interpolated average precision [Q, R]; 0 without a positive clip, 1 with no other.

    The precision-recall curve has one point per distinct score. The mean is over the points at
    which recall rises, each with the best precision at its recall or a higher one.
    """
    order = np.argsort(np.where(present, -scores, np.inf), axis=1, kind="stable")
    score = np.take_along_axis(scores, order, axis=1)
    there = np.take_along_axis(present, order, axis=1)
    ordered = np.take_along_axis(positive, order[:, :, None], axis=1)
    right = np.cumsum(ordered, axis=1, dtype=np.int64)
    last = np.ones_like(there)
    last[:, :-1] = (score[:, 1:] != score[:, :-1]) | ~there[:, 1:]
    ends = last & there
    point = ends[:, :, None]
    precision = np.where(point, right / np.arange(1, score.shape[1] + 1)[:, None], 0.0)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    rises = point & (right > _at_point_before(right, ends))
    mean = (envelope * rises).sum(axis=1) / np.maximum(1, rises.sum(axis=1))
    total = positive.sum(axis=1)
    return np.where(total == present.sum(axis=1)[:, None], 1.0 * (total > 0), mean)


def _at_point_before(right: NDArray[np.int64], point: Bools) -> NDArray[np.int64]:
    """Positives [Q, L, R] counted up to the last point strictly before each place."""
    places = np.where(point, np.arange(point.shape[1]), -1)
    before = np.full_like(places, -1)
    before[:, 1:] = np.maximum.accumulate(places, axis=1)[:, :-1]
    counted = np.take_along_axis(right, np.maximum(before, 0)[:, :, None], axis=1)
    return np.where((before >= 0)[:, :, None], counted, 0)
