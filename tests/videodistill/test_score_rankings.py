"""`vqa score` reads our own retrieval predictions and finds what `vqa eval` printed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def world(retrieval_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """MSR-VTT in small."""
    return retrieval_world.copy(tmp_path_factory.mktemp("rankings"))


@pytest.fixture(scope="module")
def ranked(world: Any) -> dict[str, Any]:
    world.train("msrvtt-retrieval", "--set", "tune_texts=4")
    found: dict[str, Any] = world.answer("msrvtt-retrieval")
    return found


def folder_of(found: dict[str, Any]) -> Path:
    return Path(found["artifact"]["path"])


def scored(world: Any, *arguments: object, code: int = 0) -> dict[str, Any]:
    outcome = world.run("score", "-b", "msrvtt-retrieval", *arguments)
    assert outcome.code == code, outcome.json
    found: dict[str, Any] = outcome.json
    return found


def own_copy(found: dict[str, Any], folder: Path) -> Path:
    """The table and the names of its videos, away from their artifact."""
    folder.mkdir()
    for name in ("predictions.parquet", "videos.json"):
        shutil.copy(folder_of(found) / name, folder / name)
    return folder / "predictions.parquet"


def changed(table: Path, **columns: Any) -> Path:
    """The table with other columns."""
    rows = pq.read_table(table)
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, name, pa.array(values, rows.schema.field(name).type))
    pq.write_table(rows, table)
    return table


def test_the_artifact_scores_as_it_was_evaluated(world: Any, ranked: dict[str, Any]) -> None:
    found = scored(world, "-p", ranked["artifact"]["id"])
    assert found["metrics"] == ranked["metrics"]
    assert {"R@1", "MedR", "ci95", "video_to_text"} <= set(found["metrics"])
    assert found["n_scored"] == ranked["n_scored"] == 6
    assert scored(world, "-p", folder_of(ranked))["reused"]


def test_the_table_alone_needs_the_names_beside_it(
    world: Any, ranked: dict[str, Any], tmp_path: Path
) -> None:
    table = own_copy(ranked, tmp_path / "copy")
    assert scored(world, "-p", table)["metrics"] == ranked["metrics"]
    elsewhere = ("-p", table, "-w", tmp_path / "empty")
    alone = world.vqa("score", "-b", "msrvtt-retrieval", *elsewhere)
    assert alone.json["metrics"] == ranked["metrics"]
    assert alone.json["scorer"]["truth"] == "predictions"
    (table.parent / "videos.json").unlink()
    assert "videos" in scored(world, "-p", table, code=4)["error"]["message"]


def test_the_annotations_say_which_video_is_right(
    world: Any, ranked: dict[str, Any], tmp_path: Path
) -> None:
    """A table that claims its first video for every text is not believed."""
    table = own_copy(ranked, tmp_path / "copy")
    first = json.loads((table.parent / "videos.json").read_text())[0]
    changed(table, answer=[first] * 6)
    assert scored(world, "-p", table)["metrics"] == ranked["metrics"]


def test_a_text_without_scores_is_a_failed_row(
    world: Any, ranked: dict[str, Any], tmp_path: Path
) -> None:
    table = own_copy(ranked, tmp_path / "copy")
    rows = pq.read_table(table).to_pylist()
    scores = [row["scores"] for row in rows]
    scores[1], scores[2] = scores[1][:-1], []
    status = ["ok", "ok", "ok", "failed", "ok", "ok"]
    reason = ["", "", "", "its video is damaged", "", ""]
    changed(table, scores=scores, status=status, reason=reason)
    found = scored(world, "-p", table, "--max-failures", 1)
    assert (found["n_scored"], found["n_failed"]) == (3, 3)
    failures = pq.read_table(folder_of(found) / "failures.parquet").to_pylist()
    said = {row["id"]: row["words"] for row in failures}
    assert said[rows[1]["question_id"]] == "5 scores for 6 videos"
    assert said[rows[3]["question_id"]] == "its video is damaged"


@pytest.mark.parametrize("ties", ["average", "optimistic", "every"])
def test_the_other_rules_for_ties_are_those_of_a_matrix(
    ties: str, world: Any, ranked: dict[str, Any], tmp_path: Path
) -> None:
    import numpy as np

    table = own_copy(ranked, tmp_path / "copy")
    coarse = [[round(4 * s) / 4 for s in row] for row in pq.read_table(table)["scores"].to_pylist()]
    changed(table, scores=coarse)
    np.save(tmp_path / "matrix.npy", np.array(coarse))
    own = scored(world, "-p", table, "--ties", ties)
    other = scored(world, "-p", tmp_path / "matrix.npy", "--ties", ties)
    assert own["metrics"] == other["metrics"]


@pytest.mark.parametrize("names", ["[1, 2]", "{", '{"a": 1}'])
def test_damaged_names_are_said_to_be_so(
    names: str, world: Any, ranked: dict[str, Any], tmp_path: Path
) -> None:
    table = own_copy(ranked, tmp_path / "copy")
    (table.parent / "videos.json").write_text(names)
    assert "videos.json" in scored(world, "-p", table, code=3)["error"]["message"]
