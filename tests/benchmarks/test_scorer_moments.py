"""Moment retrieval and highlights: the written rules, and the same figures from a plain loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.scorers.moments import (
    LEVELS,
    RANGES,
    THRESHOLDS,
    Moments,
    MomentTruth,
    score_moments,
)

Window = tuple[float, float, float]


def truth(*spans: tuple[float, float], **values: Any) -> MomentTruth:
    return MomentTruth(spans=spans, **values)


def said(*windows: Window, saliency: tuple[float, ...] | None = None) -> Moments:
    return Moments(windows, saliency)


def metrics_of(truths: list[MomentTruth], predictions: list[Moments], **rules: Any) -> Any:
    return score_moments(truths, predictions, **rules).metrics


# --- a second implementation, in plain Python ------------------------------------------------


def plain_overlap(window: Window, span: tuple[float, float]) -> float:
    shared = max(0.0, min(window[1], span[1]) - max(window[0], span[0]))
    union = (window[1] - window[0]) + (span[1] - span[0]) - shared
    return shared / union if union > 0 else 0.0


def plain_ap(windows: list[Window], spans: list[tuple[float, float]], threshold: float) -> float:
    """Average precision by walking down the list; equal overlaps go to the later span."""
    free, hits, precisions = set(range(len(spans))), 0, []
    for rank, window in enumerate(sorted(windows[:10], key=lambda item: -item[2]), 1):
        overlaps = {index: plain_overlap(window, spans[index]) for index in free}
        matching = [index for index in overlaps if overlaps[index] >= threshold]
        best = max(matching, key=lambda index: (overlaps[index], index), default=None)
        if best is not None:
            free.remove(best)
            hits += 1
        precisions.append((hits / rank, best is not None))
    total = 0.0
    for place, (_, found) in enumerate(precisions):
        if found:
            total += max(value for value, _ in precisions[place:])
    return total / len(spans)


def plain_figures(truths: list[MomentTruth], predictions: list[Moments]) -> dict[str, float]:
    figures = {}
    for name, limits in RANGES.items():
        asked = []
        for one, item in zip(truths, predictions, strict=True):
            spans = [
                span
                for span in one.spans
                if limits is None or limits[0] < span[1] - span[0] <= limits[1]
            ]
            if spans:
                asked.append((spans, list(item.windows)))
        for threshold in THRESHOLDS if asked else ():
            hits = [
                bool(windows)
                and max(plain_overlap(windows[0], span) for span in spans) >= threshold
                for spans, windows in asked
            ]
            values = [plain_ap(windows, spans, threshold) for spans, windows in asked]
            figures[f"{name} R1 {threshold:g}"] = 100 * sum(hits) / len(asked)
            figures[f"{name} mAP {threshold:g}"] = 100 * sum(values) / len(asked)
    return figures


@st.composite
def queries(draw: st.DrawFn) -> tuple[list[MomentTruth], list[Moments]]:
    """Disjoint spans on the 2 s grid and windows that often touch them, with tied scores."""
    truths, predictions = [], []
    for _ in range(draw(st.integers(1, 4))):
        edges = sorted(draw(st.sets(st.integers(0, 75), min_size=2, max_size=8)))
        spans = tuple(
            (2.0 * low, 2.0 * high) for low, high in zip(edges[::2], edges[1::2], strict=False)
        )
        truths.append(MomentTruth(spans))
        windows = draw(
            st.lists(
                st.tuples(
                    st.integers(0, 150), st.integers(0, 60), st.sampled_from([0.1, 0.5, 0.9])
                ),
                max_size=13,
            )
        )
        exact = draw(st.lists(st.sampled_from(spans), max_size=2))
        made = [(float(start), float(start + size), score) for start, size, score in windows]
        made += [(low, high, 0.5) for low, high in exact]
        predictions.append(Moments(tuple(draw(st.permutations(made)))))
    return truths, predictions


@settings(deadline=None, max_examples=150)
@given(queries())
def test_all_figures_equal_those_of_a_plain_loop(
    split: tuple[list[MomentTruth], list[Moments]],
) -> None:
    ranges = metrics_of(*split)["ranges"]
    ours = {
        f"{name} {figure} {threshold:g}": ranges[name][figure][f"{threshold:g}"]
        for name in ranges
        for figure in ("R1", "mAP")
        for threshold in THRESHOLDS
    }
    assert ours == pytest.approx(plain_figures(*split), abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(queries())
def test_figures_are_percentages_that_fall_with_the_threshold(
    split: tuple[list[MomentTruth], list[Moments]],
) -> None:
    for table in metrics_of(*split)["ranges"].values():
        for figure in ("R1", "mAP"):
            values = [table[figure][f"{threshold:g}"] for threshold in THRESHOLDS]
            assert all(0 <= value <= 100 for value in values)
        assert table["R1"]["0.5"] == max(table["R1"].values())
        rest = [value for name, value in table["mAP"].items() if name != "average"]
        assert table["mAP"]["average"] == pytest.approx(sum(rest) / len(rest))


@settings(deadline=None, max_examples=50)
@given(queries())
def test_perfect_predictions_score_a_hundred(
    split: tuple[list[MomentTruth], list[Moments]],
) -> None:
    truths = split[0]
    perfect = [
        Moments(tuple((low, high, 1.0 - 0.01 * n) for n, (low, high) in enumerate(one.spans)))
        for one in truths
    ]
    full = metrics_of(truths, perfect)["ranges"]["full"]
    assert full["R1"]["0.95"] == 100.0
    assert full["mAP"] == pytest.approx(dict.fromkeys(full["mAP"], 100.0))


# --- the written rules -----------------------------------------------------------------------


def test_r1_judges_the_first_window_of_the_list_whatever_its_score() -> None:
    metrics = metrics_of([truth((0, 10))], [said((50, 60, 0.1), (0, 10, 0.9))])
    assert metrics["R1@0.5"] == 0.0
    assert metrics["mAP@0.5"] == 100.0


def test_only_the_first_ten_windows_of_the_list_count_for_map() -> None:
    far = [(100.0 + n, 101.0 + n, 0.1) for n in range(10)]
    hit = (0.0, 10.0, 0.9)
    assert metrics_of([truth((0, 10))], [said(*far, hit)])["mAP@0.5"] == 0.0
    assert metrics_of([truth((0, 10))], [said(*far[:9], hit)])["mAP@0.5"] == 100.0


def test_equal_scores_stay_in_list_order() -> None:
    hit, miss = (0.0, 10.0, 0.5), (100.0, 110.0, 0.5)
    assert metrics_of([truth((0, 10))], [said(hit, miss)])["mAP@0.5"] == 100.0
    assert metrics_of([truth((0, 10))], [said(miss, hit)])["mAP@0.5"] == 50.0


def test_of_two_windows_that_overlap_equally_the_later_one_is_matched() -> None:
    """[0, 4] overlaps [0, 2] and [2, 4] by one half each; [0, 2] must be left for the second."""
    both = truth((0, 2), (2, 4))
    metrics = metrics_of([both], [said((0, 4, 0.9), (0, 2, 0.8))])
    assert metrics["mAP@0.5"] == 100.0
    assert metrics_of([both], [said((0, 4, 0.9), (2, 4, 0.8))])["mAP@0.5"] == 50.0


def test_precision_is_interpolated() -> None:
    """Found, missed, found: 1 and max(2/3) at the second step, over two windows."""
    metrics = metrics_of(
        [truth((0, 10), (20, 30))], [said((0, 10, 0.9), (50, 60, 0.8), (20, 30, 0.7))]
    )
    assert metrics["mAP@0.5"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_ranges_filter_the_true_windows_and_drop_queries_without_one() -> None:
    truths = [truth((0, 10), (20, 60)), truth((0, 30))]
    metrics = metrics_of(truths, [said((0, 10, 0.9)), said((0, 30, 0.9))])
    assert metrics["MR-short-mAP"] == pytest.approx(100.0)
    assert metrics["MR-middle-mAP"] == pytest.approx(100.0)
    assert metrics["MR-long-mAP"] == 0.0
    assert metrics["ranges"]["full"]["R1"]["0.5"] == 100.0
    short = metrics_of([truth((0, 30))], [said((0, 30, 0.9))])
    assert "MR-short-mAP" not in short
    assert set(short["ranges"]) == {"full", "middle"}


def test_a_query_without_windows_is_a_miss_and_said() -> None:
    truths = [truth((0, 10)), truth((0, 10))]
    result = score_moments(truths, [said((0, 10, 0.9)), said()])
    assert result.metrics["mAP"] == result.metrics["R1@0.5"] == 50.0
    assert result.notes == ["1 queries have no predicted window: a miss in R1 and 0 in mAP"]


def test_as_published_leaves_such_a_query_out_of_map_and_has_no_r1() -> None:
    truths = [truth((0, 10)), truth((0, 10))]
    result = score_moments(truths, [said((0, 10, 0.9)), said()], as_published=True)
    assert result.metrics["mAP"] == 100.0
    assert "R1@0.5" not in result.metrics
    assert "no R1" in result.notes[0]
    same = score_moments(truths[:1], [said((0, 10, 0.9))], as_published=True)
    assert same.metrics == score_moments(truths[:1], [said((0, 10, 0.9))]).metrics


def test_windows_of_no_length_overlap_with_nothing() -> None:
    metrics = metrics_of([truth((5, 5), (0, 10))], [said((5, 5, 0.9))])
    assert metrics["R1@0.5"] == metrics["mAP@0.5"] == 0.0


@settings(deadline=None, max_examples=30)
@given(queries())
def test_each_querys_share_averages_to_the_figure(
    split: tuple[list[MomentTruth], list[Moments]],
) -> None:
    result = score_moments(*split)
    assert result.r1.mean() == pytest.approx(result.metrics["R1@0.5"])
    assert result.ap.mean() == pytest.approx(result.metrics["mAP"])


def test_sequences_that_are_not_aligned_are_refused() -> None:
    with pytest.raises(ValueError, match="1 queries and 2 predictions"):
        score_moments([truth((0, 2))], [said(), said()])


# --- highlights ------------------------------------------------------------------------------


def rated(*ratings: tuple[int, int, int]) -> MomentTruth:
    return MomentTruth(((0.0, 2.0),), 2.0 * len(ratings), ratings)


def plain_highlight_ap(scores: list[float], positive: list[bool]) -> float:
    """By the definition: one point per distinct score, best precision at that recall or more."""
    if all(positive) or not any(positive):
        return float(all(positive))
    points = []
    for limit in sorted(set(scores), reverse=True):
        kept = [right for score, right in zip(scores, positive, strict=True) if score >= limit]
        points.append((sum(kept) / sum(positive), sum(kept) / len(kept)))
    values, before = [], 0.0
    for place, (recall, _) in enumerate(points):
        if recall > before:
            values.append(max(precision for _, precision in points[place:]))
        before = recall
    return sum(values) / len(values)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_highlight_figures_equal_those_of_the_definition(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 9))
    rating = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4))
    ratings = data.draw(st.lists(rating, min_size=count, max_size=count))
    scores = data.draw(
        st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5]), min_size=1, max_size=count + 2)
    )
    metrics = metrics_of([rated(*ratings)], [said((0, 2, 1), saliency=tuple(scores))])
    used = [*scores[:count], *([0.0] * (count - len(scores)))]
    for level, lowest in LEVELS.items():
        positive = [[one >= lowest for one in clip] for clip in ratings]
        raters = [[clip[rater] for clip in positive] for rater in range(3)]
        values = [plain_highlight_ap(used, column) for column in raters]
        top = scores.index(max(scores))
        assert metrics[f"HL-min-{level}-mAP"] == pytest.approx(100 * sum(values) / 3)
        hit = top < count and any(positive[top])
        assert metrics[f"HL-min-{level}-Hit1"] == 100.0 * hit


def test_a_best_clip_beyond_the_video_is_no_hit() -> None:
    one = rated((4, 4, 4), (0, 0, 0))
    metrics = metrics_of([one], [said((0, 2, 1), saliency=(0.1, 0.2, 0.9))])
    assert metrics["HL-min-VeryGood-Hit1"] == 0.0
    assert metrics_of([one], [said((0, 2, 1), saliency=(0.3,))])["HL-min-Fair-Hit1"] == 100.0


def test_queries_without_saliency_scores_count_nothing_and_are_said() -> None:
    truths = [rated((4, 4, 4), (0, 0, 0))] * 2
    result = score_moments(truths, [said((0, 2, 1), saliency=(0.9, 0.1)), said((0, 2, 1))])
    assert result.metrics["HL-min-Fair-mAP"] == result.metrics["HL-min-Fair-Hit1"] == 50.0
    assert result.notes == ["1 queries have no saliency scores: they count 0"]
    silent = score_moments(truths, [said((0, 2, 1))] * 2)
    assert not any(name.startswith("HL-") for name in silent.metrics)
    assert math.isfinite(silent.metrics["mAP"])
