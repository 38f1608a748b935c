"""The report page in a real browser, opened from disk: what a person does with it."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stages.report_page.render import render

pytestmark = pytest.mark.browser

Open = Callable[..., Any]


def keys(tab: Any) -> list[str]:
    return list(tab.eval_on_selector_all(".question", "cards => cards.map(c => c.dataset.key)"))


def count(tab: Any) -> str:
    return str(tab.inner_text("#count"))


def fragment(tab: Any) -> str:
    return str(tab.evaluate("decodeURIComponent(location.hash)"))


def width(tab: Any) -> int:
    return int(tab.evaluate("document.documentElement.scrollWidth"))


@pytest.mark.parametrize("kind", ["full", "bare", "hostile", "moments", "twenty"])
def test_it_opens_without_a_request_a_complaint_or_sideways_scrolling(
    open_page: Open, samples: Any, kind: str
) -> None:
    page = samples.full(25, 20) if kind == "twenty" else getattr(samples, kind)()
    for wide, scheme in ((1400, "light"), (400, "dark")):
        opened = open_page(render(page), width=wide, color_scheme=scheme)
        assert opened.requests == []
        assert opened.complaints == []
        assert width(opened.tab) == wide


def test_texts_with_markup_and_script_in_them_are_shown_as_texts(
    open_page: Open, samples: Any
) -> None:
    page = samples.hostile()
    tab = open_page(render(page)).tab
    shown = tab.eval_on_selector_all(".question h3", "all => all.map(h => h.textContent)")
    assert shown == [re.sub("[\ud800-\udfff]", "\ufffd", item.text) for item in page.shown]
    assert tab.evaluate("window.stolen") is None
    assert tab.locator("img").count() == 0
    assert tab.locator(".question script").count() == 0


def test_a_long_question_is_cut_until_it_is_asked_for(open_page: Open, samples: Any) -> None:
    tab = open_page(render(samples.hostile()), width=400).tab
    card = tab.locator(".question").nth(3)
    before = card.locator("h3").bounding_box()["height"]
    card.get_by_role("button", name="Show all").first.click()
    assert card.locator("h3").bounding_box()["height"] > 3 * before
    assert width(tab) == 400


def test_a_long_option_is_cut_too(open_page: Open, samples: Any) -> None:
    tab = open_page(render(samples.hostile())).tab
    option = tab.locator(".question").nth(3).locator(".option").first
    before = option.bounding_box()["height"]
    assert before < 200
    option.get_by_role("button", name="Show all").click()
    assert option.bounding_box()["height"] > 3 * before


def test_a_thinned_curve_says_so(open_page: Open, samples: Any) -> None:
    page = samples.full(1, 4)
    answers = [replace(a, curve=a.curve[::4], num_scores=32) for a in page.shown[0].answers]
    page = replace(page, shown=(replace(page.shown[0], answers=tuple(answers)),))
    tab = open_page(render(page)).tab
    assert "8 of 32 scores drawn" in tab.get_attribute(".curves .name span >> nth=0", "title")
    assert "drawn from some of the scores only" in tab.inner_text("#questions")


def test_plots_are_whole_on_a_narrow_screen(open_page: Open, samples: Any) -> None:
    tab = open_page(render(samples.full(2, 4)), width=400).tab
    box = tab.locator("svg.scatter").first.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 400


def test_filters_leave_the_questions_that_fit_and_clear_brings_all_back(
    open_page: Open, samples: Any
) -> None:
    page = samples.full(45, 3)
    tab = open_page(render(page)).tab
    assert count(tab) == "Questions 1 to 20 of 45 (chosen from 240)"

    tab.select_option("#type", "Sequence")
    assert set(keys(tab)) == {item.key for item in page.shown if item.type == "Sequence"}

    tab.select_option("#right", "uniform")
    tab.select_option("#wrong", "vlap-teacher")
    fitting = [
        item.key
        for item in page.shown
        if item.type == "Sequence" and item.answers[0].correct and item.answers[2].correct is False
    ]
    assert fitting
    assert keys(tab) == fitting
    assert count(tab).startswith(f"Questions 1 to {len(fitting)} of {len(fitting)} that fit")
    assert fragment(tab) == "#type=Sequence&right=uniform&wrong=vlap-teacher"

    tab.click("text=Clear")
    assert count(tab) == "Questions 1 to 20 of 45 (chosen from 240)"
    assert fragment(tab) == ""

    tab.select_option("#failed", "*")
    failing = [q.key for q in page.shown if any(a.status == "failed" for a in q.answers)]
    assert keys(tab) == failing
    assert "no frame of this clip could be decoded" in tab.inner_text(".panel:has(.is-wrong)")


def test_systems_disagree_looks_at_the_compared_ones(open_page: Open, samples: Any) -> None:
    page = samples.full(45, 3)
    tab = open_page(render(page)).tab
    tab.uncheck("#picked label:has-text('random') input")
    tab.check("#disagree")
    differ = [q.key for q in page.shown if q.answers[0].option != q.answers[2].option]
    assert keys(tab) == differ[:20]


def test_search_finds_words_of_question_options_and_ids(open_page: Open, samples: Any) -> None:
    page = samples.full(45, 2)
    tab = open_page(render(page)).tab
    tab.fill("#search", "QUESTION 31 person")
    tab.locator(".question").nth(1).wait_for(state="detached")
    assert keys(tab) == [page.shown[31].key]
    tab.fill("#search", "Prediction_T2_26")
    tab.wait_for_selector("[data-key='Prediction_T2_26']")
    assert len(keys(tab)) == 1
    tab.fill("#search", "no such words")
    tab.wait_for_selector(".none")
    assert count(tab).startswith("No question that fit")


def test_pages_turn_and_the_address_remembers(open_page: Open, samples: Any) -> None:
    page = samples.full(45, 2)
    tab = open_page(render(page)).tab
    assert tab.locator("[data-turn='-1']").first.is_disabled()
    tab.locator("[data-turn='1']").first.click()
    tab.locator("[data-turn='1']").last.click()
    assert keys(tab) == [item.key for item in page.shown[40:]]
    assert tab.inner_text(".where >> nth=0") == "page 3 of 3"
    assert tab.locator("[data-turn='1']").first.is_disabled()
    tab.reload()
    assert keys(tab) == [item.key for item in page.shown[40:]]


def test_the_keyboard_goes_through_questions_over_pages_and_to_the_search(
    open_page: Open, samples: Any
) -> None:
    page = samples.full(22, 2)
    tab = open_page(render(page)).tab
    for _ in range(21):
        tab.keyboard.press("j")
    assert tab.evaluate("document.activeElement.dataset.key") == page.shown[20].key
    assert tab.locator(".question.here").count() == 1
    tab.keyboard.press("k")
    assert tab.evaluate("document.activeElement.dataset.key") == page.shown[19].key
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowRight")
    assert fragment(tab) == f"#q={page.shown[19].key}"
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "search"
    tab.keyboard.type("jk")
    assert tab.input_value("#search") == "jk"
    tab.keyboard.press("Escape")
    assert tab.evaluate("document.activeElement.id") == ""


def test_a_link_opens_at_one_question_whatever_page_it_is_on(open_page: Open, samples: Any) -> None:
    page = samples.full(45, 2)
    key = page.shown[33].key
    tab = open_page(render(page), fragment=f"q={key}&s=uniform").tab
    card = tab.locator(".question.here")
    assert card.get_attribute("data-key") == key
    assert 0 <= card.bounding_box()["y"] < 300
    assert card.locator(".panel").count() == 1
    assert open_page(render(page), fragment="q=nothing").tab.locator(".question").count() == 20


def test_a_link_to_a_question_that_is_not_shown_says_so(open_page: Open, samples: Any) -> None:
    tab = open_page(render(samples.full(3, 2)), fragment="q=gone").tab
    assert count(tab).startswith("The question gone is not among those shown.")


def test_copy_link_copies_an_address_that_opens_the_question(open_page: Open, samples: Any) -> None:
    page = samples.full(25, 2)
    opened = open_page(render(page), permissions=["clipboard-read", "clipboard-write"])
    tab = opened.tab
    tab.locator(".question .link").nth(4).click()
    tab.wait_for_selector("text=Copied")
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert copied == f"{opened.path.as_uri()}#q={page.shown[4].key}"


def test_compared_systems_stand_side_by_side(open_page: Open, samples: Any) -> None:
    page = samples.full(8, 6)
    tab = open_page(render(page)).tab
    tab.click("text=the first choice")
    card = tab.locator(".question").first
    assert card.locator(".panel").count() == 4
    places = [card.locator(".panel").nth(n).bounding_box() for n in range(4)]
    assert len({round(place["y"]) for place in places}) == 1
    tab.click("#pick-all")
    assert card.locator(".panel").count() == 6
    for name in ("uniform", "random", "vlap-teacher", "oracle"):
        tab.uncheck(f"#picked label:has-text('{name}') input")
    assert fragment(tab) == "#s=vlap-student-visual&s=vlap-student-question"
    names = card.locator(".panel h4").all_inner_texts()
    assert names == ["vlap-student-visual", "vlap-student-question"]


def test_a_count_of_flipped_questions_leads_to_them(open_page: Open, samples: Any) -> None:
    page = samples.full(45, 6)
    tab = open_page(render(page)).tab
    tab.get_by_role("link", name=re.compile("vlap-teacher right, random wrong")).click()
    flipped = [q.key for q in page.shown if q.answers[2].correct and q.answers[1].correct is False]
    assert flipped
    assert keys(tab) == flipped[:20]
    assert tab.locator(".question").first.locator(".panel h4").all_inner_texts() == [
        "random",
        "vlap-teacher",
    ]
    assert tab.input_value("#right") == "vlap-teacher"


def test_every_frame_says_its_time_its_video_who_kept_it_and_where_it_lies(
    open_page: Open, samples: Any
) -> None:
    page = samples.full(2, 2)
    tab = open_page(render(page)).tab
    labels = tab.eval_on_selector_all(
        ".question .film .tile", "all => all.map(t => [t.getAttribute('role'), t.ariaLabel])"
    )
    question, strip = page.shown[0], page.strips[0]
    assert len(labels) == 2 * len(strip.seconds)
    assert {role for role, _ in labels} == {"img"}
    for place, seconds in enumerate(strip.seconds):
        label = labels[place][1]
        assert label.startswith(f"frame at {seconds:.1f} s of {question.video}")
        keepers = [page.systems[a.system].name for a in question.answers if place in a.tiles]
        assert ("kept by " + ", ".join(keepers) in label) == bool(keepers)
        low, high = question.spans[0]
        assert ("inside the true span" in label) == (low <= seconds <= high)


def test_kept_frames_without_a_picture_are_counted(open_page: Open, samples: Any) -> None:
    page = samples.full(1, 1)
    question = page.shown[0]
    partly = replace(question.answers[0], tiles=(3, -1, 5, -1))
    page = replace(page, shown=(replace(question, answers=(partly,)),))
    frames = open_page(render(page)).tab.locator(".panel .frames")
    assert frames.locator(".tile").count() == 2
    assert "2 kept frames without a picture" in frames.inner_text()


def test_frames_of_the_strip_stand_in_order_and_side_by_side(open_page: Open, samples: Any) -> None:
    tab = open_page(render(samples.full(2, 2))).tab
    boxes = tab.eval_on_selector_all(
        ".question:first-child .film .tile",
        "all => all.map(t => t.getBoundingClientRect()).map(r => [r.left, r.right])",
    )
    assert all(a[1] <= b[0] + 0.6 for a, b in itertools.pairwise(boxes))
    drawn = tab.eval_on_selector(
        ".film .tile", "t => [getComputedStyle(t).backgroundImage.slice(0, 14), t.clientHeight]"
    )
    assert drawn[0] == 'url("data:imag'
    assert drawn[1] > 20


def test_right_and_chosen_options_are_told_in_words(open_page: Open, samples: Any) -> None:
    page = samples.full(12, 2)
    tab = open_page(render(page)).tab
    for number, question in enumerate(page.shown[:4]):
        panel = tab.locator(".question").nth(number).locator(".panel").first
        answer = question.answers[0]
        lines = panel.locator(".option").all_inner_texts()
        assert "right answer" in lines[question.truth]
        assert "chosen" in lines[answer.option]
        verdict = "✓ right" if answer.correct else "✗ wrong"
        assert panel.locator(".verdict").inner_text() == verdict
        share = answer.option_probabilities[answer.option]
        assert f"{100 * share:.0f} %" in lines[answer.option]


def test_moments_show_their_windows_on_the_time_line_and_in_words(
    open_page: Open, samples: Any
) -> None:
    tab = open_page(render(samples.moments())).tab
    card = tab.locator(".question").nth(1)
    assert card.locator(".lane .window").count() == 4
    assert "6.0 s – 12.5 s" in card.locator(".spans-list li.best").first.inner_text()
    assert "62.5 %" in card.locator(".verdict").first.inner_text()
    assert tab.locator("#right").is_hidden()


def test_tables_sort_by_their_heads(open_page: Open, samples: Any) -> None:
    page = samples.full(0, 6)
    tab = open_page(render(page)).tab
    assert tab.locator("#questions").count() == 0
    tab.locator("table.systems").get_by_role("button", name="ms").click()
    slowest = max(page.systems, key=lambda item: item.ms_per_video)
    assert tab.inner_text("table.systems tbody tr:first-child th bdi") == slowest.name
    head = tab.locator("table.systems th[aria-sort=descending]")
    assert head.inner_text().strip() == "ms"
    tab.locator("table.systems").get_by_role("button", name="ms").click()
    fastest = min(page.systems, key=lambda item: item.ms_per_video)
    assert tab.inner_text("table.systems tbody tr:first-child th bdi") == fastest.name
    last = tab.inner_text("table.systems tbody tr:last-child")
    assert "published" in last


def test_paper_holds_the_questions_of_this_screen_and_no_controls(
    open_page: Open, samples: Any
) -> None:
    opened = open_page(render(samples.full(25, 3)), width=720)
    tab = opened.tab
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.locator(".question:visible").count() == 20
    for control in ("#filters", ".picker", ".top", ".question .link", "[data-turn]"):
        assert tab.locator(f"{control}:visible").count() == 0
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    ink = tab.evaluate("getComputedStyle(document.querySelector('h1')).color")
    assert max(int(part) for part in re.findall(r"\d+", ink)) < 80
    assert width(tab) == 720


def test_paper_holds_whole_commands(open_page: Open, samples: Any) -> None:
    page = samples.full(1, 1)
    long = replace(page.lineage[0], command="vqa prepare " + "--videos somewhere " * 20)
    tab = open_page(render(replace(page, lineage=(long, *page.lineage[1:])))).tab
    whole = tab.locator(".command details .whole")
    assert not whole.is_visible()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert whole.is_visible()
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not whole.is_visible()


def test_without_scripts_the_rest_is_complete_and_a_note_tells_of_the_questions(
    open_page: Open, samples: Any
) -> None:
    opened = open_page(render(samples.full(25, 3)), java_script_enabled=False)
    tab = opened.tab
    assert "It holds 25 questions" in tab.inner_text("#questions")
    assert tab.locator("#filters:visible").count() == 0
    assert tab.locator("table.systems tbody tr").count() == 5
    assert tab.locator("#training svg:visible").count() > 5
    assert opened.complaints == []


def test_two_thousand_questions_are_searched_while_one_types(open_page: Open, samples: Any) -> None:
    tab = open_page(render(samples.long(2000))).tab
    assert tab.locator(".question").count() == 20
    assert tab.inner_text(".where >> nth=0") == "page 1 of 100"
    began = time.monotonic()
    tab.fill("#search", "question 1999?")
    tab.wait_for_selector("[data-key='k1999']")
    assert keys(tab) == ["k1999"]
    assert time.monotonic() - began < 4.0


def test_the_theme_can_be_chosen(open_page: Open, samples: Any) -> None:
    tab = open_page(render(samples.bare()), color_scheme="light").tab
    ground = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(ground)
    tab.click("#theme")
    assert tab.evaluate(ground) == light
    tab.click("#theme")
    assert tab.inner_text("#theme") == "Theme: dark"
    assert tab.evaluate(ground) != light


def test_commands_are_copied_and_artifacts_lead_to_their_rows(
    open_page: Open, samples: Any
) -> None:
    opened = open_page(render(samples.full(3, 2)), permissions=["clipboard-read"])
    tab = opened.tab
    tab.get_by_role("button", name="Copy the command of weights shapes-s").click()
    tab.wait_for_selector("text=Copied")
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert copied == "vqa distill -b shapes --keep 4"
    tab.locator(".lineage a").nth(2).click()
    assert fragment(tab) == "#made-2"
    assert keys(tab) == [item.key for item in samples.full(3, 2).shown]


AUDIT = """() => {
  const problems = [];
  const label = (e) => (e.labels && e.labels[0] ? e.labels[0].innerText : "");
  const name = (e) => (e.ariaLabel || label(e) || e.innerText || "").trim();
  const all = (what) => [...document.querySelectorAll(what)];
  for (const e of all("input, select, button, a[href], [role=img], [role=group]"))
    if (!name(e) && e.checkVisibility()) problems.push("no name: " + e.outerHTML.slice(0, 80));
  const ids = all("[id]").map((e) => e.id);
  if (new Set(ids).size !== ids.length) problems.push("an id twice");
  let before = 0;
  for (const h of all("h1, h2, h3, h4, h5, h6")) {
    const level = Number(h.tagName[1]);
    if (level > before + 1) problems.push("a level is skipped: " + h.textContent.slice(0, 40));
    before = level;
  }
  for (const t of all("table"))
    if (!t.tHead || t.querySelector("th:not([scope])")) problems.push("a head without scope");
  for (const e of all("main *")) {
    const scrolls = /auto|scroll/.test(getComputedStyle(e).overflowX);
    if (scrolls && e.scrollWidth > e.clientWidth && !e.matches("[tabindex], input, select"))
      problems.push("scrolls by mouse only: " + e.className);
  }
  return problems;
}"""


@pytest.mark.parametrize("kind", ["full", "moments"])
def test_controls_are_named_headings_in_order_and_scrolling_needs_no_mouse(
    open_page: Open, samples: Any, kind: str
) -> None:
    tab = open_page(render(getattr(samples, kind)()), width=400).tab
    assert tab.evaluate(AUDIT) == []
