"""A workspace as a whole: what is listed, half done, stale or pruned; what force and names do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.artifacts import atomic
from stages.artifacts.inspect import (
    delete_artifact,
    find_anywhere,
    prunable,
    stale_reasons,
    workspace_status,
)
from stages.artifacts.rows import encode_rows
from stages.artifacts.shards import ShardedDraft, reusable
from stages.artifacts.store import Artifact, Request, Workspace, find_seed
from stages.core.errors import DataError, UsageError
from stages.core.runtime import Runtime, ShardSelection

WEIGHTS = {"system": "s", "role": "r", "benchmark": "b", "backbone": "x", "model": {}}
COUNTS = {"total": 1, "done": 1, "failed": 0}


def build(workspace: Workspace, request: Request, *, force: bool = False) -> Artifact:
    """A finished artifact of one text file and one shard-like HDF5 file."""
    with workspace.exclusive(request, force=force) as (draft, done):
        if done is not None:
            return done
        atomic.write_text(draft.path / "lines.jsonl", "{}\n{}\n")
        rows = np.zeros((3, 2), dtype=np.uint8)
        atomic.write_bytes(draft.path / "rows.h5", encode_rows(rows).image)
        return draft.finish(COUNTS)


def sharded(workspace: Workspace, request: Request, only: ShardSelection) -> ShardedDraft:
    draft = ShardedDraft(workspace.draft(request), 3, "frames", ".h5", only)
    draft.announce(6)
    for claim in draft.claims():
        draft.commit(claim, b"data", {"counts": {"done": 1, "failed": 1}})
    return draft


def test_the_manifest_keeps_rows_per_file_and_the_seed(tmp_path: Path) -> None:
    request = Request("frames", "x", {"sampling": {"frames": [4], "seed": 7}})

    manifest = build(Workspace(tmp_path), request).manifest

    rows = {name: entry["rows"] for name, entry in manifest["files"].items()}
    assert rows == {"lines.jsonl": 2, "rows.h5": 3}
    assert manifest["seed"] == 7


@pytest.mark.parametrize(
    ("config", "seed"),
    [({}, None), ({"seed": 3}, 3), ({"a": {"b": {"seed": 0}}}, 0), ({"seed": None}, None)],
)
def test_the_seed_is_found_wherever_it_lies(config: dict[str, object], seed: int | None) -> None:
    assert find_seed(config) == seed


def test_logs_are_host_facts_and_do_not_change_the_content(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        workspace = Workspace(tmp_path / name)
        with workspace.exclusive(Request("weights", "x", {})) as (draft, _):
            atomic.write_text(draft.path / "data.txt", "same")
            atomic.write_text(draft.path / "metrics.jsonl", f"took {name}\n")
            atomic.write_text(draft.path / "state", "unfinished")
            artifact = draft.finish(
                COUNTS, logs=frozenset({"metrics.jsonl"}), left_out=frozenset({"state"})
            )
        contents.append((artifact.content, artifact.manifest["files"]))
        assert set(artifact.manifest["host"]["logs"]) == {"metrics.jsonl"}
        assert not (artifact.path / "state").exists()

    assert contents[0] == contents[1]


def test_reuse_under_another_name_creates_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = build(workspace, Request("frames", "one", {"size": 4}))

    again = build(workspace, Request("frames", "other", {"size": 4}))

    assert again.path == first.path
    assert [item.path for item in workspace.listings()] == [first.path]


def test_force_under_another_name_replaces_the_old_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = build(workspace, Request("frames", "one", {"size": 4}))

    again = build(workspace, Request("frames", "other", {"size": 4}), force=True)

    assert again.label == "other"
    assert not first.path.exists()


def test_force_and_a_part_of_the_shards_contradict(tmp_path: Path) -> None:
    how = Runtime(force=True, shards=ShardSelection(0, 2))

    with pytest.raises(UsageError, match="cannot be combined"):
        reusable(Workspace(tmp_path), Request("frames", "x", {}), how)


def test_status_counts_what_is_half_done(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    draft = sharded(workspace, Request("frames", "x", {}), ShardSelection(0, 2))

    (row,) = workspace_status(workspace)["artifacts"]

    assert (row["state"], row["shards_done"], row["shards"]) == ("unfinished", 2, 3)
    assert (row["done"], row["failed"], row["total"]) == (2, 2, 6)
    assert draft.item_counts(6) == {"total": 6, "done": 2, "failed": 2}


def test_an_input_that_changed_or_cannot_be_read_makes_stale(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    source = build(workspace, Request("questions", "x", {"benchmark": "b", "split": "s"}))
    dependant = build(workspace, Request("frames", "y", {}, {"questions": source}))
    assert stale_reasons(workspace, dependant) == {}

    newer = json.loads((source.path / "manifest.json").read_text()) | {"format_version": 99}
    (source.path / "manifest.json").write_text(json.dumps(newer))

    assert list(stale_reasons(workspace, dependant)) == [source.id]
    states = {row["id"]: row["state"] for row in workspace_status(workspace)["artifacts"]}
    assert states == {source.id: "unreadable", dependant.id: "stale"}


def test_an_exact_name_wins_over_a_longer_one(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    one = build(workspace, Request("weights", "run1", WEIGHTS | {"a": 1}))
    build(workspace, Request("weights", "run10", WEIGHTS | {"a": 2}))

    assert workspace.by_reference("weights", "run1").id == one.id
    assert find_anywhere(workspace, "run1").id == one.id
    with pytest.raises(UsageError, match="several"):
        find_anywhere(workspace, "run")


@pytest.mark.parametrize("kind", [".", "..", ".locks", "nonsense", "frames/.."])
def test_only_kinds_of_artifacts_can_be_pruned_or_listed(tmp_path: Path, kind: str) -> None:
    workspace = Workspace(tmp_path)
    build(workspace, Request("frames", "x", {}))

    with pytest.raises(UsageError, match="no artifacts of kind"):
        prunable(workspace, kind)


def test_nothing_outside_the_workspace_is_deleted(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    inside = build(workspace, Request("frames", "x", {}))
    elsewhere = build(Workspace(tmp_path / "other"), Request("frames", "x", {}))

    for path in (elsewhere.path, tmp_path / "ws", tmp_path / "ws" / "frames"):
        with pytest.raises(UsageError, match="not an artifact of workspace"):
            delete_artifact(workspace, path)
    delete_artifact(workspace, inside.path)

    assert elsewhere.path.exists()
    assert not inside.path.exists()


def test_what_others_put_beside_artifacts_is_never_offered_for_deletion(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    half = workspace.draft(Request("frames", "half", {})).path
    (half.parent / "my-photos").mkdir()
    (tmp_path / "other").mkdir()
    link = half.with_name("linked-0123456789ab")
    link.symlink_to(tmp_path / "other")

    assert prunable(workspace, None) == [half]
    with pytest.raises(UsageError, match="not an artifact of workspace"):
        delete_artifact(workspace, link)
    assert (tmp_path / "other").exists()


def test_a_manifest_that_cannot_be_opened_is_listed_as_unreadable(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    fine = build(workspace, Request("frames", "fine", {}))
    broken = build(workspace, Request("frames", "broken", {"size": 1})).path
    (broken / "manifest.json").unlink()
    (broken / "manifest.json").mkdir()

    states = {row["id"]: row["state"] for row in workspace_status(workspace)["artifacts"]}
    assert states == {fine.id: "finished", broken.name: "unreadable"}
    with pytest.raises(DataError, match="cannot be read"):
        workspace.open(broken)
    delete_artifact(workspace, find_anywhere(workspace, "broken").path)
    assert not broken.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered_is_listed_as_unreadable(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    closed = build(workspace, Request("frames", "closed", {})).path
    closed.chmod(0)
    try:
        (row,) = workspace_status(workspace)["artifacts"]
    finally:
        closed.chmod(0o700)
    assert row["state"] == "unreadable"


@pytest.mark.parametrize("key", ["system", "role", "benchmark"])
def test_weights_that_nobody_could_choose_are_unreadable(tmp_path: Path, key: str) -> None:
    workspace = Workspace(tmp_path)
    config = {name: value for name, value in WEIGHTS.items() if name != key}
    build(workspace, Request("weights", "x", config))

    (listing,) = workspace.listings()
    assert (listing.state, workspace.finished("weights")) == ("unreadable", [])
    assert key in listing.problem


def test_an_artifact_among_those_of_another_kind_is_unreadable(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    made = build(workspace, Request("frames", "x", {}))
    (tmp_path / "weights").mkdir()
    made.path.rename(tmp_path / "weights" / made.id)

    assert [item.state for item in workspace.listings()] == ["unreadable"]


def test_a_damaged_manifest_fails_the_verification_of_its_artifact(
    tmp_path: Path, vqa: Callable[..., Any]
) -> None:
    workspace = Workspace(tmp_path)
    one = build(workspace, Request("frames", "one", {}))
    two = build(workspace, Request("frames", "two", {"size": 1}))
    (one.path / "manifest.json").write_text("{")
    (two.path / "lines.jsonl").unlink()

    for words in ([one.id], ["one", "--repair"]):
        failed = vqa("artifacts", "verify", *words, "-w", tmp_path)
        assert failed.code == 6
        assert failed.json["error"]["message"].count(str(one.path)) == 1
        assert str(tmp_path) in failed.json["error"]["hint"]
    every = vqa("artifacts", "verify", "-w", tmp_path).json["error"]["message"].splitlines()
    assert [str(path) in line for path, line in zip((one.path, two.path), every, strict=True)]
    assert "not a manifest" in every[0]
    assert every[1] == f"{two.path}: lines.jsonl: missing"
    assert vqa("artifacts", "show", "one", "-w", tmp_path).code == 3
