"""From scored frames to spans: what each frame stands for, what is joined, what is kept."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.benchmarks.moment_gaps import GapTuning, ScoredQuestion, frame_metrics, tune_gap
from stages.benchmarks.moment_spans import (
    ScoredFrames,
    SpanRule,
    find_windows,
    frame_parts,
    merge_positive,
    predicted_moments,
    saliency,
)
from stages.benchmarks.questions import Question
from stages.core.errors import ConfigError, DataError

# --- fixtures ------------------------------------------------------------------------------------


def frames_of(
    marks: str, scores: list[float] | None = None, *, part: float = 2.0, **values: Any
) -> ScoredFrames:
    """Evenly sampled frames of `part` seconds each; `#` is positive."""
    times = tuple((place + 0.5) * part for place in range(len(marks)))
    margins = tuple(1.0 if mark == "#" else -1.0 for mark in marks)
    held = tuple(scores) if scores is not None else margins
    return ScoredFrames(times, held, margins, **({"duration": len(marks) * part} | values))


def spans_of(frames: ScoredFrames, **rule: Any) -> list[tuple[float, float]]:
    return [(start, end) for start, end, _ in find_windows(frames, SpanRule(**rule))]


def query(name: str, *spans: tuple[float, float], duration: float | None = 20.0) -> Question:
    return Question(
        name, ("v",), "a dog runs", (), None, None, None, None, None, spans, "val", 1,
        duration=duration,
    )  # fmt: skip


@st.composite
def scored_frames(draw: st.DrawFn) -> ScoredFrames:
    """Any clip: any times, even before or beyond its end, any scores."""
    count = draw(st.integers(1, 30))
    seconds = st.floats(0, 200, allow_nan=False, width=32)
    number = st.floats(-20, 20, allow_nan=False, width=32)
    start = draw(st.sampled_from([0.0, 7.5]))
    times = sorted(draw(st.lists(seconds, min_size=count, max_size=count)))
    scores = draw(st.lists(number, min_size=count, max_size=count))
    margins = draw(st.lists(number, min_size=count, max_size=count))
    duration = draw(st.none() | st.floats(1, 150, allow_nan=False))
    if draw(st.booleans()):
        duration = draw(st.floats(1, 150, allow_nan=False))
        times = [start + (place + 0.5) * duration / count for place in range(count)]
    shifted = tuple(start + seconds for seconds in times) if duration is None else tuple(times)
    return ScoredFrames(shifted, tuple(scores), tuple(margins), duration, start)


GAPS = st.floats(0, 50, allow_nan=False)
RULES = st.builds(
    SpanRule,
    gap=GAPS,
    threshold=st.none() | st.floats(-5, 5, allow_nan=False),
    several=st.booleans(),
    consolidate=st.sampled_from(["sum", "mean", "longest", "hull"]),
    score=st.sampled_from(["mean", "max"]),
    when_none=st.sampled_from(["best-frame", "nothing"]),
)


# --- what a frame stands for ---------------------------------------------------------------------


def test_75_frames_of_150_seconds_stand_for_2_seconds_each() -> None:
    times = [2.0 * place + 1.0 for place in range(75)]
    assert frame_parts(times, 150.0) == [(2.0 * i, 2.0 * i + 2.0) for i in range(75)]


def test_times_that_are_a_little_off_leave_the_parts_equal() -> None:
    times = [2.0 * place + 1.0 + (0.3 if place % 2 else -0.3) for place in range(75)]
    assert frame_parts(times, 150.0) == [(2.0 * i, 2.0 * i + 2.0) for i in range(75)]


def test_a_file_shorter_than_annotated_is_not_stretched() -> None:
    times = [1.0, 3.0, 5.0, 7.0]
    assert frame_parts(times, 150.0) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (6.0, 8.0)]


def test_a_file_longer_than_annotated_is_cut() -> None:
    times = [1.0, 3.0, 5.0, 7.0]
    assert frame_parts(times, 5.0) == [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0), (5.0, 5.0)]


def test_uneven_frames_reach_half_way_to_their_neighbours() -> None:
    assert frame_parts([1.0, 2.0, 10.0], 12.0) == [(0.0, 1.5), (1.5, 6.0), (6.0, 12.0)]


def test_a_frame_that_occurs_twice_keeps_its_part() -> None:
    assert frame_parts([1.0, 1.0, 3.0], 4.0) == [(0.0, 2.0), (0.0, 2.0), (2.0, 4.0)]


def test_a_clip_inside_a_video_is_counted_in_seconds_of_the_video() -> None:
    assert frame_parts([101.0, 103.0], 4.0, 100.0) == [(100.0, 102.0), (102.0, 104.0)]


def test_without_a_duration_the_last_frame_reaches_as_far_after_as_before() -> None:
    assert frame_parts([1.0, 3.0, 5.0]) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]


@given(scored_frames())
def test_parts_are_ordered_and_lie_in_the_clip(frames: ScoredFrames) -> None:
    parts = frames.parts()
    assert len(parts) == len(frames.times)
    for start, end in parts:
        assert frames.start <= start <= end
        assert frames.duration is None or end <= frames.start + frames.duration + 1e-9
    for (one, other), (start, end) in pairwise(parts):
        assert (one, other) == (start, end) or other == pytest.approx(start)


# --- what is joined ------------------------------------------------------------------------------


def test_neighbours_are_joined_whatever_the_gap() -> None:
    assert spans_of(frames_of(".##."), gap=0) == [(2.0, 6.0)]


def test_a_gap_of_zero_keeps_runs_apart() -> None:
    assert spans_of(frames_of("##.##"), gap=0, several=True) == [(0.0, 4.0), (6.0, 10.0)]


def test_a_silence_is_bridged_when_it_does_not_exceed_the_gap() -> None:
    frames = frames_of("#..#")
    assert spans_of(frames, gap=3.9, several=True) == [(0.0, 2.0), (6.0, 8.0)]
    assert spans_of(frames, gap=4.0, several=True) == [(0.0, 8.0)]


def test_rounding_does_not_decide_about_a_gap() -> None:
    frames = frames_of("#.#", part=0.1)
    assert len(spans_of(frames, gap=0.1, several=True)) == 1


@given(scored_frames(), GAPS, GAPS)
def test_a_larger_gap_joins_more(frames: ScoredFrames, one: float, other: float) -> None:
    parts, positive = frames.parts(), frames.positive(SpanRule())
    small, large = (merge_positive(parts, positive, gap) for gap in sorted((one, other)))
    assert len(large) <= len(small)
    for run in small:
        assert any(host.start <= run.start and run.end <= host.end for host in large)
    assert sorted(i for run in small for i in run.frames) == sorted(
        i for run in large for i in run.frames
    )


# --- what is predicted ---------------------------------------------------------------------------


@given(scored_frames(), RULES)
def test_spans_lie_in_the_clip_and_do_not_overlap(frames: ScoredFrames, rule: SpanRule) -> None:
    windows = find_windows(frames, rule)
    assert len(windows) <= (10 if rule.several else 1)
    assert [score for *_, score in windows] == sorted((w[2] for w in windows), reverse=True)
    for start, end, _ in windows:
        assert frames.start <= start < end
        assert frames.duration is None or end <= frames.start + frames.duration + 1e-9
    ordered = sorted(windows)
    for one, other in pairwise(ordered):
        assert one[1] <= other[0]


@given(scored_frames(), RULES)
def test_every_single_span_is_made_of_the_several(frames: ScoredFrames, rule: SpanRule) -> None:
    runs = merge_positive(frames.parts(), frames.positive(rule), rule.gap)
    single = spans_of(frames, **(rule.as_json() | {"several": False}))
    if runs and rule.consolidate == "hull":
        assert single == [(runs[0].start, runs[-1].end)]
    elif runs:
        assert single[0] in [(run.start, run.end) for run in runs]


@pytest.mark.parametrize(
    ("consolidate", "span"),
    [("sum", (4.0, 10.0)), ("mean", (0.0, 2.0)), ("longest", (4.0, 10.0)), ("hull", (0.0, 10.0))],
)
def test_spans_become_one_in_the_way_that_is_asked_for(
    consolidate: str, span: tuple[float, float]
) -> None:
    frames = frames_of("#.###", [9.0, -5.0, 1.0, 2.0, 3.0])
    assert spans_of(frames, gap=0, consolidate=consolidate) == [span]


def test_a_span_of_negative_logits_is_not_less_for_being_longer() -> None:
    """`yes` may beat `no` while both are unlikely beside all other words."""
    frames = frames_of("#.####", [-3.0] * 6)
    assert spans_of(frames, gap=0) == [(4.0, 12.0)]


@pytest.mark.parametrize(("how", "score"), [("mean", 2.0), ("max", 3.0)])
def test_a_span_is_scored_by_its_positive_frames(how: str, score: float) -> None:
    frames = frames_of("#.#", [1.0, -90.0, 3.0])
    assert find_windows(frames, SpanRule(gap=2, score=how)) == [(0.0, 6.0, score)]


def test_several_spans_come_best_first_and_the_earlier_of_equals_before() -> None:
    frames = frames_of("#.#.#", [1.0, 0.0, 2.0, 0.0, 1.0])
    assert spans_of(frames, gap=0, several=True) == [(4.0, 6.0), (0.0, 2.0), (8.0, 10.0)]


def test_at_most_ten_spans_are_predicted() -> None:
    frames = frames_of("#." * 15, [float(i) for i in range(30)])
    windows = find_windows(frames, SpanRule(gap=0, several=True))
    assert [score for *_, score in windows] == [float(i) for i in range(28, 8, -2)]


def test_a_threshold_replaces_the_verdict() -> None:
    frames = frames_of("##..", [1.0, 5.0, 6.0, 2.0])
    assert spans_of(frames, threshold=4.0) == [(2.0, 6.0)]


def test_without_a_positive_frame_the_best_one_counts_or_nothing() -> None:
    frames = frames_of("....", [1.0, 3.0, 3.0, 2.0])
    assert find_windows(frames, SpanRule()) == [(2.0, 4.0, 3.0)]
    assert find_windows(frames, SpanRule(when_none="nothing")) == []


def test_frames_beyond_the_end_cover_nothing() -> None:
    frames = ScoredFrames((200.0, 300.0), (1.0, 2.0), (1.0, 1.0), duration=100.0)
    assert find_windows(frames, SpanRule()) == [(0.0, 100.0, 1.0)]


@pytest.mark.parametrize("gap", [-1.0, float("nan"), float("inf")])
def test_an_impossible_gap_is_refused(gap: float) -> None:
    with pytest.raises(ConfigError, match="gap"):
        SpanRule.build({"gap": gap})


# --- saliency ------------------------------------------------------------------------------------


def test_with_a_frame_a_clip_saliency_is_its_score() -> None:
    assert saliency(frames_of("....", [1.0, 2.0, 3.0, 4.0])) == [1.0, 2.0, 3.0, 4.0]


def test_several_frames_of_a_clip_are_averaged() -> None:
    assert saliency(frames_of("....", [1.0, 2.0, 3.0, 5.0], part=1.0)) == [1.5, 4.0]


def test_a_clip_without_a_frame_takes_the_nearest_one() -> None:
    assert saliency(frames_of("..", [1.0, 2.0], part=6.0)) == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]


@given(scored_frames())
def test_saliency_has_one_score_a_clip(frames: ScoredFrames) -> None:
    scores = predicted_moments(frames, SpanRule()).saliency
    assert scores is not None
    if frames.duration is not None:
        assert len(scores) == pytest.approx(frames.duration / 2, abs=1.0)
    low, high = min(frames.scores), max(frames.scores)
    assert all(low - 1e-6 <= score <= high + 1e-6 for score in scores)


# --- the gap that fits ---------------------------------------------------------------------------


def scored(marks: str, *spans: tuple[float, float]) -> ScoredQuestion:
    return ScoredQuestion(query(marks, *spans), frames_of(marks))


def test_the_gap_that_finds_most_is_chosen_and_the_smallest_of_equals() -> None:
    asked = [scored("##..##....", (0, 12)), scored("#..#......", (0, 8)), scored(".#........")]
    chosen = tune_gap(asked, SpanRule(), GapTuning(gaps=(0, 2, 4, 6, 8)))
    assert (chosen.seconds, chosen.source) == (4.0, "tuned")
    assert [row["gap"] for row in chosen.tried] == [0, 2, 4, 6, 8]
    assert [row["mAP"] for row in chosen.tried][2:] == [100.0, 100.0, 100.0]
    assert chosen.tried[0]["R1@0.5"] < 100.0


def test_the_figure_that_decides_can_be_chosen() -> None:
    asked = [scored("###.#.....", (0, 6)), scored("#..####...", (0, 14))]
    tuning = GapTuning(gaps=(0, 2, 4), by="R1@0.7")
    chosen = tune_gap(asked, SpanRule(), tuning)
    best = max(row["R1@0.7"] for row in chosen.tried)
    assert next(row for row in chosen.tried if row["R1@0.7"] == best)["gap"] == chosen.seconds


def test_without_a_known_moment_there_is_nothing_to_tune() -> None:
    with pytest.raises(DataError, match="tuned"):
        tune_gap([scored("##")], SpanRule(), GapTuning())


def test_a_question_that_failed_is_no_reason_for_a_gap() -> None:
    failed = ScoredQuestion(query("q", (0.0, 2.0)), None, "no such video")
    alone = [scored("#.#.......", (0, 6))]
    assert tune_gap([*alone, failed], SpanRule(), GapTuning()) == tune_gap(
        alone, SpanRule(), GapTuning()
    )


def test_frames_are_right_when_they_say_what_the_spans_say() -> None:
    metrics = frame_metrics([scored("##........", (2, 8)), scored("#")], SpanRule())
    assert metrics["frame_accuracy"] == pytest.approx(70.0)  # 1 of 10 too many, 2 missed
    assert metrics["frame_accuracy_constant"] == pytest.approx(70.0)
    assert metrics["frame_precision"] == pytest.approx(50.0)
    assert metrics["frame_recall"] == pytest.approx(100 / 3)


def test_a_span_includes_both_of_its_ends() -> None:
    metrics = frame_metrics([scored("###.......", (1, 5))], SpanRule())
    assert metrics["frame_accuracy"] == pytest.approx(100.0)


def test_unlabelled_frames_have_no_figures() -> None:
    assert frame_metrics([scored("##")], SpanRule()) == {}
