"""Pages made by hand, with pictures drawn here, and a browser to open them in."""

from __future__ import annotations

import base64
import importlib.util
import io
import math
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageDraw

from stages.report_page.model import (
    Answer,
    Drop,
    Failure,
    Flips,
    Histogram,
    Node,
    Page,
    Published,
    Run,
    Shown,
    Strip,
    System,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

TYPES = ("Interaction", "Sequence", "Prediction", "Feasibility")
OPTIONS = ("the red square", "the blue disc", "the green triangle", "nothing at all")
NAMES = (
    "uniform", "random", "vlap-teacher", "vlap-student-visual", "vlap-student-question", "oracle",
    "sevila-uniform", "sevila-zero-shot", "sevila-refined", "sevila-oracle", "videodistill",
    "videodistill-blind-gaussian", "language-only", "blip2-concat", "blip2-voting",
    "vlap-student-question-seed-1", "vlap-student-question-seed-2", "sevila-refined-seed-1",
    "sevila-refined-seed-2", "random-guess",
)  # fmt: skip
HOSTILE = "</script><script>window.stolen=1</script><img src=x onerror='window.stolen=1'>"


def sprite(number: int, count: int, tile: tuple[int, int]) -> str:
    """A row of small pictures: a disc that moves over a coloured ground."""
    width, height = tile
    picture = Image.new("RGB", (width * count, height))
    draw = ImageDraw.Draw(picture)
    for place in range(count):
        left = width * place
        ground = ((40 + 37 * number) % 200, 90 + 3 * place, (160 - 11 * number) % 200)
        draw.rectangle((left, 0, left + width, height), fill=ground)
        x = left + 8 + (width - 24) * place / max(count - 1, 1)
        draw.ellipse((x, height * 0.3, x + 16, height * 0.3 + 16), fill=(235, 70, 60))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def system(number: int) -> System:
    """One of twenty systems, two of them blind."""
    name = NAMES[number]
    value = 44.0 + (number * 7919) % 37 * 0.9
    blind = "gaussian" if "blind" in name else "questions only" if name == "language-only" else None
    keep = (4, 4, 32, 4, 4, 4, 4, 8, 4, 4, 8, 8, 1, 4, 4, 4, 4, 4, 4, 4)[number]
    return System(
        name=name,
        artifact=f"shapes-test-{name}-{number:04x}",
        family=name.split("-")[0],
        select=("uniform", "random", "all", "prompter", "prompter", "oracle")[number % 6],
        headline="accuracy",
        value=value,
        ci95=(value - 4.5, value + 4.1),
        by_type={kind: value - 9 + 6 * place for place, kind in enumerate(TYPES)},
        metrics={
            "accuracy_all": value - 0.6,
            "accuracy_macro": value - 1.1,
            "keyframe_recall": 61.0 + number,
            "keyframe_precision": 33.0 + number,
        },
        frames=32,
        keep=keep,
        ms_per_video=3.0 * (number + 1) ** 1.6,
        seed=number % 3,
        blind=blind,
        n_scored=238,
        n_failed=2 if number == 1 else 0,
        n_unlabelled=0,
    )


def answer(place: int, number: int, strip: Strip, truth: int) -> Answer:
    """One system's answer, drawn by chance; the second system fails on every eighth question."""
    chance = random.Random(place * 1009 + number)
    if number == 1 and place % 8 == 3:
        reason = "no frame of this clip could be decoded: end of file at packet 12"
        return Answer(number, "", None, None, "failed", reason, (), (), (), (), (), "")
    option = truth if chance.random() < 0.55 else chance.randrange(4)
    scores = [chance.gauss(0, 1) for _ in OPTIONS]
    scores[option] = max(scores) + 0.8
    total = sum(math.exp(score) for score in scores)
    tiles = tuple(sorted(chance.sample(range(len(strip.seconds)), 4)))
    times = [strip.start + (strip.end - strip.start) * i / 31 for i in range(32)]
    wave = chance.uniform(0, 6)
    selects = "student" in NAMES[number] or "sevila" in NAMES[number]
    blind = "blind" in NAMES[number] or NAMES[number] == "language-only"
    return Answer(
        system=number,
        text=OPTIONS[option],
        option=option,
        correct=option == truth,
        status="ok",
        reason="",
        option_scores=tuple(scores),
        option_probabilities=tuple(math.exp(score) / total for score in scores),
        kept=() if blind else tuple(strip.seconds[tile] for tile in tiles),
        tiles=() if blind else tiles,
        curve=tuple((t, math.sin(t / 4 + wave) + chance.gauss(0, 0.1)) for t in times)
        if selects
        else (),
        curve_name=("prompter" if "vlap" in NAMES[number] else "localizer") if selects else "",
    )


def shown(place: int, systems: int, strips: tuple[Strip, ...]) -> Shown:
    """One question about a clip that it shares with another."""
    number = place // 2 % len(strips)
    strip = strips[number]
    truth = place % 4
    return Shown(
        key=f"{TYPES[place % 4]}_T{place % 6}_{place}",
        question_id=f"{TYPES[place % 4]}_T{place % 6}_{place}",
        video=f"clip-{number:03d}.mp4",
        type=TYPES[place % 4],
        text=f"Which thing did the person put down before question {place} was asked?",
        options=OPTIONS,
        truth=truth,
        truth_text=OPTIONS[truth],
        spans=((strip.start + 6.0, strip.start + 11.5),),
        strip=number,
        answers=tuple(answer(place, item, strip, truth) for item in range(systems)),
    )


def make_strips(count: int) -> tuple[Strip, ...]:
    """Clips of half a minute with sixteen even frames and four others."""
    made = []
    for number in range(count):
        start = 5.0 * number
        even = [start + 30.0 * (i + 0.5) / 16 for i in range(16)]
        times = tuple(sorted([*even, start + 7.1, start + 7.9, start + 8.8, start + 21.0]))
        picture = sprite(number, len(times), (96, 72)) if number != 4 else None
        problem = "" if picture else "the video could not be read"
        made.append(Strip(picture, (96, 72), times, start, start + 30.0, problem))
    return tuple(made)


def make_runs() -> tuple[Run, ...]:
    """Two training runs, one of them with a loss that was not finite once."""
    steps = range(0, 600, 10)
    curves: dict[str, tuple[tuple[float, float], ...]] = {
        "loss": tuple((s, 1.4 * math.exp(-s / 250) + 0.05 * math.sin(s)) for s in steps),
        "accuracy on the tune split": tuple(
            (s, 80 - 50 * math.exp(-s / 300)) for s in range(0, 600, 60)
        ),
        "temperature": tuple((s, 0.99**s) for s in steps),
        "gradient norm": tuple((s, math.nan if s == 50 else 1 + math.sin(s) ** 2) for s in steps),
        "learning rate": tuple((s, 3e-5 * (1 - s / 600)) for s in steps),
    }
    return (
        Run("vlap-teacher-seed-0", "w-1", "teacher", 61.0, curves),
        Run("sevila-localizer", "w-2", "localizer", None, {"loss": curves["loss"], "empty": ()}),
    )


def make_lineage() -> tuple[Node, ...]:
    """Questions to predictions over five ranks."""
    rows = (
        ("questions/q", "questions", 0, (), "vqa prepare --benchmark shapes --split test"),
        ("features/f", "features", 1, ("questions/q",), "vqa extract-features -b shapes"),
        ("weights/t", "weights", 2, ("features/f",), "vqa train-teacher -b shapes"),
        ("weights/s", "weights", 3, ("features/f", "weights/t"), "vqa distill -b shapes --keep 4"),
        ("predictions/a", "predictions", 3, ("features/f", "weights/t"), ""),
        ("predictions/b", "predictions", 4, ("features/f", "weights/s"), "vqa eval -b shapes"),
    )
    return tuple(
        Node(name, kind, f"shapes-{name[-1]}", rank, inputs, 2048 * 3**rank, "2026-11-20", command)
        for name, kind, rank, inputs, command in rows
    )


def make_page(questions: int = 30, systems: int = 4, clips: int = 5) -> Page:
    """A page with every part filled."""
    strips = make_strips(clips)
    items = tuple(system(number) for number in range(systems))
    bins = [0.05 + 0.03 * math.sin(i / 3) for i in range(20)]
    return Page(
        title="shapes test",
        benchmark="shapes",
        split="test",
        num_questions=max(questions, 240),
        coverage={"ok": 79, "undecodable": 1},
        types=TYPES,
        systems=items,
        published=(
            Published("SeViLA, fine-tuned", "Yu et al. 2023, table 1", 32, 4, {"accuracy": 64.9}),
            Published("VLAP", "Wang et al. 2024", 32, 4, {"accuracy": 67.1, "Sequence": 70.4}),
        ),
        drops=(
            Drop(
                system="vlap-teacher",
                how="gaussian",
                seeing=62.0,
                blind=41.0,
                drop=21.0,
                ci95=(15.2, 26.6),
                by_type={"Sequence": (18.0, (9.0, 27.0)), "Prediction": (24.0, None)},
            ),
        ),
        strips=strips,
        shown=tuple(shown(place, systems, strips) for place in range(questions)),
        flips=tuple(
            Flips(a, b, 80 + a, 31 + b, 27 + a, 100 - b)
            for a in range(min(systems, 6))
            for b in range(a + 1, min(systems, 6))
        ),
        runs=make_runs(),
        histograms=(
            *(Histogram(item.name, tuple(bins[k:] + bins[:k])) for k, item in enumerate(items[:6])),
            Histogram("true spans", tuple(reversed(bins))),
        ),
        failures=(
            Failure(("prepare", "eval"), "clip-004.mp4", "end of file before the first frame"),
        ),
        num_failures=3,
        num_failed=4,
        environment={"vqa-toolkit": "0.1.0", "torch": "2.8.0", "decoder": "decord 0.6.0"},
        lineage=make_lineage(),
    )


def bare_page() -> Page:
    """One system, no question shown, nothing else known."""
    one = replace(system(0), ci95=None, by_type={}, metrics={}, keep=None, ms_per_video=None)
    return Page("custom val", "custom", "val", 12, {}, (), (one,))


def hostile_page() -> Page:
    """Every text is an attack or a nuisance, and numbers are missing."""
    strange = (
        HOSTILE,
        "\u202eright to left\u202c مرحبا بالعالم",
        "a\u200bb\u200d🧑‍🚀 \u2028 & <b>bold</b>",
        "word" * 1250,
        "\ud800 broken",
        "'\"><svg onload=window.stolen=1>",
    )
    base = make_page(len(strange), 2)
    questions = tuple(
        replace(
            item,
            text=text,
            key=f"key {text[:40]}",
            question_id=text[:60],
            video=text[:80],
            type=text[:400],
            options=(text, *OPTIONS[1:]),
            truth_text=text,
            answers=tuple(
                replace(
                    given,
                    text=text,
                    reason=text,
                    option_scores=(math.nan, math.inf, -math.inf, 1.0),
                    option_probabilities=(),
                    curve=((1.0, math.nan), (2.0, 3.0)),
                    curve_name=text[:30],
                )
                for given in item.answers
            ),
        )
        for item, text in zip(base.shown, strange, strict=True)
    )
    named = tuple(
        replace(
            item,
            name=f"{number} {text}",
            value=math.nan if number else item.value,
            by_type={other[:400]: 50.0 for other in strange},
        )
        for number, (item, text) in enumerate(zip(base.systems, strange, strict=False))
    )
    clean = strange[0]
    return replace(
        base,
        title=clean,
        types=tuple(item.type for item in questions),
        systems=named,
        shown=questions,
        strips=tuple(replace(item, problem=clean) for item in base.strips),
        published=(Published(clean, clean, 32, 4, {"accuracy": math.nan}),),
        failures=(Failure((clean, clean), clean, clean),),
        environment={clean: clean},
        lineage=tuple(replace(node, label=clean, command=clean) for node in base.lineage),
        runs=(Run(clean, clean, clean, math.nan, {clean: ((1, 2.0), (2, math.inf))}),),
        drops=(replace(base.drops[0], system=clean, how=clean, by_type={strange[3]: (1.0, None)}),),
        histograms=(Histogram(clean, (0.5, math.nan, 0.5)),),
    )


def moments_page() -> Page:
    """Moment retrieval and open-ended questions: no options, windows, values instead of right."""
    base = make_page(6, 2)
    windows = ((6.0, 12.5, 0.81), (20.0, 24.0, 0.4))
    questions = tuple(
        replace(
            item,
            options=(),
            truth=None,
            truth_text="" if place % 2 else "a red square",
            answers=tuple(
                replace(
                    given,
                    option=None,
                    correct=None,
                    text="" if place % 2 else "a red disc",
                    option_scores=(),
                    option_probabilities=(),
                    windows=windows if place % 2 else (),
                    value=62.5 if place % 2 else None,
                    status="ok",
                )
                for given in item.answers
            ),
        )
        for place, item in enumerate(base.shown)
    )
    items = tuple(replace(item, headline="mAP", by_type={}) for item in base.systems)
    empty: dict[str, Any] = dict.fromkeys(("types", "published", "drops", "flips"), ())
    return replace(base, shown=questions, systems=items, **empty)


def long_page(questions: int) -> Page:
    """Many shown questions, which differ in their number."""
    base = make_page(30, 2)
    many = tuple(
        replace(base.shown[n % 30], key=f"k{n}", question_id=f"k{n}", text=f"Is this question {n}?")
        for n in range(questions)
    )
    return replace(base, shown=many, num_questions=questions)


@dataclass(frozen=True)
class Samples:
    """What the tests of the page draw from."""

    full: Callable[..., Page] = make_page
    bare: Callable[[], Page] = bare_page
    hostile: Callable[[], Page] = hostile_page
    moments: Callable[[], Page] = moments_page
    long: Callable[[int], Page] = long_page


@pytest.fixture(scope="session")
def samples() -> Samples:
    """Builders of pages."""
    return Samples()


@pytest.fixture(scope="session")
def evaluated(
    trained_world: Any, vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A student with and without the videos, and the start on uniform frames; only read."""
    workspace: Path = trained_world.copy(tmp_path_factory.mktemp("report"))
    for arguments in (("--role", "student"), ("--role", "start", "--select", "uniform")):
        blind = "--with-blind" if arguments[1] == "student" else "--no-blind"
        outcome = vqa("eval", "-b", "shapes", "-w", workspace, *arguments, blind)
        assert outcome.code == 0, outcome.json
    return workspace


def chromium() -> str | None:
    """The system's Chromium."""
    names = (os.environ.get("VQA_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


# Not for the session: while it is open, this thread has a running event loop, and no second one
# can be opened.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One headless Chromium; tests are skipped without one, unless it is required (in CI)."""
    give_up = pytest.fail if os.environ.get("VQA_REQUIRE_BROWSER") == "1" else pytest.skip
    path = chromium()
    if path is None:
        give_up("no chromium on PATH (or in VQA_CHROMIUM)")
    if importlib.util.find_spec("playwright") is None:
        give_up("the package playwright is not installed (pip install '.[test]')")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=arguments)
        yield opened
        opened.close()


@dataclass
class Opened:
    """A page in a tab, and what it did that it should not.

    Attributes:
        requests: Addresses asked for, other than the page itself and pictures inside it.
        complaints: Messages of the console and uncaught errors.
    """

    tab: Tab
    path: Path
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens a page from disk: `open_page(html, width=1400, fragment="q=...")`."""
    contexts = []

    def open_it(html: str, *, width: int = 1400, fragment: str = "", **options: Any) -> Opened:
        path = tmp_path / "index.html"
        path.write_text(html, "utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        opened = Opened(context.new_page(), path)
        opened.tab.set_default_timeout(20_000)
        opened.tab.on("console", lambda message: opened.complaints.append(message.text))
        opened.tab.on("pageerror", lambda error: opened.complaints.append(str(error)))

        def watch(route: Any) -> None:
            url = route.request.url
            if url.split("#")[0] == path.as_uri():
                route.continue_()
            else:
                opened.requests.append(url)
                route.abort()

        context.route("**/*", watch)
        opened.tab.goto(path.as_uri() + (f"#{fragment}" if fragment else ""))
        return opened

    yield open_it
    for context in contexts:
        context.close()
