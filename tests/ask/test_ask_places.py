"""`vqa ask`: places that cannot be written, files with odd beginnings, words it offers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.asking import request
from stages.asking.outputs import PAGE_SIGN
from stages.asking.questions import read_questions
from stages.benchmarks.shapes.generate import plan_video, write_video
from stages.benchmarks.shapes.timeline import video_rng
from stages.core.errors import DataError
from vqa_cli import ask


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    timeline, _ = plan_video("test", 5, False, 0)
    write_video(path, timeline, video_rng(5, "test", 0, "picture"))
    return path


@pytest.mark.parametrize("option", ["--save", "--html"])
def test_a_place_inside_a_file_is_refused_before_anything_is_computed(
    option: str, video: Path, vqa: Callable[..., Any]
) -> None:
    outcome = vqa("ask", video, "Which?", option, video / "inside" / "x")
    assert outcome.code == outcome.json["error"]["code"] == 2
    assert f"{video} is a file" in outcome.json["error"]["message"]


@pytest.mark.parametrize("option", ["--save", "--html"])
def test_a_place_that_cannot_be_made_is_named(
    option: str, video: Path, vqa: Callable[..., Any]
) -> None:
    place = Path("/proc/vqa-nowhere")
    outcome = vqa("ask", video, "Which?", option, place, "--frames", 2, "--keep", 1)
    assert outcome.code == outcome.json["error"]["code"] == 5
    assert outcome.json["error"]["message"].startswith(f"{option} {place}: ")
    assert option in outcome.json["error"]["hint"]


def test_a_page_is_written_over_no_file_but_its_own_kind(
    video: Path, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    notes = tmp_path / "notes.html"
    notes.write_text("<!doctype html>\n<p>my own")
    signed = tmp_path / "signed.mp4"
    signed.write_bytes(PAGE_SIGN + video.read_bytes())
    link = tmp_path / "link.mp4"
    link.symlink_to(signed)
    for asked, html in ((video, notes), (video, video), (signed, link), (video, "/dev/null")):
        before = Path(html).read_bytes()
        outcome = vqa("ask", asked, "Which?", "--html", html)
        assert outcome.code == outcome.json["error"]["code"] == 2
        assert outcome.json["error"]["hint"] == "another name"
        assert Path(html).read_bytes() == before


def test_pictures_are_written_over_no_file_but_their_own_kind(
    video: Path, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    mine = tmp_path / "frames" / "000001.960s-frame49.png"
    mine.parent.mkdir()
    mine.write_bytes(b"\x89PNG my own")
    for asked, save in ((video, mine.parent), (mine.parent, mine.parent)):
        outcome = vqa("ask", asked, "Which?", "--save", save)
        assert outcome.code == outcome.json["error"]["code"] == 2
    assert mine.read_bytes() == b"\x89PNG my own"


def test_what_it_wrote_itself_is_replaced(
    video: Path, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    places = ("--save", tmp_path / "frames", "--html", tmp_path / "page.html")
    for _ in range(2):
        assert vqa("ask", video, "Which?", *places, "--frames", 2, "--keep", 1).code == 0


@pytest.mark.parametrize("options", [{}, 0, False, "", "ab"])
def test_only_null_is_no_options(options: Any, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"question": "Which?", "options": options}))
    with pytest.raises(DataError, match=r"questions.jsonl:1: options: a list"):
        read_questions(path)
    path.write_text(json.dumps({"question": "Which?", "options": None, "question_id": 0}))
    assert [(item.options, item.id) for item in read_questions(path)] == [((), "0")]


def test_an_address_is_told_apart_from_a_wrong_path(vqa: Callable[..., Any]) -> None:
    outcome = vqa("ask", "https://example.org/v.mp4", "Which?")
    assert outcome.code == 4
    assert "nothing is downloaded" in outcome.json["error"]["hint"]


def test_a_byte_order_mark_is_no_part_of_the_first_question(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"question": "Which?"}).encode())
    assert [item.question for item in read_questions(path)] == ["Which?"]


def test_a_seed_that_no_generator_takes_is_refused(vqa: Callable[..., Any], video: Path) -> None:
    for seed in (2**63, -1, "x"):
        outcome = vqa("ask", video, "Which?", "--set", f"seed={seed}")
        assert outcome.code == 2
        assert "seed" in outcome.json["error"]["message"]


def test_what_tab_offers_is_what_it_takes() -> None:
    assert ask.SYSTEMS == request.SYSTEMS
    assert {"own", *ask.SELECTS} == set(request.SELECTS)
