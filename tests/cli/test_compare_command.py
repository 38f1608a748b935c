"""`vqa compare` from the command line, on what `vqa score` and `vqa eval` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vqa_cli.main import run_command

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
TYPES = ("CW", "CH", "TN", "DL")
QUESTIONS = 24
FIELDS = {
    "command", "benchmark", "split", "measure", "a", "b", "n_common", "n_videos", "only_a",
    "only_b", "not_scored", "n_unlabelled", "difference", "ci95", "p_value", "test",
    "p_value_clustered", "a_better", "b_better", "detectable", "figures", "by_type", "by_group",
    "flips", "seed", "notes", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, vqa: Callable[..., Any]) -> Path:
    """A workspace with two scored files: 18 and 12 of 24 questions on 6 videos right."""
    folder = tmp_path_factory.mktemp("compare")
    lines = [
        f"40{n // 4},90,64,48,why {n},{n % 5},{n % 4},{TYPES[n % 4]},one,two,three,four,five"
        for n in range(QUESTIONS)
    ]
    (folder / "val.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    for name, right in (("good", lambda n: n % 4 != 0), ("poor", lambda n: n % 2 == 1)):
        rows = {
            f"40{n // 4}_{n % 4}": {"prediction": (n + (not right(n))) % 5, "answer": n % 5}
            for n in range(QUESTIONS)
        }
        (folder / f"{name}.json").write_text(json.dumps(rows))
        outcome = vqa(
            "score", "-b", "nextqa", "--split", "val", "--annotations", folder / "val.csv",
            "--predictions", folder / f"{name}.json", "--name", name, "-w", folder / "workspace",
        )  # fmt: skip
        assert outcome.code == 0, outcome.json
    return folder


def test_the_json_has_the_documented_fields(world: Path, vqa: Callable[..., Any]) -> None:
    outcome = vqa("compare", "good", "poor", "-w", world / "workspace")
    assert outcome.code == 0
    assert set(outcome.json) == FIELDS
    assert (outcome.json["command"], outcome.json["benchmark"]) == ("compare", "nextqa")
    assert outcome.json["n_common"] == QUESTIONS
    assert outcome.json["difference"] == pytest.approx(25.0)
    assert outcome.json["a"]["accuracy"] == pytest.approx(75.0)
    assert outcome.json["a"]["artifact"].startswith("good-")
    assert len(outcome.json["flips"]) == outcome.json["a_better"] == 6
    assert outcome.json["b_better"] == 0


def test_the_terminal_shows_figures_types_and_flips(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_command(["compare", "good", "poor", "-w", str(world / "workspace"), "--show", "2"])
    out, err = capsys.readouterr()
    assert code == 0
    assert "nextqa val, 24 questions about 6 videos" in out
    assert "every question is compared" in out
    assert "75.00" in out
    assert "+25.00" in out
    assert "McNemar's exact test: p = 0.0312" in out
    assert "sign-flip test by video: p = 0.0312" in out
    assert "flipped questions, the first 2 of 6" in out
    assert "four times in five" in out
    assert "p (Holm)" in out
    assert "4 types" in err


def test_long_ids_are_whole_where_nobody_looks(
    tmp_path: Path, vqa: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    long = "a-question-id-of-its-own-" * 8
    place = str(tmp_path / "w")
    questions = tmp_path / "q.jsonl"
    rows = [
        {"question_id": f"{long}{n}", "video": "v.mp4", "question": "what?",
         "options": ["a", "b"], "answer": 0}
        for n in range(2)
    ]  # fmt: skip
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, said in (("right", 0), ("wrong", 1)):
        file = tmp_path / f"{name}.jsonl"
        answers = [{"question_id": row["question_id"], "prediction": said} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in answers))
        outcome = vqa(
            "score", "-b", "custom", "--split", "test", "--annotations", questions,
            "--predictions", file, "--name", name, "-w", place,
        )  # fmt: skip
        assert outcome.code == 0, outcome.json
    capsys.readouterr()
    assert run_command(["compare", "right", "wrong", "-w", place]) == 0
    assert f"{long}1" in capsys.readouterr().out


def test_flips_go_to_a_file(world: Path, vqa: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "flips.jsonl"
    outcome = vqa("compare", "good", "poor", "-w", world / "workspace", "--flips", file)
    assert outcome.json["flips_file"] == str(file)
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert written == outcome.json["flips"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("good", "nobody"), 4, "nobody"),
        (("good",), 2, "B"),
        (("good", "poor", "--flips", "flips.txt"), 2, ".parquet"),
    ],
)
def test_mistakes_have_their_exit_codes(
    world: Path, vqa: Callable[..., Any], arguments: tuple[str, ...], code: int, says: str
) -> None:
    outcome = vqa("compare", *arguments, "-w", world / "workspace")
    assert outcome.code == outcome.json["error"]["code"] == code
    assert says in outcome.json["error"]["message"] + outcome.json["error"]["hint"]


def test_nothing_is_written_to_the_workspace(world: Path, vqa: Callable[..., Any]) -> None:
    before = sorted(world.rglob("*"))
    vqa("compare", "good", "poor", "-w", world / "workspace")
    assert sorted(world.rglob("*")) == before


@pytest.mark.slow
def test_evaluations_are_compared_too(
    trained_world: Any, tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    workspace = trained_world.copy(tmp_path)
    ids = []
    for select in ("own", "uniform"):
        outcome = vqa("eval", "-b", "shapes", "-w", workspace, "--select", select, "--keep", 2)
        assert outcome.code == 0, outcome.json
        ids.append(outcome.json["artifact"]["id"])
    found = vqa("compare", *ids, "-w", workspace)
    assert found.code == 0
    assert found.json["n_common"] == 24
    assert found.json["n_videos"] == 8
    assert found.json["measure"] == "accuracy"
