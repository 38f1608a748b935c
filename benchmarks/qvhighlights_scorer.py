"""How fast QVHighlights is scored, beside a plain numpy loop over the same definition.

    python benchmarks/qvhighlights_scorer.py [--annotations FILE --predictions FILE] [--rounds 7]

Without files a split of the size of val (1,550 queries, ten windows and 75 clips each) is
generated. Both score the same queries in one process, one after the other in every round; all
their figures have to agree to 1e-9. Reading files is not timed. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.prediction_files.reading import read_predictions
from stages.benchmarks.prediction_files.values import moments
from stages.benchmarks.readers import read_questions
from stages.benchmarks.scorers.moments import (
    LEVELS,
    MAX_WINDOWS,
    RANGES,
    THRESHOLDS,
    Moments,
    MomentTruth,
    score_moments,
)

TOLERANCE = 1e-9
QUERIES, CLIPS, RATERS = 1550, 75, 3

Split = tuple[list[MomentTruth], list[Moments]]
Figures = dict[str, float]


# --- the plain loop --------------------------------------------------------------------------


def loop_scores(truths: Sequence[MomentTruth], predictions: Sequence[Moments]) -> Figures:
    """Every figure, query by query, as one would write it down from the definition."""
    figures: Figures = {}
    for name, limits in RANGES.items():
        hits, precisions = [], []
        for truth, predicted in zip(truths, predictions, strict=True):
            windows = np.array(
                [
                    span
                    for span in truth.spans
                    if limits is None or limits[0] < span[1] - span[0] <= limits[1]
                ]
            )
            if len(windows):
                hits.append(first_hits(predicted, windows))
                precisions.append(average_precision(predicted, windows))
        for index, threshold in enumerate(THRESHOLDS):
            figures[f"{name} R1@{threshold:g}"] = 100 * np.mean([hit[index] for hit in hits])
            figures[f"{name} mAP@{threshold:g}"] = 100 * np.mean([ap[index] for ap in precisions])
        figures[f"{name} mAP"] = 100 * np.mean(precisions)
    return figures | loop_highlights(truths, predictions)


def overlaps(window: Any, windows: Any) -> Any:
    """Intersection over union of one window with several."""
    shared = np.minimum(window[1], windows[:, 1]) - np.maximum(window[0], windows[:, 0])
    shared = np.maximum(shared, 0)
    return shared / ((window[1] - window[0]) + (windows[:, 1] - windows[:, 0]) - shared)


def first_hits(predicted: Moments, windows: Any) -> list[bool]:
    """Whether the first window of the list is good enough, by threshold."""
    if not predicted.windows:
        return [False] * len(THRESHOLDS)
    first = predicted.windows[0]
    best = windows[overlaps(first, windows).argmax()]
    shared = max(0.0, min(first[1], best[1]) - max(first[0], best[0]))
    hull = max(first[1], best[1]) - min(first[0], best[0])
    return [shared / hull >= threshold for threshold in THRESHOLDS]


def average_precision(predicted: Moments, windows: Any) -> list[float]:
    """Interpolated average precision by threshold."""
    ordered = sorted(predicted.windows[:MAX_WINDOWS], key=lambda window: -window[2])
    overlap = [overlaps(window, windows) for window in ordered]
    order = [np.argsort(row, kind="stable")[::-1] for row in overlap]
    precisions = []
    for threshold in THRESHOLDS:
        free = np.ones(len(windows), bool)
        found = np.zeros(len(ordered))
        for rank, row in enumerate(overlap):
            for window in order[rank]:
                if row[window] < threshold:
                    break
                if free[window]:
                    free[window] = False
                    found[rank] = 1
                    break
        precision = np.cumsum(found) / np.arange(1, len(ordered) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        precisions.append(float((envelope * found).sum() / len(windows)))
    return precisions


def loop_highlights(truths: Sequence[MomentTruth], predictions: Sequence[Moments]) -> Figures:
    """Average precision per rater, and the best clip, by level."""
    figures: Figures = {}
    for level, lowest in LEVELS.items():
        precisions, hits = [], []
        for truth, predicted in zip(truths, predictions, strict=True):
            positive = np.array(truth.saliency) >= lowest
            scores = np.zeros(len(positive))
            said = np.array(predicted.saliency)[: len(positive)]
            scores[: len(said)] = said
            top = int(np.argmax(predicted.saliency or ()))
            hits.append(top < len(positive) and positive[top].any())
            precisions += [highlight_precision(scores, column) for column in positive.T]
        figures[f"HL-min-{level}-mAP"] = 100 * np.mean(precisions)
        figures[f"HL-min-{level}-Hit1"] = 100 * np.mean(hits)
    return figures


def highlight_precision(scores: Any, positive: Any) -> float:
    """Mean precision over the scores at which recall rises, each the best at its recall or more."""
    if positive.all() or not positive.any():
        return float(positive.all())
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    right = np.cumsum(positive[order])[ends]
    precision = right / (ends + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[np.diff(right, prepend=0) > 0].mean())


# --- what is scored --------------------------------------------------------------------------


def read_split(annotations: Path, predictions: Path) -> Split:
    """The queries of official files, with what was predicted for each."""
    manifest = load_manifest("qvhighlights")
    questions = read_questions(manifest, "val", annotations).questions
    given = {i.question_id: i for i in read_predictions(predictions, manifest).given}
    truths = [MomentTruth(q.spans, q.duration, q.saliency) for q in questions]
    said = [moments(given[q.question_id].value)[0] for q in questions]
    if None in said:
        raise SystemExit("a query has no usable prediction")
    return truths, [item for item in said if item is not None]


def generated_split(seed: int) -> Split:
    """As many queries as val has, with windows on the 2 s grid and ratings inside them."""
    generator = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(QUERIES):
        edges = np.sort(generator.choice(CLIPS + 1, 2 * int(generator.integers(1, 5)), False))
        spans = tuple((2.0 * low, 2.0 * high) for low, high in edges.reshape(-1, 2).tolist())
        inside = np.zeros(CLIPS, bool)
        for low, high in edges.reshape(-1, 2):
            inside[low:high] = True
        ratings = np.where(inside[:, None], generator.integers(0, 5, (CLIPS, RATERS)), 0)
        truths.append(MomentTruth(spans, 2.0 * CLIPS, tuple(map(tuple, ratings.tolist()))))
        near = np.clip(edges[:2] * 2 + generator.normal(0, 4, (10, 2)), 0, 2 * CLIPS)
        scores = np.sort(generator.random(10))[::-1].round(4)
        windows = np.column_stack([np.sort(near, axis=1), scores])
        saliency = (inside + generator.normal(0, 1, CLIPS)).round(2)
        predictions.append(Moments(tuple(map(tuple, windows.tolist())), tuple(saliency.tolist())))
    return truths, predictions


# --- comparing -------------------------------------------------------------------------------


def flat(metrics: dict[str, Any]) -> Figures:
    """Our figures under the loop's names."""
    figures = {name: value for name, value in metrics.items() if name.startswith("HL-")}
    for name, table in metrics["ranges"].items():
        for threshold in THRESHOLDS:
            figures[f"{name} R1@{threshold:g}"] = table["R1"][f"{threshold:g}"]
            figures[f"{name} mAP@{threshold:g}"] = table["mAP"][f"{threshold:g}"]
        figures[f"{name} mAP"] = table["mAP"]["average"]
    return figures


