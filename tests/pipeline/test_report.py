"""The report: one page that needs nothing else, and shows text as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stages.benchmarks.shapes.generate import generate
from vqa_cli.main import run_command

EVIL = "<script>alert('x')</script> & \"what color\" is it ?"


class Page(HTMLParser):
    """Tags, attributes that point somewhere, pictures and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.alternatives: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[name] or "" for name in ("src", "href") if name in values]
        if tag == "img":
            self.alternatives.append(values.get("alt") or "")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of two systems on three questions about two generated videos."""
    root = tmp_path_factory.mktemp("report")
    records = generate(root / "videos", "train", 2, seed=5)[:3]
    records[0] = {**records[0], "question": EVIL, "options": ["<b>red</b>", "a", "b", "c"]}
    (root / "mine.jsonl").write_text("".join(json.dumps(item) + "\n" for item in records))
    common = ["--benchmark", "custom", "--workspace", str(root / "ws"), "--quiet"]
    source = ["--annotations", str(root / "mine.jsonl"), "--videos", str(root / "videos")]
    training = ["--answer", "rank", "--set", "training.epochs=1", "--set", "training.batch_size=2"]
    for command in (
        ["prepare", "--split", "train", *source],
        ["prepare", "--split", "test", *source],
        ["extract-features", "--backbone", "tiny", "--from-videos", "--frames", "8"],
        ["train-teacher", *training],
        ["eval"],
        ["eval", "--select", "uniform", "--keep", "4"],
    ):
        assert run_command([*command, *common]) == 0, command
    assert run_command(["report", "--workspace", str(root / "ws"), "--quiet"]) == 0
    return next((root / "ws" / "report").glob("*/index.html")).read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    parsed = Page(page)

    assert parsed.links
    assert all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert "script" not in parsed.tags
    assert not re.search(r"url\(|@import", page)


def test_text_with_markup_is_shown_as_text(page: str) -> None:
    parsed = Page(page)

    assert any(EVIL in text for text in parsed.texts)
    assert any("<b>red</b>" in text for text in parsed.texts)
    assert "b" not in parsed.tags


def test_every_picture_says_what_it_shows(page: str) -> None:
    alternatives = Page(page).alternatives

    # The teacher looks at all 8 frames, uniform selection at 4; three questions each. Without the
    # videos nothing is looked at.
    assert len(alternatives) == 3 * (8 + 4)
    assert all(re.match(r"frame at \d+\.\d seconds of ", text) for text in alternatives)


def test_what_the_questions_alone_give_away_is_said_by_default(page: str) -> None:
    texts = Page(page).texts
    assert any("What the questions alone give away" in text for text in texts)
    assert texts.count("gaussian") == 2
    assert "points lost" in texts


def test_a_report_without_predictions_is_a_missing_input(tmp_path: Path) -> None:
    assert run_command(["report", "--workspace", str(tmp_path / "none"), "--quiet"]) == 4
