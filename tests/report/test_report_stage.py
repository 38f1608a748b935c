"""`vqa report`: one page, made of everything behind the predictions."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Vqa = Callable[..., Any]
LINE = ("-b", "shapes")


@pytest.fixture
def workspace(evaluated: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(evaluated, tmp_path / "ws"))


@pytest.fixture(scope="module")
def made(evaluated: Path, vqa: Vqa) -> dict[str, Any]:
    """The JSON of the first report."""
    outcome = vqa("report", "-w", evaluated, "--workers", 1)
    assert outcome.code == 0, outcome.json
    found: dict[str, Any] = outcome.json
    return found


def page_of(found: dict[str, Any]) -> str:
    return Path(found["page"]).read_text("utf-8")


def damage(page: Path) -> bytes:
    before = page.read_bytes()
    page.write_bytes(before[:-1])
    return before


def test_the_json_says_how_large_the_page_is_and_what_is_shown(made: dict[str, Any]) -> None:
    assert made["command"] == "report"
    assert made["artifact"]["finished"]
    assert made["counts"] == {"total": 3, "done": 3, "failed": 0}
    assert made["bytes"] == Path(made["page"]).stat().st_size
    assert made["shown"] == 24


def test_equal_requests_give_equal_bytes_whatever_the_workers(
    made: dict[str, Any], workspace: Path, vqa: Vqa
) -> None:
    reused = vqa("report", "-w", workspace).json
    assert reused["reused"]
    again = vqa("report", "-w", workspace, "--workers", 2, "--force").json
    assert not again["reused"]
    assert again["artifact"]["id"] == made["artifact"]["id"]
    assert page_of(again) == page_of(made)


def test_no_path_of_this_machine_is_on_the_page(made: dict[str, Any], evaluated: Path) -> None:
    page = page_of(made)
    assert str(evaluated) not in page
    assert not re.search(r"/(tmp|home|root)/", page)


def test_a_second_number_of_questions_is_a_second_page(
    made: dict[str, Any], workspace: Path, vqa: Vqa
) -> None:
    few = vqa("report", "-w", workspace, "--questions", 3).json
    none = vqa("report", "-w", workspace, "--questions", 0).json
    assert (few["shown"], none["shown"]) == (3, 0)
    assert len({made["artifact"]["id"], few["artifact"]["id"], none["artifact"]["id"]}) == 3
    assert "data:image" in page_of(few)
    assert none["bytes"] < few["bytes"] < made["bytes"]


def test_the_blind_run_of_what_is_shown_is_on_the_page(made: dict[str, Any]) -> None:
    (drop,) = made["language_only"]
    assert drop["how"] == "gaussian"
    assert drop["artifact"] in made["inputs"]


def test_a_copy_goes_where_one_likes_and_replaces_only_pages(
    made: dict[str, Any], workspace: Path, vqa: Vqa, tmp_path: Path
) -> None:
    place = tmp_path / "out" / "page.html"
    found = vqa("report", "-w", workspace, "--out", place)
    assert found.code == 0
    assert found.json["out"] == str(place)
    assert place.read_bytes() == Path(found.json["page"]).read_bytes()
    assert vqa("report", "-w", workspace, "--questions", 2, "--out", place).code == 0
    assert place.read_bytes() != Path(found.json["page"]).read_bytes()

    place.write_text("my thesis")
    refused = vqa("report", "-w", workspace, "--out", place)
    assert refused.code == 2
    assert "no report page" in refused.json["error"]["message"]
    assert place.read_text() == "my thesis"
    assert vqa("report", "-w", workspace, "--out", tmp_path).code == 2
    assert vqa("report", "-w", workspace, "--out", place, "--force").code == 0
    assert place.read_bytes() == Path(found.json["page"]).read_bytes()


def test_a_refused_copy_costs_no_work(workspace: Path, vqa: Vqa, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    vqa("report", "-w", workspace, "--questions", 4, "--out", tmp_path / "mine.txt")
    reports = workspace / "report"
    assert not reports.exists() or len(list(reports.iterdir())) == 1  # the one that was copied


def test_a_damaged_page_is_made_again_with_the_times_that_it_had(
    made: dict[str, Any], workspace: Path, vqa: Vqa
) -> None:
    page = workspace / "report" / made["artifact"]["id"] / "index.html"
    before = damage(page)
    for kind in ("predictions", "weights"):
        for path in (workspace / kind).glob("*/manifest.json"):
            manifest = json.loads(path.read_text())
            manifest["created"], manifest["seconds"] = "2001-01-01T00:00:00Z", 1.0
            if "ms_per_video" in manifest["host"]:
                manifest["host"]["ms_per_video"] = 123456.0
            path.write_text(json.dumps(manifest))

    repaired = vqa("artifacts", "verify", made["artifact"]["id"], "--repair", "-w", workspace)

    assert repaired.code == 0, repaired.json
    assert page.read_bytes() == before


def test_a_page_that_this_version_would_draw_otherwise_is_not_repaired(
    made: dict[str, Any], workspace: Path, vqa: Vqa
) -> None:
    folder = workspace / "report" / made["artifact"]["id"]
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["template"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    damage(folder / "index.html")
    outcome = vqa("artifacts", "verify", folder.name, "--repair", "-w", workspace)
    assert outcome.code == 3
    assert "another page" in outcome.json["error"]["message"]


def test_pruned_features_cost_the_curves_and_that_is_said(
    made: dict[str, Any], workspace: Path, vqa: Vqa
) -> None:
    for folder in (workspace / "features").glob("shapes-test-*"):
        shutil.rmtree(folder)
    shutil.rmtree(workspace / "report")
    found = vqa("report", "-w", workspace)
    assert found.code == 0, found.json
    folder = Path(found.json["artifact"]["path"])
    (note,) = json.loads((folder / "manifest.json").read_text())["left_out"]
    assert "no curves" in note
    assert "is gone" in note
    assert "data:image" in page_of(found.json)


def test_videos_that_are_gone_cost_the_pictures_only(workspace: Path, vqa: Vqa) -> None:
    questions = next((workspace / "questions").glob("shapes-test-*"))
    shutil.rmtree(workspace / "report", ignore_errors=True)
    shutil.rmtree(questions / "videos")
    found = vqa("report", "-w", workspace)
    assert found.code == 0, found.json
    assert "data:image" not in page_of(found.json)
    assert found.json["shown"] == 24


def test_a_report_without_predictions_is_a_missing_input(tmp_path: Path, vqa: Vqa) -> None:
    assert vqa("report", "-w", tmp_path / "none").code == 4


def test_named_predictions_are_shown_once_and_about_one_split(
    workspace: Path, vqa: Vqa, made: dict[str, Any]
) -> None:
    chosen = vqa(
        "eval", *LINE, "-w", workspace, "--split", "val", "--role", "student", "--no-blind"
    )
    assert chosen.code == 0, chosen.json
    other = chosen.json["artifact"]["id"]
    mine = next(name for name in made["inputs"] if "blind" not in name)
    assert vqa("report", mine, other, "-w", workspace).code == 2
    twice = vqa("report", mine, mine, "-w", workspace, "--questions", 1).json
    assert twice["counts"]["total"] == 1
    newest = vqa("report", "-w", workspace, "--questions", 1).json
    assert newest["inputs"] == [other]
