"""The page of `vqa serve` in a real browser: what a person does with it, and sees."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser
HOSTILE = '</script><img src=x onerror="document.title=1"> <b>bold</b> \u202e\u200b🎉'
PHONE, DESK = {"width": 400, "height": 800}, {"width": 1400, "height": 900}
PATIENCE = 60_000
"""Milliseconds; nothing here takes that long on a machine that does nothing else."""


ATTEMPTS = 8
"""To be as quick as promised, on a machine that may be busy with other tests."""


class Page:
    """A tab on the server's page, and everything it asked for or complained about."""

    def __init__(self, browser: Any, server: Any, **how: Any) -> None:
        self.server = server
        self.context = browser.new_context(**{"viewport": DESK, **how})
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(server.url)
        self.tab.locator("#note").wait_for()

    def choose(self, video: Path) -> None:
        self.tab.set_input_files("#file", video)

    def ask(self, question: str, *options: str) -> Any:
        """Type and ask; the newest answer."""
        before = self.answers.count()
        self.tab.fill("#question", question)
        fields = self.tab.locator(".option input")
        while fields.count() < len(options):
            self.tab.click("#add")
        for place in range(fields.count()):
            fields.nth(place).fill(options[place] if place < len(options) else "")
        self.tab.click("#ask")
        self.answers.nth(before).wait_for()
        return self.answers.first

    def refused(self, *, click: bool = True) -> str:
        """What the page says is wrong."""
        if click:
            self.tab.click("#ask")
        error = self.tab.locator("#error:not(:empty)")
        error.wait_for()
        return str(error.inner_text())

    @property
    def answers(self) -> Any:
        return self.tab.locator("article")

    def too_wide(self) -> bool:
        root = "document.documentElement"
        return bool(self.tab.evaluate(f"() => {root}.scrollWidth > {root}.clientWidth"))

    def close(self) -> None:
        """Every test ends here: nothing was asked of anybody else."""
        strangers = [url for url in self.requests if not url.startswith((self.server.url, "blob:",
                                                                         "data:"))]  # fmt: skip
        assert strangers == []
        self.context.close()


@pytest.fixture
def page(browser: Any, server: Any) -> Iterator[Page]:
    opened = Page(browser, server)
    yield opened
    opened.close()


