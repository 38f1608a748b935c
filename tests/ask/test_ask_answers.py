"""`vqa ask` on the embedded default: the answer, the JSON, the drawing, the files."""

from __future__ import annotations

import html
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len

from stages.asking.answers import Answered, SeenFrame, clock, softmax
from stages.asking.questions import Asked
from stages.benchmarks.shapes.generate import plan_video, write_video
from stages.benchmarks.shapes.timeline import video_rng
from vqa_cli.main import run_command
from vqa_cli.timeline import Drawing

SCRIPT = '<script>alert(1)</script> & "quoted"'
QUESTIONS = (
    {"question": "Which colour is the shape?", "options": ["red", "blue", "green"]},
    {"question": f"What is {SCRIPT}?"},
    {"question": "Which one?", "options": [SCRIPT, "a dog"], "question_id": "own-name"},
)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One generated video whose name needs care."""
    path = tmp_path_factory.mktemp("videos") / "-a b<c>.mp4"
    timeline, _ = plan_video("test", 5, False, 0)
    write_video(path, timeline, video_rng(5, "test", 0, "picture"))
    return path


@pytest.fixture(scope="module")
def several(
    video: Path, tmp_path_factory: pytest.TempPathFactory, vqa: Callable[..., Any]
) -> tuple[dict[str, Any], Path]:
    """Three questions of a file in one call, with pictures and a page; JSON and folder."""
    folder = tmp_path_factory.mktemp("several")
    lines = "\n\n".join(json.dumps(question) for question in QUESTIONS)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    outcome = vqa(
        "ask", video, "--questions", folder / "questions.jsonl", "--frames", 16, "--keep", 3,
        "--save", folder / "frames", "--html", folder / "page.html", "-w", folder / "workspace",
    )  # fmt: skip
    assert outcome.code == 0, outcome.json
    return outcome.json, folder


def test_the_json_says_who_answered_what_from_which_frames(
    several: tuple[dict[str, Any], Path], video: Path
) -> None:
    found, _ = several
    assert found["video"]["path"] == str(video)
    assert found["video"]["duration"] == pytest.approx(found["video"]["frames"] / 8)
    assert found["system"] | {"device": ""} == {
        "name": "sevila", "weights": None, "backbone": "tiny-blip2", "select": "localizer",
        "selector": None, "frames": 16, "keep": 3, "answer": "rank", "device": "",
    }  # fmt: skip
    assert [item["id"] for item in found["answers"]] == ["1", "3", "own-name"]
    for item, asked in zip(found["answers"], QUESTIONS, strict=True):
        assert item["question"] == asked["question"]
        assert [option["text"] for option in item["options"]] == asked.get("options", [])
        assert len(item["frames"]) == 16
        assert [f for f in item["frames"] if f["kept"]] == [
            frame | {"kept": True} for frame in item["keyframes"]
        ]
        assert len(item["keyframes"]) == 3
        best = sorted(item["frames"], key=lambda frame: -frame["score"])[:3]
        assert {f["frame"] for f in best} == {f["frame"] for f in item["keyframes"]}


def test_probabilities_are_shares_of_the_scores_and_the_best_one_is_the_answer(
    several: tuple[dict[str, Any], Path],
) -> None:
    for item in several[0]["answers"]:
        if not item["options"]:
            assert item["answer"] is None
            continue
        shares = [option["probability"] for option in item["options"]]
        scores = [option["score"] for option in item["options"]]
        assert sum(shares) == pytest.approx(1)
        assert shares == pytest.approx(softmax(scores))
        assert item["answer"] == shares.index(max(shares))
        assert item["text"] == item["options"][item["answer"]]["text"]


def test_keyframes_are_written_once_in_the_videos_size_with_names_in_order_of_time(
    several: tuple[dict[str, Any], Path],
) -> None:
    found, folder = several
    kept = {f["frame"]: f["time"] for item in found["answers"] for f in item["keyframes"]}
    names = sorted(path.name for path in (folder / "frames").iterdir())
    assert names == [f"{kept[n]:010.3f}s-frame{n}.png" for n in sorted(kept)]
    assert {int(n): Path(path).name for n, path in found["saved"].items()} == dict(
        zip(sorted(kept), names, strict=True)
    )
    with Image.open(folder / "frames" / names[0]) as picture:
        assert picture.size == (96, 96)
        assert np.asarray(picture).std() > 0


def test_the_page_is_one_file_that_loads_nothing_and_shows_texts_as_texts(
    several: tuple[dict[str, Any], Path],
) -> None:
    found, folder = several
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert html.escape(SCRIPT).replace("&quot;", "&#34;") in page
    # Nothing is loaded but what lies in the page itself.
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/jpeg;base64,|#)""", page)
    assert "@import" not in page
    assert "url(" not in page
    pictures = page.count('src="data:image/jpeg')
    assert pictures == sum(len(item["keyframes"]) for item in found["answers"])
    assert page.count('alt="the frame at') == pictures
    assert page.count("<svg") == page.count("aria-label=") == len(QUESTIONS)
    assert len(page) < 200_000


