"""The report page as text: nothing in it can run or load, everything in it can be read."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.manifest import benchmark_names, load_manifest
from stages.report_page.labels import Box, placed
from stages.report_page.lineage import HIGH, WIDE, lineage_graph
from stages.report_page.model import Node, Page, Published, System
from stages.report_page.plots import Scatter, against_frames, against_time, look_of
from stages.report_page.published import MOST_IN_TABLE, in_table
from stages.report_page.questions import first_picked, script_json
from stages.report_page.render import page_sources, render
from stages.report_page.scales import linear, percents, spread_out
from stages.reporting.published import published_rows

VOID = {"meta", "link", "br", "input", "img"}


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of each tag."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[tuple[str, int]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append((tag, len(self.texts)))
            self.texts.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            tag, place = self.open[-1]
            self.texts[place] = (tag, self.texts[place][1] + data)

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def drawn_page(samples: Any, kind: str) -> Page:
    numbers = {"one system": (8, 1), "twenty systems": (8, 20)}
    if kind in numbers:
        return samples.full(*numbers[kind])
    return getattr(samples, kind)()


def test_hostile_texts_bring_no_element_no_handler_and_no_address(samples: Any) -> None:
    hostile, tame = Parsed(render(samples.hostile())), Parsed(render(samples.full(6, 2)))
    assert {tag for tag, _ in hostile.tags} <= {tag for tag, _ in tame.tags}
    assert len(hostile.named("script")) == 2
    for _, attributes in hostile.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert attributes.get("href", "#").startswith(("#", "data:,"))
        assert "src" not in attributes
    title = samples.hostile().title
    assert title in hostile.text_of("h1")
    assert title in " ".join(hostile.text_of("code"))


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=40, deadline=None)
def test_any_title_and_system_name_is_read_back_as_it_was(title: str, name: str) -> None:
    one = System(name, "id", "f", "s", "accuracy", 50.0, None, {}, {}, 8, 4, 1.0, 0, None, 9, 0, 0)
    page = Page(title, "b", "val", 9, {}, (), (one,))
    parsed = Parsed(render(page))
    assert parsed.text_of("h1") == [as_html_reads(title)]
    assert as_html_reads(name) in parsed.text_of("bdi")


def as_html_reads(text: str) -> str:
    """Half characters cannot be written; everything else is kept by this parser."""
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
@settings(deadline=None)
def test_data_in_the_page_is_the_same_after_parsing_and_holds_no_markup(value: Any) -> None:
    text = str(script_json(value))
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else(samples: Any) -> None:
    html = render(samples.full(3, 2))
    parsed = Parsed(html)
    policy = next(m["content"] for m in parsed.named("meta") if "http-equiv" in m)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        inner = next(t for t in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S))
        digest = b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_style_and_script_name_no_address_and_never_write_markup() -> None:
    sources = page_sources()
    texts = "\n".join(sources.values()).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|@import|//[a-z]+\.", texts)
    script = "\n".join(text for name, text in sources.items() if name.endswith(".js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write", script)
    assert not re.search(r"eval\(|Function\(", script)
    assert not re.search(r"fetch\(|XMLHttp|WebSocket|sendBeacon|import\(|localStorage", script)


def test_equal_pages_are_equal_text(samples: Any) -> None:
    assert render(samples.full()) == render(samples.full())


def test_parts_without_content_are_left_out_whole(samples: Any) -> None:
    parsed = Parsed(render(samples.bare()))
    assert [item["id"] for item in parsed.named("section")] == ["summary"]
    assert parsed.text_of("h2") == []
    assert [item["href"] for item in parsed.named("a")] == ["#main", "#summary"]
    full = Parsed(render(samples.full()))
    parts = ["summary", "questions", "training", "failures", "origins"]
    assert [item["id"] for item in full.named("section")] == parts


def test_numbers_that_are_none_or_not_finite_are_dashes_and_never_drawn(samples: Any) -> None:
    html = render(samples.hostile())
    outside = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    for attribute in re.findall(r'(?:[xy][12]?|c[xy]|r|d|points|width|height)="([^"]*)"', outside):
        assert not re.search(r"nan|inf|None", attribute)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert data is not None
    first = json.loads(data[1])["questions"][0]["answers"][0]
    assert first["scores"] == [None, None, None, 1.0]
    assert first["curve"] == [[2.0, 3.0]]


def test_published_rows_and_blind_systems_say_what_they_are(samples: Any) -> None:
    html = render(samples.full(3, 13))
    rows = re.findall(r"<tr[^>]*>.*?</tr>", html, re.S)
    published = [row for row in rows if "Yu et al. 2023" in row]
    assert len(published) == 1
    assert 'class="published"' in published[0]
    assert ">published</em>" in published[0]
    blind = next(row for row in rows if "videodistill-blind-gaussian" in row)
    assert "no video: gaussian" in blind
    assert "95 % intervals" in html


def with_published() -> list[tuple[str, str]]:
    return [
        (name, split)
        for name in benchmark_names()
        for split in ("train", "val", "test")
        if published_rows(load_manifest(name), split)
    ]


def ours_beside(benchmark: str, split: str, samples: Any) -> Page:
    """Systems with accuracy as the headline beside the published rows of a real benchmark."""
    manifest = load_manifest(benchmark)
    rows = tuple(published_rows(manifest, split))
    bare = replace(samples.full(1, 6), shown=(), strips=(), drops=(), flips=())
    return replace(bare, published=rows, reported=manifest.metrics[0])


@pytest.mark.parametrize(("benchmark", "split"), with_published())
def test_every_published_row_has_a_figure_in_its_table(
    samples: Any, benchmark: str, split: str
) -> None:
    page = ours_beside(benchmark, split, samples)
    rows = re.findall(r'<tr class="published">.*?</tr>', render(page), re.S)
    assert len(rows) == len(page.published)
    for item, row in zip(itertools.chain(*in_table(page)), rows, strict=True):
        assert f">{item.metrics[page.reported]:.1f}</td>" in row


def test_macro_figures_of_papers_are_never_beside_an_accuracy_over_questions(samples: Any) -> None:
    page = ours_beside("star", "val", samples)
    heads = Parsed(render(page)).text_of("th")
    assert "95 % interval" in heads
    html = render(page)
    assert ">accuracy_macro</span>" in html
    rows = re.findall(r'<tr class="published">.*?</tr>', html, re.S)
    assert all('<td class="main" data-value="">–</td>' in row for row in rows[:MOST_IN_TABLE])
    plot = against_frames(page)
    assert plot is not None
    assert plot.y_name == "accuracy_macro, %"
    macro = page.systems[0].metrics["accuracy_macro"]
    assert any(mark.title.startswith(f"uniform: {macro:.1f} at") for mark in plot.marks)
    assert any(mark.color is None for mark in plot.marks)


def test_of_many_published_rows_those_of_the_shown_families_are_in_the_table(samples: Any) -> None:
    page = ours_beside("nextqa", "val", samples)
    table, folded = in_table(page)
    assert (len(table), len(table) + len(folded)) == (MOST_IN_TABLE, len(page.published))
    ours = [item.name.startswith("VLAP") for item in (*table, *folded)]
    assert ours[:3] == [True] * 3
    assert ours == sorted(ours, reverse=True)
    assert f"<summary>{len(folded)} more published rows</summary>" in render(page)
    few = replace(page, published=page.published[:MOST_IN_TABLE])
    assert in_table(few) == (list(few.published), [])


@pytest.mark.parametrize("kind", ["full", "one system", "twenty systems", "hostile", "moments"])
def test_every_picture_has_words_and_headings_go_down_one_by_one(samples: Any, kind: str) -> None:
    parsed = Parsed(render(drawn_page(samples, kind)))
    pictures = [item for item in parsed.named("svg") if item.get("aria-hidden") != "true"]
    assert pictures
    assert all(item.get("aria-label") and item.get("role") for item in pictures)
    scrolled = [item for item in parsed.named("div") if "scroll" in item.get("class", "")]
    assert all(item["tabindex"] == "0" and item["aria-label"] for item in scrolled)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [item["id"] for _, item in parsed.tags if "id" in item]
    assert len(ids) == len(set(ids))


def test_plots_tell_in_words_what_they_draw(samples: Any) -> None:
    page = samples.full(3, 6)
    for plot in (against_frames(page), against_time(page)):
        assert plot is not None
        for item in page.systems:
            assert f"{item.name}: {item.value:.1f}" in plot.text
            assert any(mark.title in plot.text for mark in plot.marks)


counts = st.lists(st.sampled_from([1, 2, 3, 4, 8, 16, 32, 64]), min_size=2, max_size=30)


@given(counts)
@settings(max_examples=30, deadline=None)
def test_every_mark_stands_in_the_band_of_its_number_of_frames(kept: list[int]) -> None:
    one = System("s", "id", "f", "s", "accuracy", 50.0, None, {}, {}, 64, 4, 1.0, 0, None, 9, 0, 0)
    ours = tuple(replace(one, keep=keep) for keep in kept[1:])
    papers = (Published("p", "t", 64, kept[0], {"accuracy": 60.0}),)
    plot = against_frames(Page("t", "b", "val", 9, {}, (), ours, papers))
    assert plot is not None
    assert_in_bands(plot, [*kept[1:], kept[0]])


def assert_in_bands(plot: Scatter, kept: list[int]) -> None:
    bands = {int(label.split()[0]): (left, right) for left, right, label in plot.bands}
    assert set(bands) == set(kept)
    assert list(bands) == sorted(bands)
    widths = [right - left for left, right in bands.values()]
    assert max(widths) - min(widths) < 0.3
    for keep, mark in zip(kept, plot.marks, strict=True):
        assert bands[keep][0] < mark.x < bands[keep][1]
    assert len({(mark.x, keep) for keep, mark in zip(kept, plot.marks, strict=True)}) == len(kept)


def test_of_many_systems_those_that_nothing_cheaper_beats_are_named(samples: Any) -> None:
    page = samples.full(1, 20)
    many = [replace(item, name=f"{n} {item.name}") for n in (1, 2) for item in page.systems]
    plot = against_time(replace(page, systems=tuple(many)))
    assert plot is not None
    assert not plot.all_named
    drawn = [item for item in many if item.blind is None]
    assert len(plot.marks) == len(drawn)
    for item, mark in zip(drawn, plot.marks, strict=True):
        beaten = any(
            other.ms_per_video <= item.ms_per_video and other.value > item.value for other in drawn
        )
        assert (mark.label is None) == beaten


def test_blind_systems_are_in_no_plot_of_costs_and_one_point_makes_no_plot(samples: Any) -> None:
    page = samples.full(3, 13)
    plot = against_frames(page)
    assert plot is not None
    assert not [mark for mark in plot.marks if "blind" in mark.title]
    assert against_frames(samples.bare()) is None


def test_no_label_of_six_systems_covers_a_mark_or_another_label(samples: Any) -> None:
    plot = against_time(samples.full(3, 6))
    assert plot is not None
    marks = [Box(m.x - 5, m.y - 5, m.x + 5, m.y + 5) for m in plot.marks]
    boxes = []
    for mark in plot.marks:
        assert mark.label is not None
        width = 6.0 * len(mark.label.text)
        left = {"start": 0.0, "end": width, "middle": width / 2}[mark.label.anchor]
        x, y = mark.label.x - left, mark.label.y
        boxes.append(Box(x, y - 10, x + width, y + 3))
    assert all(box.overlap(mark) == 0 for box in boxes for mark in marks)
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))


spots = st.lists(st.tuples(st.floats(20, 380), st.floats(20, 280)), min_size=1, max_size=25)


@given(spots)
@settings(deadline=None)
def test_labels_stay_inside_the_picture(at: list[tuple[float, float]]) -> None:
    frame = Box(0, 0, 400, 300)
    for label in placed([f"system {n}" for n in range(len(at))], at, [], frame):
        width = 6.0 * len(label.text)
        left = label.x - {"start": 0.0, "end": width, "middle": width / 2}[label.anchor]
        assert left >= frame.left - 0.1
        assert left + width <= frame.right + 0.1
        assert frame.top <= label.y - 10 <= frame.bottom


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=12))
@settings(deadline=None)
def test_more_lies_further_along_and_widely_spread_values_lie_by_logarithm(
    values: list[float],
) -> None:
    scale = spread_out(values, 0, 500)
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 500 for place in places)
    assert scale.logarithmic == (max(values) > 10 * min(values))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12))
@settings(deadline=None)
def test_an_axis_begins_and_ends_at_round_numbers_around_its_values(values: list[float]) -> None:
    scale = linear(values, 0, 100)
    slack = 1e-6 * max(abs(v) for v in [*values, 1.0])
    assert scale.low <= min(values) + slack
    assert scale.high >= max(values) - slack
    assert len(scale.ticks) >= 2


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.integers(2, 5))
@settings(deadline=None)
def test_an_axis_of_percents_stays_within_them_and_is_no_shorter_than_ten(
    values: list[float], steps: int
) -> None:
    scale = percents(values, 0, 100, steps=steps)
    assert 0 <= scale.ticks[0] <= min(values) + 1e-6
    assert max(values) - 1e-6 <= scale.ticks[-1] <= 100
    assert scale.ticks[-1] - scale.ticks[0] >= 10
    assert linear([0.0, 0.0], 0, 100).low == 0.0


def test_forty_systems_look_different() -> None:
    looks = {look_of(place) for place in range(40)}
    assert len(looks) == 40


def test_the_best_of_each_family_that_chose_its_frames_are_compared_first(samples: Any) -> None:
    page = samples.full(1, 20)
    names = [page.systems[place].name for place in first_picked(page)]
    assert len(names) == 4
    assert {page.systems[place].blind for place in first_picked(page)} == {None}
    assert "vlap-teacher" not in names
    assert first_picked(samples.full(1, 3)) == [0, 1, 2]


graphs = st.integers(2, 14).flatmap(
    lambda n: st.lists(
        st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda e: e[0] < e[1]),
        max_size=20,
    ).map(lambda edges: (n, edges))
)


@given(graphs)
@settings(deadline=None)
def test_no_two_boxes_of_the_lineage_touch_and_makers_stand_left(
    graph: tuple[int, list[tuple[int, int]]],
) -> None:
    count, edges = graph
    inputs = {n: sorted({a for a, b in edges if b == n}) for n in range(count)}
    rank: dict[int, int] = {}
    for n in range(count):
        rank[n] = 1 + max((rank[a] for a in inputs[n]), default=-1)
    nodes = [
        Node(f"k/{n}", "k", f"n{n}", rank[n], tuple(f"k/{a}" for a in inputs[n]), 1, "", "")
        for n in range(count)
    ]
    drawn = lineage_graph(nodes)
    assert drawn is not None
    boxes = [Box(item.x, item.y, item.x + WIDE, item.y + HIGH) for item in drawn.boxes]
    assert all(a.overlap(b) == 0 for a, b in itertools.combinations(boxes, 2))
    assert all(box.within(Box(0, 0, drawn.width, drawn.height + 0.01)) for box in boxes)
    for source, reader in set(edges):
        assert boxes[source].right < boxes[reader].left


def test_labels_of_the_lineage_differ_where_their_ends_do() -> None:
    names = [f"shapes-test-vlap-student-question-32to4-seed{n}" for n in (1, 2)]
    nodes = [Node(f"k/{n}", "k", n, 0, (), 1, "", "") for n in [*names, "shapes-train"]]
    drawn = lineage_graph(nodes, ("shapes-test-", "shapes-"))
    assert drawn is not None
    labels = [box.label for box in drawn.boxes]
    assert labels == ["vlap-student…-32to4-seed1", "vlap-student…-32to4-seed2", "train"]


def colours(theme: int) -> dict[str, str]:
    found = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\);", page_sources()["page.css"])
    return {name: (light, dark)[theme] for name, light, dark in found}


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2, 1.4.3."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear_parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    weights = (0.2126, 0.7152, 0.0722)
    return sum(weight * part for weight, part in zip(weights, linear_parts, strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_and_marks_stand_out_from_every_ground(theme: int) -> None:
    named = colours(theme)
    for ground in ("ground", "sheet", "faint", "found"):
        for text in ("ink", "soft", "accent", "right", "wrong", "truth"):
            assert contrast(named[text], named[ground]) >= 4.5, (text, ground)
        for mark in (f"s{n}" for n in range(8)):
            assert contrast(named[mark], named[ground]) >= 3, (mark, ground)


def test_long_questions_and_many_of_them_cost_no_more_than_their_data(samples: Any) -> None:
    page = samples.long(200)
    small, large = render(replace(page, shown=page.shown[:1])), render(page)
    assert len(large) - len(small) < 200 * 6000