def test_a_video_is_asked_about_and_the_answer_drawn(page: Page, clip: Path) -> None:
    page.choose(clip)
    answer = page.ask("What color is the circle?", "red", "blue", "green")
    shares = [float(text.split()[0]) for text in answer.locator(".share").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    best = answer.locator("tr.best")
    assert best.count() == 1
    assert float(best.locator(".share").inner_text().split()[0]) == max(shares)
    assert best.inner_text().startswith("✓")  # not by colour alone
    assert answer.locator(".line .kept").count() == 4
    assert answer.locator(".line .dot").count() == 28
    assert len(answer.locator("polyline").get_attribute("points").split()) == 32
    pictures = answer.locator(".strip").first.locator("img")
    assert pictures.count() == 4
    for place in range(4):
        assert re.fullmatch(r"frame at 0:\d\d\.\d", pictures.nth(place).get_attribute("alt"))
        assert pictures.nth(place).evaluate("i => i.decode().then(() => i.naturalWidth)") == 96
    assert re.search(r"answered in [\d.]+ m?s", answer.locator(".facts").inner_text())
    assert "looked at in" in page.tab.locator("#video-status").inner_text()
    assert page.complaints == []


def test_a_further_question_takes_less_than_a_second_and_sends_no_video(
    page: Page, clip: Path
) -> None:
    page.choose(clip)
    page.ask("What color is the circle?", "red", "blue")
    before = len([url for url in page.requests if url.endswith("/api/videos")])
    taken: list[float] = []
    while not taken or (min(taken) >= 1 and len(taken) < ATTEMPTS):
        started = time.monotonic()
        page.ask(f"What is shape {len(taken)}?", "red", "blue")
        taken.append(time.monotonic() - started)
    assert min(taken) < 1, taken
    assert len([url for url in page.requests if url.endswith("/api/videos")]) == before == 1


def test_without_options_the_system_writes(page: Page, clip: Path) -> None:
    page.choose(clip)
    answer = page.ask("What color is the circle?")
    assert answer.locator(".written").inner_text()
    assert answer.locator("table").count() == 0


def test_frames_show_themselves_in_the_video_and_all_of_them_on_demand(
    page: Page, clip: Path
) -> None:
    page.choose(clip)
    answer = page.ask("What color is the circle?", "red", "blue")
    page.tab.locator("#player").wait_for()
    answer.locator(".strip button").first.click()
    told = answer.locator(".strip img").first.get_attribute("alt").split(":")[-1]
    player, now = page.tab.locator("#player"), 0.0
    ends = time.monotonic() + PATIENCE / 1000
    while abs(now - float(told)) > 0.06 and time.monotonic() < ends:  # it may still be loading
        now = player.evaluate("v => v.currentTime")
    assert now == pytest.approx(float(told), abs=0.06)
    answer.locator("summary").click()
    answer.locator("details img").nth(31).wait_for(state="attached")
    assert answer.locator("details img").count() == 32
    assert answer.locator("details .is-kept").count() == 4


def test_the_page_is_usable_with_the_keyboard_alone(page: Page, clip: Path) -> None:
    page.choose(clip)
    press = page.tab.keyboard
    page.tab.focus("#question")
    press.type("Which shape is it?")
    for text in ("a circle", "a square"):
        press.press("Tab")
        press.type(text)
        press.press("Tab")  # the button that removes it
    focused = "() => document.activeElement.getAttribute('aria-label')"
    assert page.tab.evaluate(focused) == "Remove option B"
    press.press("Tab")
    assert page.tab.evaluate(focused) == "Option C"
    press.press("Tab")
    press.press("Enter")  # remove C
    assert page.tab.locator(".option").count() == 2
    assert page.tab.evaluate(focused) == "Option B"
    press.press("Enter")  # in a field: ask
    page.answers.first.wait_for()
    assert page.answers.first.locator("tbody tr").count() == 2


def test_everything_has_a_name(page: Page, clip: Path) -> None:
    page.choose(clip)
    page.ask("What color is the circle?", "red", "blue")
    unnamed = page.tab.evaluate(
        """() => [...document.querySelectorAll('input, textarea, button, img, video, progress')]
        .filter(e => !(e.getAttribute('aria-label') || e.alt || e.textContent.trim()
                       || (e.labels && e.labels.length && e.labels[0].textContent.trim())))
        .map(e => e.outerHTML)"""
    )
    assert unnamed == []
    levels = page.tab.evaluate(
        "() => [...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))"
    )
    assert levels == [1, 2]
    assert page.tab.locator(".line").get_attribute("aria-label").startswith("32 frames seen, kept:")


def test_texts_are_shown_as_texts(page: Page, clip: Path, tmp_path: Path) -> None:
    named = tmp_path / "<img src=x onerror=document.title=1>.mp4"
    named.write_bytes(clip.read_bytes())
    page.choose(named)
    answer = page.ask(HOSTILE, HOSTILE, "x" * 400)
    assert answer.locator("h2").evaluate("h => h.textContent") == HOSTILE
    assert HOSTILE in answer.locator("th").first.evaluate("h => h.textContent")
    assert named.name in answer.locator(".facts").inner_text()
    assert page.tab.locator("article b:not([aria-hidden])").count() == 0
    assert page.tab.title() == "vqa: ask about a video"
    assert not page.too_wide()
    assert page.complaints == []


def test_what_is_wrong_is_said_and_can_be_mended(
    page: Page, clip: Path, tmp_path: Path, server: Any
) -> None:
    assert "Choose a video" in page.refused()
    text = tmp_path / "notes.mp4"
    text.write_text("no video\n" * 100)
    page.choose(text)
    assert "this file" in page.refused(click=False)
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(4_000_000)
    page.choose(large)
    page.tab.get_by_text("3 MB are the limit").wait_for()
    page.choose(clip)
    page.tab.get_by_text("looked at in").wait_for()
    assert "Type a question" in page.refused()
    page.tab.fill("#question", "Which?")
    page.tab.locator(".option input").first.fill("red")
    page.tab.click("#ask")
    page.tab.get_by_text("is no choice").wait_for()
    page.ask("Which?", "red", "blue")
    assert page.tab.locator("#error").inner_text() == ""
    # A refused request is the one thing that Chromium itself writes to the console.
    assert all("Failed to load resource" in text for text in page.complaints)


def test_after_a_refusal_the_first_ask_sends_the_video_again(page: Page, clip: Path) -> None:
    refusal = json.dumps({"error": {"code": 415, "message": "refused once", "hint": ""}})
    page.tab.route("**/api/videos", lambda route: route.fulfill(status=415, body=refusal), times=1)
    page.choose(clip)
    assert page.refused(click=False) == "refused once"
    page.ask("Which?", "red", "blue")
    assert page.tab.locator("#error").inner_text() == ""


def test_while_others_are_served_it_tries_again(page: Page, clip: Path) -> None:
    busy = json.dumps({"error": {"code": 503, "message": "others wait", "hint": ""}})
    for path in ("**/api/videos", "**/api/answers"):
        page.tab.route(path, lambda route: route.fulfill(status=503, body=busy), times=1)
    page.choose(clip)
    page.ask("Which?", "red", "blue")
    assert page.tab.locator("#error").inner_text() == ""


def test_a_video_that_the_server_forgot_is_sent_again(page: Page, clip: Path, server: Any) -> None:
    page.choose(clip)
    page.ask("What color is the circle?", "red", "blue")
    for _ in range(2):  # as many as are kept
        server.upload(clip)
    page.ask("What color is the circle?", "red", "blue")
    assert len([url for url in page.requests if url.endswith("/api/videos")]) == 2


def test_a_server_that_has_gone_is_told(page: Page, clip: Path) -> None:
    page.choose(clip)
    page.ask("Which?", "red", "blue")
    page.tab.route("**/api/answers", lambda route: route.abort())
    assert "vqa serve" in page.refused()
    assert page.tab.locator("#ask").is_enabled()


@pytest.mark.parametrize(
    ("size", "scheme"), [(PHONE, "light"), (DESK, "dark")], ids=["phone", "desk"]
)
def test_nothing_is_wider_than_the_window_and_texts_can_be_read(
    browser: Any, server: Any, clip: Path, size: dict[str, int], scheme: str
) -> None:
    page = Page(browser, server, viewport=size, color_scheme=scheme)
    page.choose(clip)
    answer = page.ask("What color is the circle? " * 6, "W" * 80, "blue " * 20, "red")
    answer.locator("summary").click()
    assert not page.too_wide()
    assert page.tab.evaluate(BROKEN_TICKS) == []
    pale = page.tab.evaluate(CONTRAST)
    assert pale == []
    page.close()


BROKEN_TICKS = """() => [...document.querySelectorAll('.ticks span')]
  .filter(tick => tick.getClientRects().length !== 1 || tick.offsetHeight > 25)
  .map(tick => tick.outerHTML)"""
CONTRAST = """() => {
  const light = (text) => {
    const part = text.match(/[\\d.]+/g).map(Number).slice(0, 3).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const back = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$/.test(back)) return back;
    }
    return 'rgb(255, 255, 255)';
  };
  const texts = 'h1, h2, p, th, td, span, label, button, b, summary, legend';
  return [...document.querySelectorAll(texts)]
    .filter(e => e.textContent.trim() && e.checkVisibility() && !e.disabled)
    .filter(e => {
      const one = light(getComputedStyle(e).color), other = light(behind(e));
      return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05) < 4.5;
    }).map(e => e.outerHTML);
}"""
"""Texts whose contrast with what is behind them is less than WCAG's AA."""


def test_real_videos_are_taken(page: Page, shared: Path) -> None:
    folder = shared / "data/videos"
    for name in ("nasa_13013.mp4", "av1_video.mkv", "no_duration.webm"):
        page.choose(folder / name)
        answer = page.ask("What is this?", "a rocket", "a dog")
        assert name in answer.locator(".facts").inner_text()
    page.choose(folder / "corrupted.mp4")
    assert "this file" in page.refused(click=False)
    page.choose(folder / "audio_only_hello.mp4")
    page.tab.get_by_text("no video").first.wait_for()