def test_the_page_about_it_names_every_field(several: tuple[dict[str, Any], Path]) -> None:
    text = (Path(__file__).parents[2] / "docs/ask.md").read_text(encoding="utf-8")
    found = several[0]
    answer = found["answers"][0]
    objects = (found, found["video"], found["system"], answer, answer["options"][0])
    named = {key for item in (*objects, *answer["frames"]) for key in item} - {"command"}
    assert not {key for key in named if f"`{key}`" not in text}


def test_nothing_else_is_written(several: tuple[dict[str, Any], Path]) -> None:
    names = sorted(path.name for path in several[1].iterdir())
    assert names == ["frames", "page.html", "questions.jsonl"]


def test_a_further_question_takes_less_than_a_second(
    several: tuple[dict[str, Any], Path],
) -> None:
    assert all(item["seconds"] < 1 for item in several[0]["answers"][1:])


def test_one_question_asked_again_is_answered_alike(
    several: tuple[dict[str, Any], Path], video: Path, vqa: Callable[..., Any]
) -> None:
    options = [part for text in ("red", "blue", "green") for part in ("-o", text)]
    outcome = vqa(
        "ask", video, QUESTIONS[0]["question"], *options, "--frames", 16, "--keep", 3, "--seed", 1
    )
    assert outcome.code == 0, outcome.json
    (alone,), first = outcome.json["answers"], several[0]["answers"][0]
    assert alone | {"seconds": 0} == first | {"seconds": 0}


def test_people_see_the_answer_in_eighty_plain_columns(
    video: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(video.parent)
    line = ["ask", "--frames", "8", "--keep", "2", "-w", str(tmp_path / "none"), "--"]
    line[1:1] = ["-o", "a square", "-o", "一个非常长的选项" * 12]
    assert run_command([*line, video.name, "Which shape is it?"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert max(cell_len(text) for text in lines) <= 80
    assert "\x1b" not in printed.out
    assert lines[0] == "Which shape is it?"
    assert sum(text.startswith("> ") for text in lines) == 1
    assert len(re.findall(r"^  ● 0:\d\d\.\d\d +frame \d+ +score -?\d", printed.out, re.M)) == 2
    assert "zero-shot" in printed.err
    assert "generated shapes" in printed.err


# --- the drawing by itself -----------------------------------------------------------------------


def answered(times: list[float], kept: set[int], scores: list[float | None]) -> Answered:
    frames = tuple(
        SeenFrame(number, time, score, number in kept)
        for number, (time, score) in enumerate(zip(times, scores, strict=True))
    )
    return Answered(Asked("q", ("a", "b")), 1, "b", (0.0, 1.0), frames, "localizer", None, 0.1)


TEXTS = st.text(min_size=1, max_size=200).filter(str.strip)


@settings(deadline=None, max_examples=50)
@given(
    TEXTS,
    st.lists(TEXTS, min_size=2, max_size=4),
    st.integers(10, 200),
    st.sampled_from(["utf-8", "ascii", "latin-1", None]),
)
def test_no_text_leaves_the_columns_or_moves_the_cursor(
    question: str, options: list[str], width: int, encoding: str | None
) -> None:
    drawing = Drawing(width, encoding)
    asked = Asked(question, tuple(options))
    scores = tuple(float(number) for number in range(len(options)))
    item = Answered(asked, 1, options[1], scores, (), "", None, 0.0)
    for line in drawing.answer(item, (0.0, 10.0)):
        assert cell_len(line.plain) <= drawing.width
        assert all(character.isprintable() for character in line.plain)


def test_the_time_line_shows_frames_where_they_are() -> None:
    item = answered([0.0, 5.0, 9.99], {0, 2}, [1.0, 0.0, 2.0])
    lines = [line.plain for line in Drawing(80, "utf-8").answer(item, (0.0, 10.0))]
    rule = next(line for line in lines if "─" in line)
    curve = lines[lines.index(rule) - 1]
    assert [place for place, mark in enumerate(rule) if mark == "●"] == [2, 77]
    assert (curve[2], curve[40], curve[77]) == ("▅", "▁", "█")
    assert lines[lines.index(rule) + 1].split() == ["0:00.00", "0:10.00"]


def test_without_scores_there_is_no_curve_and_without_blocks_there_is_ascii() -> None:
    item = answered([0.0, 5.0], {1}, [None, None])
    text = "\n".join(line.plain for line in Drawing(60, "ascii").answer(item, (0.0, 10.0)))
    assert text.isascii()
    assert text.count("^") == 2  # on the line, and in the list
    assert "score" not in text
    assert io.StringIO(text).readlines()[-2].strip().startswith("0:00.00")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00.00"), (63.256, "1:03.26"), (59.999, "1:00.00"), (3663.25, "1:01:03.25")],
)
def test_times_are_minutes_and_seconds(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_shares_add_up_to_one_and_keep_the_order(scores: list[float]) -> None:
    shares = softmax(scores)
    assert math.isclose(sum(shares), 1.0, abs_tol=1e-9)
    assert shares[scores.index(max(scores))] == max(shares)
