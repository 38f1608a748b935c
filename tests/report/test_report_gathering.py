"""What a report page says: questions chosen, names, curves, strips, flips, lineage, commands."""

from __future__ import annotations

import base64
import io
import json
import math
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.artifacts import atomic
from stages.artifacts.clips import FAILURES_SCHEMA, FAILURES_TABLE, write_table
from stages.artifacts.predictions import encode_predictions
from stages.artifacts.store import Artifact, Request, Workspace
from stages.benchmarks.batches import load_questions
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.shapes.generate import generate
from stages.core.runtime import Runtime
from stages.report_page.model import Page, System
from stages.report_page.render import render
from stages.reporting.ancestry import Ancestry
from stages.reporting.answers import question_key
from stages.reporting.choice import choose_questions
from stages.reporting.commands import command_of
from stages.reporting.evaluations import Evaluation, load_evaluations, unique_names
from stages.reporting.gather import gather
from stages.reporting.pairs import TRUE_SPANS, flips_of, histograms_of, pairs_of
from stages.reporting.published import frame_counts, own_name, published_rows
from stages.reporting.strips import (
    LEAST_BYTES,
    MOST_TILES,
    budget_per_clip,
    choose_tiles,
    encoded_sprite,
)
from stages.reporting.thinning import thinned

Vqa = Callable[..., Any]
EVIL = "</script><script>alert('x')</script> & \"what color\" is it ?"


# --- a split of ours and predictions made by hand ------------------------------------------------


