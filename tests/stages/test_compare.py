"""`vqa compare`: the same questions, two systems, and what may not be compared."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stages.artifacts import atomic
from stages.artifacts.scored import write_scored
from stages.artifacts.store import Request, Workspace
from stages.benchmarks.statistics import cluster_interval, mcnemar
from stages.compare import FLIP_COLUMNS, compare, write_flips
from stages.core.errors import DataError, MissingInput, UsageError

TYPES = ("Interaction", "Sequence", "Prediction", "Feasibility")


def scored_row(number: int, right: bool, **values: Any) -> dict[str, Any]:
    row = {
        "question_id": f"q{number}",
        "video": f"v{number // 4}",
        "type": TYPES[number % 4],
        "categories": [],
        "prediction": "1" if right else "0",
        "answer": "1",
        "correct": right,
        "value": 100.0 * right,
        "status": "ok",
        "reason": "",
    }
    return row | values


def failed(number: int, reason: str = "not in the file") -> dict[str, Any]:
    nothing = {"prediction": None, "correct": None, "value": None}
    return scored_row(number, False, status="failed", reason=reason, **nothing)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def scored(workspace: Workspace) -> Callable[..., str]:
    """Writes a metrics artifact as `vqa score` does; returns its label."""

    def write(label: str, rows: Sequence[dict[str, Any]], **config: Any) -> str:
        made = {"benchmark": "star", "split": "val", "system": label} | config
        draft = workspace.draft(Request("metrics", label, made))
        write_scored(draft, rows)
        atomic.write_json(draft.path / "metrics.json", {})
        counts = {"total": len(rows), "done": len(rows), "failed": 0}
        draft.finish(counts, extra={"metrics": {}, "ci95_of": config.get("measure", "accuracy")})
        return label

    return write


def answers(pattern: str) -> list[dict[str, Any]]:
    """Rows from `+` (right) and `-` (wrong)."""
    return [scored_row(number, mark == "+") for number, mark in enumerate(pattern)]


def test_only_common_scored_questions_are_compared(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    a = scored("a", [*answers("++-+----"), failed(8), scored_row(20, True)])
    unlabelled = scored_row(9, True, value=None, correct=None, status="unlabelled")
    b = scored("b", [*answers("+--+++--"), scored_row(8, True), scored_row(21, True), unlabelled])
    found = compare(workspace, a, b)
    assert found["n_common"] == 8
    assert found["n_videos"] == 2
    assert found["only_a"] == ["q20"]
    assert found["only_b"] == ["q21", "q9"]
    assert found["not_scored"] == [{"question_id": "q8", "a": "not in the file", "b": "ok"}]
    assert (found["a"]["accuracy"], found["b"]["accuracy"]) == (37.5, 50.0)
    assert found["difference"] == pytest.approx(-12.5)
    assert (found["a_better"], found["b_better"]) == (1, 2)
    assert found["p_value"] == pytest.approx(mcnemar(1, 2))
    assert found["test"] == "mcnemar-exact"
    assert [flip["question_id"] for flip in found["flips"]] == ["q1", "q4", "q5"]
    assert [flip["better"] for flip in found["flips"]] == ["a", "b", "b"]


def test_the_other_way_round_everything_is_mirrored(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    a, b = scored("a", answers("++-+--+-++-+" * 4)), scored("b", answers("+--++++--+-+" * 4))
    there, back = compare(workspace, a, b), compare(workspace, b, a)
    assert there["difference"] == pytest.approx(-back["difference"])
    assert there["ci95"] == pytest.approx([-end for end in reversed(back["ci95"])])
    for name in ("p_value", "p_value_clustered", "detectable", "n_common"):
        assert there[name] == back[name]
    assert compare(workspace, a, b)["ci95"] == there["ci95"]


def test_every_type_has_its_own_row_and_the_unweighted_mean_its_own_interval(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    a, b = scored("a", answers("++-+--+-++-+" * 4)), scored("b", answers("+--++++--+-+" * 4))
    found = compare(workspace, a, b)
    assert sorted(found["by_type"]) == sorted(TYPES)
    for row in found["by_type"].values():
        assert row["n"] == 12
        assert row["difference"] == pytest.approx(row["a"] - row["b"])
        assert row["p_value"] <= 1
        assert row["p_holm"] >= row["p_value_clustered"]
    macro = found["figures"]["accuracy_macro"]
    mean = sum(row["difference"] for row in found["by_type"].values()) / 4
    assert macro["difference"] == pytest.approx(mean)
    assert macro["ci95"][0] <= mean <= macro["ci95"][1]
    assert found["by_group"] == {}


def test_overlapping_categories_count_a_question_in_each(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    kinds = [["action"], ["action", "query"], ["query"], []]
    rows = [scored_row(n, n % 2 == 0, categories=kinds[n % 4], type=None) for n in range(16)]
    other = [row | {"value": 100.0, "correct": True} for row in rows]
    a, b = scored("a", rows, benchmark="agqa"), scored("b", other, benchmark="agqa")
    found = compare(workspace, a, b)
    assert {name: row["n"] for name, row in found["by_type"].items()} == {"action": 8, "query": 8}
    assert found["by_type"]["action"]["a"] == 50.0


def test_groups_are_pooled_over_their_types(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    kinds = ("CW", "CH", "TN", "DC")
    rows = [scored_row(n, n % 3 == 0, type=kinds[n % 4]) for n in range(32)]
    a = scored("a", rows, benchmark="nextqa")
    b = scored(
        "b", [scored_row(n, n % 5 == 0, type=kinds[n % 4]) for n in range(32)], benchmark="nextqa"
    )
    found = compare(workspace, a, b)
    assert {name: row["n"] for name, row in found["by_group"].items()} == {
        "C": 16, "T": 8, "D": 8, "TN+TP": 8,
    }  # fmt: skip


def test_values_that_are_no_answers_are_compared_by_sign_flips(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    config = {"benchmark": "qvhighlights", "measure": "mAP"}
    rows = [scored_row(n, True, value=10.0 * (n % 7), correct=None, type=None) for n in range(40)]
    others = [row | {"value": row["value"] + 5.0} for row in rows]
    found = compare(workspace, scored("a", rows, **config), scored("b", others, **config))
    assert found["test"] == "sign-flip"
    assert found["measure"] == "mAP"
    assert found["difference"] == pytest.approx(-5.0)
    assert found["p_value"] == found["p_value_clustered"] < 0.01
    assert found["ci95"] == pytest.approx([-5.0, -5.0])
    assert found["by_type"] == {}


def test_without_videos_there_is_no_interval_and_it_is_said(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    a = scored("a", [row | {"video": None} for row in answers("+-+-++--")])
    b = scored("b", [row | {"video": None} for row in answers("++--++++")])
    found = compare(workspace, a, b)
    assert found["ci95"] is None
    assert found["p_value_clustered"] is None
    assert found["n_videos"] is None
    assert "independent" in found["notes"][0]


def test_videos_known_on_one_side_are_enough(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    pattern = "+-+-++--" * 3
    a = scored("a", [row | {"video": None, "type": None} for row in answers(pattern)])
    b = scored("b", answers("+" * 24))
    found = compare(workspace, a, b)
    assert found["n_videos"] == 6
    assert sorted(found["by_type"]) == sorted(TYPES)


def test_a_test_that_ignores_videos_is_contradicted(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    """Two videos decide everything: eight questions flip together in each."""
    rows = [scored_row(n, True, video=f"v{n // 8}") for n in range(64)]
    worse = [
        row | {"value": 0.0, "correct": False} if n < 16 else row for n, row in enumerate(rows)
    ]
    found = compare(workspace, scored("a", rows), scored("b", worse))
    assert found["p_value"] < 0.001
    assert found["p_value_clustered"] == 0.5
    assert any("McNemar" in note for note in found["notes"])


def test_equal_answers_show_no_difference(workspace: Workspace, scored: Callable[..., str]) -> None:
    a = scored("a", answers("+-+-++--"))
    found = compare(workspace, a, a)
    assert found["difference"] == 0.0
    assert found["ci95"] == [0.0, 0.0]
    assert found["p_value"] == found["p_value_clustered"] == 1.0
    assert found["detectable"] is None
    assert found["flips"] == []
    assert found["notes"] == ["both are the same artifact"]


def test_one_side_alone_has_the_interval_of_its_own_accuracy(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    """Against a system that is never right, the difference is the accuracy."""
    rows = answers("++-+--+-++-+" * 6)
    none = [row | {"value": 0.0, "correct": False} for row in rows]
    found = compare(workspace, scored("a", rows), scored("none", none))
    alone = cluster_interval([row["value"] for row in rows], [row["video"] for row in rows])
    assert alone is not None
    low, high = found["ci95"]
    assert low <= alone[0] + 1e-9
    assert high >= alone[1] - 1e-9


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"split": "test"}, "split val"),
        ({"benchmark": "nextqa"}, "benchmark star"),
        ({"measure": "R@1"}, "measured by accuracy"),
        ({"as_published": True}, "different rules"),
        ({"ties": "every"}, "different rules"),
    ],
)
def test_unlike_results_are_not_compared(
    workspace: Workspace, scored: Callable[..., str], config: dict[str, Any], message: str
) -> None:
    a, b = scored("a", answers("+-+-")), scored("b", answers("++--"), **config)
    with pytest.raises(UsageError, match=message):
        compare(workspace, a, b)


def test_equal_ids_with_other_answers_are_other_questions(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    a = scored("a", answers("+-+-"))
    b = scored("b", [row | {"answer": "3"} for row in answers("+-+-")])
    with pytest.raises(DataError, match=r"different questions: 4 of 4 .*q0, q1, q2 and 1 more"):
        compare(workspace, a, b)


def test_nothing_in_common_is_an_error(workspace: Workspace, scored: Callable[..., str]) -> None:
    a, b = scored("a", answers("+-")), scored("b", [scored_row(7, True), failed(0)])
    with pytest.raises(DataError, match="no question is scored in both"):
        compare(workspace, a, b)


def test_files_and_other_kinds_are_explained(
    workspace: Workspace, scored: Callable[..., str], tmp_path: Path
) -> None:
    a = scored("a", answers("+-"))
    file = tmp_path / "predictions.json"
    file.write_text("{}")
    with pytest.raises(UsageError, match="is a file") as caught:
        compare(workspace, a, str(file))
    assert "vqa score" in caught.value.hint
    with pytest.raises(MissingInput, match="called 'nobody'"):
        compare(workspace, a, "nobody")
    draft = workspace.draft(Request("report", "page", {}))
    page = draft.finish({"total": 0, "done": 0, "failed": 0})
    with pytest.raises(UsageError, match="is report"):
        compare(workspace, a, str(page.path))


def test_artifacts_of_another_workspace_are_named_by_path(
    workspace: Workspace, scored: Callable[..., str], tmp_path: Path
) -> None:
    a, b = scored("a", answers("+-+-++--")), scored("b", answers("++--++++"))
    paths = [str(workspace.by_reference("metrics", label).path) for label in (a, b)]
    found = compare(Workspace(tmp_path / "elsewhere"), *paths)
    assert found["difference"] == compare(workspace, a, b)["difference"]


# --- flips ---------------------------------------------------------------------------------------


def test_flips_are_written_in_three_forms(
    workspace: Workspace, scored: Callable[..., str], tmp_path: Path
) -> None:
    rows = answers("+-+-")
    rows[0]["prediction"] = 'a "quoted", word'
    flips = compare(workspace, scored("a", rows), scored("b", answers("-+--")))["flips"]
    assert len(flips) == 3
    for name in ("flips.jsonl", "flips.csv", "new/flips.parquet"):
        write_flips(tmp_path / name, flips)
    lines = (tmp_path / "flips.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == flips
    with (tmp_path / "flips.csv").open(newline="") as text:
        assert list(csv.DictReader(text)) == flips
    assert pq.read_table(tmp_path / "new/flips.parquet").to_pylist() == flips
    assert list(flips[0]) == list(FLIP_COLUMNS)
    with pytest.raises(UsageError, match=r"flips\.txt"):
        write_flips(tmp_path / "flips.txt", flips)


def test_ranks_counted_several_times_are_no_shares_to_compare(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    rules = {"ties": "every", "measure": None, "benchmark": "msrvtt-retrieval", "split": "test"}
    rows = [scored_row(number, True, value=None, correct=None) for number in range(4)]
    a, b = scored("a", rows, **rules), scored("b", rows, **rules)
    with pytest.raises(UsageError, match="every position of a tie"):
        compare(workspace, a, b)


def test_hidden_answers_are_not_taken_for_another_measure(
    workspace: Workspace, scored: Callable[..., str]
) -> None:
    hidden = {"value": None, "correct": None, "status": "unlabelled"}
    a = scored("a", answers("++--"), measure="R1@0.5")
    b = scored("b", [scored_row(number, True, **hidden) for number in range(4)], measure=None)
    with pytest.raises(DataError, match="no question is scored in both"):
        compare(workspace, a, b)
