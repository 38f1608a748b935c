"""Intervals and tests hold what they promise: by simulation, and by the laws they must obey."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from stages.benchmarks.statistics import (
    cluster_interval,
    difference_interval,
    holm,
    macro_interval,
    mcnemar,
    paired_difference,
    sign_flip,
    smallest_difference,
)

DRAWS = 2000
HOLDS = (0.93, 0.97)


def _simulation() -> Any:
    """The benchmark that makes data whose truth is known; its folder is no package."""
    path = Path(__file__).parents[2] / "benchmarks/interval_coverage.py"
    spec = importlib.util.spec_from_file_location("interval_coverage", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


simulation = _simulation()
Shape, Pair = simulation.Shape, simulation.Pair

Rows = list[tuple[float, int, str]]
"""Value, video and type of each question."""
rows_of_questions = st.lists(
    st.tuples(st.sampled_from([0.0, 100.0]), st.integers(0, 5), st.sampled_from("ab")),
    min_size=1,
    max_size=40,
)


# --- coverage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [Shape(60, "equal", 0.1, 0.95), Shape(60, "skewed", 0.3, 0.74)],
    ids=["equal videos, 95 %", "skewed videos, 74 %"],
)
def test_95_of_100_intervals_hold_the_true_accuracy(shape: Any) -> None:
    held = simulation.mean_coverage(shape, DRAWS, 600, seed=1)
    assert HOLDS[0] <= held <= HOLDS[1]


def test_95_of_100_intervals_hold_the_true_difference() -> None:
    held = simulation.pair_coverage(Pair(60, "skewed", 0.1, 0.054, 0.048), DRAWS, 600, seed=1)
    assert HOLDS[0] <= held <= HOLDS[1]


def test_the_percentile_method_would_hold_too_few() -> None:
    """Why intervals are studentised: the same data, the plain method."""
    shape = Shape(60, "skewed", 0.3, 0.95)
    assert simulation.percentile_coverage(shape, DRAWS, 400, seed=1) < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("shape", list(simulation.shapes([60, 570])), ids=str)
def test_intervals_of_figures_hold_the_truth_in_every_shape(shape: Any) -> None:
    assert HOLDS[0] <= simulation.mean_coverage(shape, DRAWS, 1000, seed=2) <= HOLDS[1]
    assert HOLDS[0] <= simulation.macro_coverage(shape, DRAWS, 1000, seed=2) <= HOLDS[1]


@pytest.mark.slow
@pytest.mark.parametrize("pair", list(simulation.pairs([60, 570])), ids=str)
def test_intervals_of_differences_hold_the_truth_in_every_shape(pair: Any) -> None:
    assert HOLDS[0] <= simulation.pair_coverage(pair, DRAWS, 1000, seed=2) <= HOLDS[1]


# --- tests of no difference ----------------------------------------------------------------------


def test_mcnemars_test_cries_wolf_at_most_five_times_in_a_hundred() -> None:
    """Exact for independent questions: summed over all outcomes, not simulated."""
    disagreements = 40
    false = sum(
        math.comb(disagreements, first) / 2**disagreements
        for first in range(disagreements + 1)
        if mcnemar(first, disagreements - first) <= 0.05
    )
    assert 0.02 < false <= 0.05


def test_only_the_test_by_video_holds_its_level_when_questions_go_together() -> None:
    found = simulation.rejections(Pair(60, "skewed", 0.3, 0.05, 0.05), 500, 499, seed=3)
    assert found["mcnemar_exact"] > 0.2
    assert found["sign_flip"] < 0.08


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    points, apart = simulation.at_smallest_difference(Pair(570, "equal", 0.0, 0.05, 0.05), seed=1)
    assert 0.8 < points < 2.0
    rng, found = np.random.default_rng(4), 0
    for _ in range(400):
        gains, _ = simulation.draw_pair(apart, rng)
        found += mcnemar(int((gains > 0).sum()), int((gains < 0).sum())) <= 0.05
    assert 0.74 < found / 400 < 0.86


@given(st.integers(50, 4000), st.floats(0.02, 0.6), st.integers(0, 1))
def test_the_smallest_difference_solves_the_equation_of_sample_size(
    count: int, share: float, odd: int
) -> None:
    differing = 2 * round(count * share / 2) + odd
    gains = [100.0] * (differing // 2) + [-100.0] * (differing - differing // 2)
    gains += [0.0] * (count - len(gains))
    found = smallest_difference(gains, range(count))
    psi = differing / count
    if found is None:
        # Too few disagreements for a p-value of 5 % even if all went one way.
        assert count * psi < 20
        return
    size = found / 100
    needed = norm.ppf(0.975) * math.sqrt(psi) + norm.ppf(0.8) * math.sqrt(psi - size**2)
    # With one question a video only the factor n / (n - 1) is between the two variances.
    assert size**2 * count == pytest.approx(needed**2, rel=1e-6)


def test_questions_that_flip_together_show_less() -> None:
    gains = [100.0, -100.0, 0.0, 0.0] * 100
    alone = smallest_difference(gains, range(400))
    together = smallest_difference(sorted(gains), [number // 8 for number in range(400)])
    assert alone is not None
    assert together is not None
    assert together > 2 * alone


def test_systems_that_agree_everywhere_show_no_difference_of_any_size() -> None:
    assert smallest_difference([0.0] * 50, range(50)) is None
    assert smallest_difference([100.0, 0.0], ["v", "v"]) is None
    assert sign_flip([0.0] * 50, range(50)) == 1.0


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_few_videos_are_flipped_in_every_way(sums: list[int]) -> None:
    patterns = list(itertools.product([-1, 1], repeat=len(sums)))
    observed = abs(sum(sums))
    as_large = sum(
        abs(sum(s * one for s, one in zip(signs, sums, strict=True))) >= observed
        for signs in patterns
    )
    assert sign_flip([float(one) for one in sums], range(len(sums))) == pytest.approx(
        as_large / len(patterns)
    )


def test_many_videos_of_one_question_give_mcnemars_p_value() -> None:
    gains = [100.0] * 60 + [-100.0] * 35 + [0.0] * 200
    assert sign_flip(gains, range(len(gains))) == pytest.approx(mcnemar(60, 35), abs=0.01)
    assert mcnemar(60, 35) == pytest.approx(binomtest(60, 95).pvalue)


def test_values_between_right_and_wrong_are_compared_by_video() -> None:
    first = [50.0, 75.0, 100.0, 10.0] * 10
    result = paired_difference(first, [40.0, 75.0, 90.0, 20.0] * 10, list(range(40)))
    assert result.test == "sign-flip"
    assert result.p_value == result.p_value_clustered
    assert (result.only_first, result.only_second) == (20, 10)
    assert result.difference == pytest.approx(2.5)
    judged = paired_difference([True, False], [False, False], ["v", "w"])
    assert judged.test == "mcnemar-exact"
    assert judged.difference == 50.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holms_p_values_are_no_smaller_and_keep_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(new >= old for new, old in zip(adjusted, p_values, strict=True))
    assert min(adjusted) == pytest.approx(min(1.0, len(p_values) * min(p_values)))
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    assert [adjusted[at] for at in order] == sorted(adjusted)
    assert max(adjusted) <= 1


def test_holms_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


# --- laws of intervals ---------------------------------------------------------------------------


@settings(deadline=None)
@given(rows_of_questions)
def test_an_interval_holds_its_figure_and_stays_in_range(rows: Rows) -> None:
    values, videos = [value for value, _, _ in rows], [video for _, video, _ in rows]
    found = cluster_interval(values, videos, num_resamples=100)
    if len(set(videos)) < 2:
        assert found is None
        return
    assert found is not None
    mean = sum(values) / len(values)
    assert 0 <= found[0] <= mean + 1e-9
    assert mean - 1e-9 <= found[1] <= 100


@settings(deadline=None)
@given(rows_of_questions, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_no_bit_of_a_macro_interval(
    rows: Rows, shuffler: random.Random
) -> None:
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    one, two = (
        macro_interval(*zip(*some, strict=True), ("a", "b"), num_resamples=50)  # type: ignore[arg-type]
        for some in (
            [(value, kind, video) for value, video, kind in rows],
            [(value, kind, video) for value, video, kind in shuffled],
        )
    )
    assert one == two


def test_the_macro_interval_of_one_type_is_that_of_its_questions() -> None:
    values, videos = [0.0, 100.0, 100.0, 0.0, 100.0] * 8, [number // 3 for number in range(40)]
    labels = ["a", None, "b", "a", "b"] * 8
    inside = [at for at, label in enumerate(labels) if label == "b"]
    alone = cluster_interval([values[at] for at in inside], [videos[at] for at in inside])
    assert macro_interval(values, labels, videos, ("b",)) == alone


def test_a_macro_interval_needs_every_type() -> None:
    values, videos, labels = [0.0, 100.0] * 10, [n // 2 for n in range(20)], ["a", "b"] * 10
    assert macro_interval(values, labels, videos, ("a", "b")) is not None
    assert macro_interval(values, labels, videos, ("a", "c")) is None
    # Each type in one video of eight: hardly a resample has all of them.
    rare = [f"{number % 8}" for number in range(16)]
    assert macro_interval(values[:16], rare, rare, tuple("01234567")) is None


def test_equal_videos_show_no_spread() -> None:
    values, videos = [100.0, 0.0, 0.0] * 5, [number // 3 for number in range(15)]
    found = cluster_interval(values, videos)
    assert found is not None
    assert found[0] == found[1] == pytest.approx(100 / 3)


@settings(deadline=None)
@given(rows_of_questions)
def test_the_other_way_round_the_difference_is_mirrored(rows: Rows) -> None:
    gains, videos = [value - 50 for value, _, _ in rows], [video for _, video, _ in rows]
    there = difference_interval(gains, videos, num_resamples=60)
    back = difference_interval([-gain for gain in gains], videos, num_resamples=60)
    if there is None or back is None:
        assert there == back
        return
    assert (-back[1], -back[0]) == pytest.approx(there)


def test_a_macro_difference_of_one_type_is_that_of_its_questions() -> None:
    rng = np.random.default_rng(0)
    gains, videos = rng.choice([-100.0, 0.0, 100.0], 90), np.repeat(np.arange(30), 3)
    labels = ["a" if number % 3 else "b" for number in range(90)]
    inside = [at for at, label in enumerate(labels) if label == "a"]
    alone = difference_interval(gains[inside], videos[inside])
    assert difference_interval(gains, videos, labels=labels, members=("a",)) == alone
    both = difference_interval(gains, videos, labels=labels, members=("a", "b"))
    assert both is not None
    means = [gains[[label == name for label in labels]].mean() for name in "ab"]
    assert both[0] < sum(means) / 2 < both[1]


@pytest.mark.parametrize(("wrong", "lowest"), [(1, 99.0), (3, 98.0), (6, 97.5)])
def test_a_handful_of_wrong_answers_does_not_open_the_interval(wrong: int, lowest: float) -> None:
    """Where a resample may hold no wrong answer at all, its studentised ratio is infinite."""
    values = np.full(600, 100.0)
    values[:: 600 // wrong][:wrong] = 0.0
    videos = np.repeat(np.arange(200), 3)
    interval = cluster_interval(values, videos)
    assert interval is not None
    assert lowest < interval[0] <= values.mean() <= interval[1] <= 100.0
    mirrored = cluster_interval(100.0 - values, videos)
    assert mirrored == pytest.approx((100 - interval[1], 100 - interval[0]))


def test_two_flips_between_two_systems_do_not_open_the_interval() -> None:
    gains = np.zeros(600)
    gains[[10, 400]] = 100.0
    interval = difference_interval(gains, np.repeat(np.arange(200), 3))
    assert interval is not None
    assert -1.0 < interval[0] <= gains.mean() <= interval[1] < 3.0