@pytest.fixture(scope="module")
def custom(vqa: Vqa, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Nine questions about three generated videos.

    The second video is cut off; those about the third end long after it does.
    """
    root = tmp_path_factory.mktemp("gathering")
    made = generate(root / "videos", "train", 3, seed=5)
    records: list[dict[str, Any]] = [dict(item) for item in made]
    records[0] |= {"question": EVIL, "options": ["<b>red</b>", *"abc"]}
    for record in records[6:]:
        record |= {"start": 0.0, "end": 90.0}
    broken = root / "videos" / records[3]["video"]
    (root / "mine.jsonl").write_text("".join(json.dumps(item) + "\n" for item in records))
    source = ("--annotations", root / "mine.jsonl", "--videos", root / "videos", "--workers", 1)
    outcome = vqa("prepare", "-b", "custom", "--split", "test", *source, "-w", root / "ws")
    assert outcome.code == 0, outcome.json
    broken.write_bytes(broken.read_bytes()[:2000])
    return Workspace(root / "ws")


def questions_in(workspace: Workspace) -> Artifact:
    return workspace.finished("questions")[0]


def row_of(question: Question, **values: Any) -> dict[str, Any]:
    """A row that keeps frames 2 and 9 and answers rightly."""
    truth = question.truth
    row: dict[str, Any] = {
        "question_id": question.question_id, "prediction": truth, "answer": truth,
        "correct": True, "scores": [float(at == truth) for at in range(len(question.options))],
        "frames": [9, 2], "times": [1.125, 0.25], "frame_scores": [], "frame_rule": "uniform",
        "tied": None, "by_frame": [], "status": "ok", "reason": "",
    }  # fmt: skip
    return row | values


def predicted(
    workspace: Workspace,
    label: str,
    rows: Sequence[dict[str, Any]],
    videos: Sequence[str] = (),
    open_ended: bool = False,
    **config: Any,
) -> Artifact:
    """A predictions artifact of these rows."""
    made = {
        "benchmark": "custom", "split": "test", "system": "vlap", "select": "uniform",
        "frames": 8, "keep": 2, "blind": None, "seed": 1, "device": "cpu",
        "precision": "float32", "backbone": label, "answer": "rank",
    } | config  # fmt: skip
    request = Request("predictions", label, made, {"questions": questions_in(workspace)})
    right = [row["correct"] for row in rows if row["correct"] is not None]
    metrics = {"accuracy": 100 * sum(right) / len(right), "ci95": [0.0, 100.0]} if right else {}
    moments = any("windows" in row for row in rows)
    with workspace.exclusive(request, force=True) as (draft, _):
        data = encode_predictions(rows, open_ended=open_ended, moments=moments)
        atomic.write_bytes(draft.path / "predictions.parquet", data)
        failed = [row for row in rows if row["status"] == "failed"]
        told = [
            {"id": row["question_id"], "stage": "eval", "reason": "failed", "words": row["reason"]}
            for row in failed
        ]
        table = pa.Table.from_pylist(told, schema=FAILURES_SCHEMA)
        write_table(draft.path / FAILURES_TABLE, table)
        if videos:
            atomic.write_json(draft.path / "videos.json", list(videos))
        tally = {"n_scored": len(right), "n_failed": 0, "n_unlabelled": 0}
        extra = {"metrics": metrics, "tally": tally, "ci95_of": "accuracy" if right else None}
        counts = {"total": len(rows), "done": len(rows), "failed": 0}
        return draft.finish(counts, extra=extra, host={"ms_per_video": 2.5})


def page_about(workspace: Workspace, *predictions: Artifact, shown: int = 200) -> Page:
    ancestry = Ancestry(workspace, predictions)
    runtime = Runtime(workers=1)
    found = gather(ancestry, questions_in(workspace), predictions, [], shown, runtime)
    return found.page


# --- one page ------------------------------------------------------------------------------------


def test_strips_hold_every_kept_frame_and_say_why_a_video_has_none(custom: Workspace) -> None:
    asked = load_questions(questions_in(custom))
    rows = [row_of(question) for question in asked]
    rows[1] |= {"status": "failed", "correct": None, "reason": "no features", "frames": []}
    page = page_about(custom, predicted(custom, "uniform", rows))

    assert len(page.shown) == 9
    assert len(page.strips) == 3
    assert sum(strip.sprite is None for strip in page.strips) == 1
    for item in page.shown:
        strip, (answer,) = page.strips[item.strip], item.answers
        if strip.sprite is None:
            assert strip.problem
            assert "/" not in strip.problem
            assert answer.tiles == ()
        elif answer.status == "ok":
            assert answer.kept == (1.125, 0.25)
            assert tuple(strip.seconds[tile] for tile in answer.tiles) == answer.kept
            assert strip.start <= strip.seconds[0] < strip.seconds[-1] < strip.end
            assert strip.end - strip.seconds[-1] < 3
    failed = page.shown[1].answers[0]
    assert (failed.status, failed.reason, failed.kept) == ("failed", "no features", ())


@pytest.fixture(scope="module")
def plain(custom: Workspace) -> Page:
    """One system that answers rightly."""
    asked = load_questions(questions_in(custom))
    return page_about(custom, predicted(custom, "plain", [row_of(item) for item in asked]))


def test_markup_in_a_question_and_its_options_reaches_the_page_as_text(plain: Page) -> None:
    assert plain.shown[0].text == EVIL
    drawn = render(plain)
    assert "alert('x')</script>" not in drawn
    assert "<b>red</b>" not in drawn


def test_a_sprite_is_as_wide_as_its_tiles(plain: Page) -> None:
    strip = next(strip for strip in plain.strips if strip.sprite)
    assert strip.sprite is not None
    data = base64.b64decode(strip.sprite.partition(",")[2])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (strip.tile[0] * len(strip.seconds), strip.tile[1])


def test_blind_systems_looked_at_no_frame(custom: Workspace) -> None:
    asked = load_questions(questions_in(custom))
    rows = [row_of(question, frame_scores=[0.5] * 8) for question in asked]
    page = page_about(custom, predicted(custom, "blind", rows, blind="gaussian"))
    answers = [item.answers[0] for item in page.shown]
    assert not any((*answer.kept, *answer.tiles, *answer.curve) for answer in answers)
    assert page.histograms[-1].system == TRUE_SPANS
    assert len(page.histograms) == 1


def test_options_have_shares_that_add_up_unless_the_scores_are_votes(custom: Workspace) -> None:
    asked = load_questions(questions_in(custom))
    rows = [row_of(question, scores=[0.0, math.log(3), 0.0, 0.0]) for question in asked]
    likely = predicted(custom, "likely", rows)
    votes = predicted(custom, "votes", rows, system="blip2-voting")
    strange = [row | {"scores": [float("nan"), 0.0, 1.0, -math.inf]} for row in rows]
    broken = predicted(custom, "broken", strange)
    first, second, third = page_about(custom, likely, votes, broken).shown[0].answers
    assert first.option_probabilities == pytest.approx((1 / 6, 1 / 2, 1 / 6, 1 / 6), abs=1e-4)
    assert first.option_scores == second.option_scores
    assert second.option_probabilities == third.option_probabilities == ()


def test_moments_show_their_windows_and_the_score_of_each_frame(custom: Workspace) -> None:
    asked = load_questions(questions_in(custom))
    times = [0.5, 1.5, 2.5]
    rows = [
        row_of(
            question, prediction=None, answer=None, correct=None, scores=[], frames=[4, 12, 20],
            times=times, frame_scores=[0.1, 0.9, 0.2], frame_rule="all", value=100.0,
            windows=[[1.0, 2.0, 0.9], [0.0, 1.0, 0.1]], saliency=[0.1], frame_margins=[1, 2, 3],
        )
        for question in asked
    ]  # fmt: skip
    made = predicted(custom, "moments", rows, system="sevila", select="localizer", keep=8)
    (answer,) = page_about(custom, made).shown[0].answers
    assert answer.windows == ((1.0, 2.0, 0.9), (0.0, 1.0, 0.1))
    assert answer.curve == ((0.5, 0.1), (1.5, 0.9), (2.5, 0.2))
    assert (answer.curve_name, answer.text, answer.value) == ("localizer", "1.0 to 2.0 s", 100.0)
    assert answer.correct is None
    assert answer.kept == ()


def test_retrieval_says_where_the_right_video_is(custom: Workspace) -> None:
    asked = load_questions(questions_in(custom))
    names = ["one", "two", "three"]
    rows = [
        row_of(question, prediction=said, answer="two", correct=said == "two", scores=scores,
               frames=[], times=[])
        for question, said, scores in zip(
            asked[:2], ("three", "two"), ([0.1, 0.2, 0.9], [0.1, 0.9, 0.2]), strict=True)
    ]  # fmt: skip
    made = predicted(custom, "ranked", rows, videos=names, open_ended=True)
    first, second = (item.answers[0] for item in page_about(custom, made).shown[:2])
    assert first.text == "three (the right one is number 2 of 3)"
    assert second.text == "two"
    assert first.option_scores == ()


def test_a_page_of_unlabelled_answers_has_no_figure(custom: Workspace) -> None:
    asked = load_questions(questions_in(custom))
    rows = [row_of(question, correct=None, status="unlabelled") for question in asked]
    page = page_about(custom, predicted(custom, "unlabelled", rows))
    assert page.systems[0].value is None
    assert page.systems[0].ci95 is None
    assert page.flips == ()


def test_rows_that_are_missing_are_failures_with_a_reason(custom: Workspace) -> None:
    asked = load_questions(questions_in(custom))
    made = predicted(custom, "short", [row_of(question) for question in asked[:-1]])
    last = page_about(custom, made).shown[-1].answers[0]
    assert (last.status, bool(last.reason)) == ("failed", True)


def test_one_question_that_several_systems_failed_on_is_one_failure(custom: Workspace) -> None:
    asked = load_questions(questions_in(custom))
    lost: dict[str, Any] = {
        "status": "failed",
        "correct": None,
        "reason": "no features",
        "frames": [],
    }
    rows = [row_of(item) | (lost if at < 2 else {}) for at, item in enumerate(asked)]
    made = [predicted(custom, f"failing-{number}", rows, seed=number) for number in range(3)]
    page = page_about(custom, *made)
    assert page.num_failed == 2
    found = [item for item in page.failures if item.key == asked[0].question_id]
    assert [item.where for item in found] == [tuple(item.id for item in made)]
    assert page.num_failures == len(page.failures)
    assert "<strong>2</strong> questions failed" in render(page)


def test_a_system_without_weights_has_no_training_seed(custom: Workspace) -> None:
    rows = [row_of(item) for item in load_questions(questions_in(custom))]
    made = [predicted(custom, "unweighted", rows, seed=seed) for seed in (3, 4)]
    assert {item.seed for item in page_about(custom, *made).systems} == {None}


def test_equal_labels_are_told_apart(custom: Workspace) -> None:
    rows = [row_of(question) for question in load_questions(questions_in(custom))]
    by_seed = [predicted(custom, "custom-test-same", rows, seed=seed) for seed in (1, 2)]
    assert unique_names(by_seed, Ancestry(custom, by_seed)) == ["same seed 1", "same seed 2"]
    by_print = [predicted(custom, "same", rows, seed=1, keep=keep) for keep in (2, 3)]
    names = unique_names([*by_seed, *by_print], Ancestry(custom, by_print))
    assert len(set(names)) == 4
    alike = [predicted(custom, f"{name}-seed1", rows) for name in ("one", "two")]
    assert unique_names(alike, Ancestry(custom, alike)) == ["one", "two"]


# --- which questions -----------------------------------------------------------------------------


def question(number: int, kind: str) -> Question:
    return Question(
        question_id=f"q{number}", videos=(f"v{number}.mp4",), question="?", options=("a", "b"),
        answer=0, answer_text=None, start=None, end=None, type=kind, spans=((1.0, 2.0),),
        split="test", source_row=number + 1,
    )  # fmt: skip


def evaluation(name: str, correct: Sequence[bool | None], **config: Any) -> Evaluation:
    made = {"system": "vlap", "blind": None, "keep": 2, "frames": 8} | config
    rows = {
        f"q{number}": {
            "question_id": f"q{number}", "correct": value, "frames": [1], "times": [0.5],
            "status": "failed" if value is None else "ok",
        }
        for number, value in enumerate(correct)
    }  # fmt: skip
    return Evaluation(Artifact(Path(name), {"config": made}), name, "uniform", rows)


@given(
    verdicts=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=10, max_size=40),
    count=st.integers(0, 14),
)
def test_the_choice_is_as_large_as_asked_and_half_of_it_is_disputed(
    verdicts: list[tuple[bool, bool]], count: int
) -> None:
    asked = [question(number, "abc"[number % 3]) for number in range(len(verdicts))]
    sides = [evaluation(str(at), [pair[at] for pair in verdicts]) for at in (0, 1)]
    chosen = choose_questions(asked, sides, count)
    places = [asked.index(item) for item in chosen]
    assert places == sorted(set(places))
    assert len(chosen) == min(count, len(asked))
    disputed = sum(verdicts[at][0] != verdicts[at][1] for at in places)
    there = sum(one != other for one, other in verdicts)
    assert disputed >= min(there, math.ceil(count / 2)) or len(asked) <= count
    assert chosen == choose_questions(asked, sides, count)


def test_rare_types_are_shown_beside_frequent_ones() -> None:
    asked = [question(number, "rare" if number in (7, 50) else "common") for number in range(100)]
    sides = [evaluation(name, [True] * 100) for name in "ab"]
    found = Counter(item.type for item in choose_questions(asked, sides, 10))
    assert found == {"rare": 2, "common": 8}


def test_what_a_blind_system_gets_wrong_is_no_dispute() -> None:
    asked = [question(number, "") for number in range(40)]
    seeing = [
        evaluation(name, [number != 11 or name == "a" for number in range(40)]) for name in "ab"
    ]
    blind = evaluation("blind", [False] * 40, blind="gaussian")
    assert "q11" in {item.question_id for item in choose_questions(asked, [*seeing, blind], 4)}


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=100))
def test_keys_survive_a_link(name: str) -> None:
    assert question_key(name).isascii()
    assert not set(question_key(name)) & set("&#=?/%+ \"'<>")


# --- curves, tiles, pictures ---------------------------------------------------------------------

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(values=st.lists(numbers, max_size=120), most=st.integers(4, 12))
def test_thinned_curves_keep_their_ends_and_extremes(values: list[float], most: int) -> None:
    points = [(float(at), value) for at, value in enumerate(values)]
    kept = thinned(points, most)
    assert len(kept) <= max(most, 4)
    assert list(kept) == [point for point in points if point in set(kept)]
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])
        assert max(value for _, value in kept) == max(values)
        assert min(value for _, value in kept) == min(values)
    if len(points) <= most:
        assert list(kept) == points
    wanted = {at for at, _ in points[::7]}
    assert wanted <= {at for at, _ in thinned(points, most, wanted)}


@given(
    even=st.lists(st.integers(0, 500), max_size=16),
    kept=st.dictionaries(st.integers(0, 500), st.integers(1, 9), max_size=80),
)
def test_tiles_are_the_kept_frames_and_as_many_others_as_fit(
    even: list[int], kept: dict[int, int]
) -> None:
    tiles = choose_tiles(even, kept)
    assert tiles == sorted(set(tiles))
    assert len(tiles) == min(MOST_TILES, len({*even, *kept}))
    left_out = set(kept) - set(tiles)
    assert not left_out or set(tiles) <= set(kept)
    assert all(kept[out] <= min(kept[tile] for tile in tiles) for out in left_out)


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, MOST_TILES),
    width=st.integers(24, 128),
    budget=st.integers(LEAST_BYTES, 40_000),
    seed=st.integers(0, 9),
)
def test_even_noise_fits_into_its_bytes(count: int, width: int, budget: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 72, width, 3), dtype=np.uint8)
    uri, tile = encoded_sprite(noise, budget)
    data = base64.b64decode(uri.partition(",")[2])
    assert len(data) <= budget
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (tile[0] * count, tile[1])
    assert encoded_sprite(noise, budget) == (uri, tile)


@given(free=st.integers(-1000, 10_000_000), clips=st.integers(0, 3000))
def test_all_pictures_together_fit_unless_each_is_at_its_least(free: int, clips: int) -> None:
    each = budget_per_clip(free, clips)
    assert each >= LEAST_BYTES
    assert each == LEAST_BYTES or clips * each * 4 / 3 <= free


@pytest.mark.slow
def test_two_hundred_questions_about_noise_fit_into_five_megabytes(
    vqa: Vqa, tmp_path: Path
) -> None:
    """Nothing compresses worse; thirteen systems with a score for each of 32 frames."""
    (tmp_path / "videos").mkdir()
    for number in range(20):
        write_noise(tmp_path / "videos" / f"{number}.mp4", seed=number)
    records = [
        {"question_id": f"q{at}", "video": f"{at % 20}.mp4", "question": "What " * 8,
         "options": [f"the answer number {place}" for place in range(5)], "answer": at % 5,
         "start": 0.3 * (at // 20), "end": 0.3 * (at // 20) + 1.0}
        for at in range(200)
    ]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(item) + "\n" for item in records))
    source = ("--annotations", tmp_path / "mine.jsonl", "--videos", tmp_path / "videos")
    done = vqa("prepare", "-b", "custom", "--split", "test", *source, "-w", tmp_path / "ws")
    assert done.code == 0, done.json
    workspace = Workspace(tmp_path / "ws")
    draw = np.random.default_rng(0)
    for number in range(13):
        rows = [noisy_row(item, at, draw) for at, item in enumerate(records)]
        predicted(workspace, f"system-{number}", rows, seed=number)
    found = vqa("report", "-w", workspace.root).json
    assert found["shown"] == 200
    assert found["bytes"] <= 5_000_000
    page = Path(found["page"]).read_text("utf-8")
    assert page.count("data:image/") >= 200


def write_noise(path: Path, seed: int) -> None:
    """Four seconds of random pixels, 10 frames a second."""
    draw = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for _ in range(40):
            pixels = draw.integers(0, 256, (120, 160, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def noisy_row(item: dict[str, Any], at: int, draw: np.random.Generator) -> dict[str, Any]:
    first = 3 * (at // 20)
    frames = sorted(draw.choice(10, 4, replace=False) + first)
    return {
        "question_id": item["question_id"], "prediction": int(draw.integers(5)),
        "answer": item["answer"], "correct": bool(draw.integers(2)), "by_frame": [],
        "scores": draw.normal(size=5).tolist(), "frames": frames, "frame_rule": "localizer",
        "times": np.linspace(item["start"], item["end"], 32).tolist(), "tied": None,
        "frame_scores": draw.normal(size=32).tolist(), "status": "ok", "reason": "",
        "windows": [[item["start"], item["end"], 0.5]], "saliency": [], "frame_margins": [],
    }  # fmt: skip


# --- pairs ---------------------------------------------------------------------------------------


def system(name: str, value: float | None) -> System:
    return System(
        name, name, "vlap", "uniform", "accuracy", value, None, {}, {}, 8, 2, None, 1, None,
        1, 0, 0,
    )  # fmt: skip


verdict = st.sampled_from([True, False, None])


@given(st.lists(st.tuples(verdict, verdict), min_size=1, max_size=40))
def test_flips_count_every_question_that_both_answered(
    verdicts: list[tuple[bool | None, bool | None]],
) -> None:
    asked = [question(number, "") for number in range(len(verdicts))]
    sides = [evaluation(str(at), [pair[at] for pair in verdicts]) for at in (0, 1)]
    found = flips_of([system("0", 1.0), system("1", 2.0)], sides, asked)
    judged = [pair for pair in verdicts if None not in pair]
    if not judged:
        assert found == []
        return
    (flips,) = found
    counts = (flips.both_right, flips.only_first, flips.only_second, flips.both_wrong)
    assert counts == tuple(
        judged.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))
    )


def test_many_systems_are_compared_with_the_best_one() -> None:
    few = [system(str(at), float(at)) for at in range(6)]
    assert len(pairs_of(few)) == 15
    many = [*few, system("unlabelled", None)]
    assert pairs_of(many) == [(5, other) for other in (0, 1, 2, 3, 4, 6)]
    oracle = [*few[:5], replace(few[5], select="oracle"), many[6]]
    assert {best for best, _ in pairs_of(oracle)} == {4}


def test_histograms_say_where_in_their_clips_frames_and_spans_lie() -> None:
    asked = [replace(question(number, ""), start=10.0, end=30.0) for number in range(3)]
    asked = [replace(item, spans=((15.0, 16.0),)) for item in asked]
    rows = [True] * 3
    early, late = evaluation("early", rows), evaluation("late", rows)
    for item in early.rows.values():
        item["times"] = [10.0, 10.5]
    for item in late.rows.values():
        item["times"] = [29.9, 30.0]
    videos = {item.video: {"duration": 100.0} for item in asked}
    whole = evaluation("all", rows, keep=8)
    found = {
        item.system: item.shares for item in histograms_of([early, late, whole], asked, videos)
    }
    assert set(found) == {"early", "late", TRUE_SPANS}
    assert found["early"] == (1.0, *[0.0] * 19)
    assert found["late"] == (*[0.0] * 19, 1.0)
    assert found[TRUE_SPANS][5] == 1.0


# --- published rows ------------------------------------------------------------------------------


def test_published_figures_have_our_names() -> None:
    star, nextqa = load_manifest("star"), load_manifest("nextqa")
    assert own_name(star, "Interaction") == "Interaction"
    assert own_name(star, "Avg") == "accuracy_macro"
    assert own_name(nextqa, "Temporal") == "by_group.T"
    assert own_name(nextqa, "Average") == "accuracy"
    assert own_name(star, "new params, M") is None
    rows = published_rows(star, "val")
    assert {"VLAP", "SeViLA"} <= {row.source.split(",")[0] for row in rows}
    assert all(set(row.metrics) <= {*star.types.names, "accuracy_macro"} for row in rows)
    assert published_rows(load_manifest("custom"), "test") == []
    assert published_rows(star, "train") == []


@pytest.mark.parametrize(
    ("printed", "counts"),
    [("32->4", (32, 4)), ("20", (20, 20)), ("dense/1fps", (None, None)), ("", (None, None))],
)
def test_printed_frames_are_read(printed: str, counts: tuple[int | None, int | None]) -> None:
    assert frame_counts(printed) == counts


# --- real predictions ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student(evaluated: Path) -> Workspace:
    """Predictions of a student with and without the videos, and of its start; only read."""
    return Workspace(evaluated)


def test_curves_run_over_the_frames_seen_and_kept_ones_are_among_them(student: Workspace) -> None:
    predictions = student.finished("predictions")
    ancestry = Ancestry(student, predictions)
    questions = ancestry.of_kind("questions")
    asked = next(item for item in questions if item.config["split"] == "test")
    found = gather(ancestry, asked, predictions, [], 5, Runtime(workers=1))
    assert found.notes == []
    sides = load_evaluations(predictions, ancestry)
    assert {item.select for item in sides} == {"prompter", "uniform"}
    for item in found.page.shown:
        for side, answer in zip(sides, item.answers, strict=True):
            if side.blind:
                assert (answer.curve, answer.kept) == ((), ())
                continue
            if side.select == "uniform":
                assert answer.curve == ()
                continue
            assert answer.curve_name == "prompter"
            assert len(answer.curve) == 8
            assert set(answer.kept) <= {seconds for seconds, _ in answer.curve}


TUNED = "accuracy on the tune split"


def test_a_curve_with_too_many_points_keeps_those_of_kept_frames_and_says_so(
    student: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.reporting.answers.CURVE_POINTS", 0)
    monkeypatch.setattr("stages.reporting.answers.FEWEST_POINTS", 4)
    predictions = student.finished("predictions")
    ancestry = Ancestry(student, predictions)
    questions = ancestry.of_kind("questions")
    asked = next(item for item in questions if item.config["split"] == "test")
    found = gather(ancestry, asked, predictions, [], 5, Runtime(workers=1))
    curves = [a for item in found.page.shown for a in item.answers if a.curve]
    for answer in curves:
        assert 4 <= len(answer.curve) < answer.num_scores == 8
        assert set(answer.kept) <= {seconds for seconds, _ in answer.curve}
    assert found.notes == [f"{len(curves)} curves are drawn from some of their scores only"]
    assert '"numScores":8' in render(found.page)


def test_training_runs_of_all_weights_behind_the_predictions_are_told(student: Workspace) -> None:
    predictions = student.finished("predictions")
    ancestry = Ancestry(student, predictions)
    questions = next(
        item for item in ancestry.of_kind("questions") if item.config["split"] == "test"
    )
    page = gather(ancestry, questions, predictions, [], 0, Runtime(workers=1)).page
    assert {run.role for run in page.runs} == {"teacher", "start", "student"}
    for run in page.runs:
        assert {"loss", "temperature", "gradient norm", "learning rate", TUNED} == set(run.curves)
        lines = (ancestry.found[run.artifact].path / "metrics.jsonl").read_text().splitlines()
        assert len(run.curves["loss"]) + len(run.curves[TUNED]) == len(lines)
    by_id = {node.id: node for node in page.lineage}
    assert {item.id for item in predictions} <= set(by_id)
    for node in page.lineage:
        assert all(by_id[name].rank < node.rank for name in node.inputs)
        assert node.bytes > 0


def test_the_commands_of_the_lineage_make_the_same_artifacts(student: Workspace, vqa: Vqa) -> None:
    ancestry = Ancestry(student, student.finished("predictions"))
    kinds = set()
    for artifact in ancestry.found.values():
        command = command_of(artifact)
        if artifact.kind == "features":
            assert command == ""  # by a backbone folder, whose path is nobody's business
            continue
        dry = () if artifact.kind == "questions" else ("--dry-run",)
        found = vqa(*shlex.split(command)[1:], *dry, "-w", student.root)
        assert found.code == 0, (command, found.json)
        told = found.json.get("plan", found.json)
        artifact_id = told["artifact"]["id"] if artifact.kind == "questions" else told["artifact"]
        assert told["reused"], command
        assert artifact_id == artifact.id
        kinds.add(artifact.kind)
    assert kinds == {"questions", "weights", "predictions"}