def largest_difference(ours: Figures, plain: Figures) -> float:
    """Between two scorers; an error if one has a figure that the other lacks."""
    if ours.keys() != plain.keys():
        raise SystemExit(f"figures differ: {sorted(ours.keys() ^ plain.keys())}")
    return max(abs(ours[name] - plain[name]) for name in ours)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if options.annotations and options.predictions:
        source = f"{options.annotations.name}, {options.predictions.name}"
        truths, predictions = read_split(options.annotations, options.predictions)
    else:
        source, (truths, predictions) = "generated", generated_split(seed=0)
    difference = largest_difference(
        flat(score_moments(truths, predictions).metrics), loop_scores(truths, predictions)
    )
    if difference > TOLERANCE:
        raise SystemExit(f"the two scorers differ by {difference}")
    ours, plain = [], []
    for _ in range(options.rounds):
        ours.append(seconds(lambda: score_moments(truths, predictions)))
        plain.append(seconds(lambda: loop_scores(truths, predictions)))
    result = {
        "benchmark": "qvhighlights_scorer",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": "python benchmarks/qvhighlights_scorer.py"
        + ("" if source == "generated" else " --annotations FILE --predictions FILE"),
        "source": source,
        "queries": len(truths),
        "rounds": options.rounds,
        "seconds": {"ours": statistics.median(ours), "loop": statistics.median(plain)},
        "seconds_all": {"ours": ours, "loop": plain},
        "ratio": statistics.median(ours) / statistics.median(plain),
        "largest_difference": difference,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
