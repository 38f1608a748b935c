"""Looking at a workspace as a whole: listing, status, verification, deletion."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.artifacts import atomic
from stages.artifacts.locks import locked
from stages.artifacts.result import directory_bytes
from stages.artifacts.store import (
    FORMAT_VERSIONS,
    MANIFEST,
    Artifact,
    Listing,
    Workspace,
    verify_files,
)
from stages.core.errors import MissingInput, UsageError
from stages.core.runtime import Progress

SHARDED_STEMS = {"frames": "frames", "features": "features", "predictions": "predictions"}


def describe(listing: Listing) -> dict[str, Any]:
    """One row of `vqa artifacts ls`."""
    counts = listing.artifact.counts if listing.artifact else {}
    return {
        "id": listing.path.name,
        "kind": listing.kind,
        "path": str(listing.path),
        "state": listing.state,
        "problem": listing.problem,
        "done": counts.get("done", 0),
        "failed": counts.get("failed", 0),
        "total": counts.get("total", 0),
        "bytes": directory_bytes(listing.path),
    }


def workspace_status(workspace: Workspace) -> dict[str, Any]:
    """Every artifact with its shards, inputs, and whether an input has changed since."""
    rows = []
    for listing in workspace.listings():
        row = describe(listing)
        stem = SHARDED_STEMS.get(listing.kind)
        done = len(list(listing.path.glob(f"{stem}-[0-9]*.json"))) if stem else 0
        total = int(listing.artifact.manifest.get("shards", 0)) if listing.artifact else 0
        row |= {"shards_done": done, "shards": max(total, done), "inputs": [], "stale": []}
        if listing.artifact is not None:
            row["inputs"] = listing.artifact.input_ids()
            row["stale"] = stale_inputs(workspace, listing.artifact)
            row["state"] = "stale" if row["stale"] else row["state"]
        rows.append(row)
    return {
        "workspace": str(workspace.root),
        "artifacts": rows,
        "bytes": sum(row["bytes"] for row in rows),
        "free": atomic.free_bytes(workspace.root),
    }


def stale_inputs(workspace: Workspace, artifact: Artifact) -> list[str]:
    """Inputs that are gone or hold other content than when `artifact` was made."""
    stale = []
    for record in artifact.manifest["inputs"]:
        path = workspace.root / record["kind"] / record["id"]
        if not (path / MANIFEST).exists() or workspace.open(path).content != record["content"]:
            stale.append(str(record["id"]))
    return stale


def find_anywhere(workspace: Workspace, reference: str) -> Artifact:
    """A finished artifact of any kind by id, label, id prefix or path.

    Raises:
        MissingInput: Nothing of that name.
        UsageError: Several.
    """
    if (Path(reference) / MANIFEST).exists():
        return workspace.open(Path(reference).absolute())
    found = []
    for kind in FORMAT_VERSIONS:
        for item in workspace.finished(kind):
            if reference in (item.id, item.label) or item.id.startswith(reference):
                found.append(item)
    exact = [item for item in found if item.id == reference]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if not found:
        raise MissingInput(
            f"no finished artifact called {reference!r} in {workspace.root}", "vqa artifacts ls"
        )
    raise UsageError(
        f"several artifacts fit {reference!r}: {', '.join(item.id for item in found)}",
        "name one in full",
    )


def check_artifacts(
    workspace: Workspace, chosen: Sequence[Artifact] | None, progress: Progress
) -> dict[Path, list[str]]:
    """What is wrong with finished artifacts, by directory; empty if all is well."""
    problems: dict[Path, list[str]] = {}
    if chosen is None:
        listings = workspace.listings()
        chosen = inputs_first([item.artifact for item in listings if item.artifact is not None])
        problems = {item.path: [item.problem] for item in listings if item.problem}
    for number, artifact in enumerate(chosen):
        # Opened again: a repair writes a new manifest, and logs in it may differ.
        found = verify_files(workspace.open(artifact.path))
        if found:
            problems[artifact.path] = found
        progress(number + 1, len(chosen), "artifacts verified")
    return problems


def inputs_first(artifacts: Sequence[Artifact]) -> list[Artifact]:
    """The same artifacts, each after those of them that it was made from: the order of repair."""
    waiting = {item.id: item for item in artifacts}
    ordered: list[Artifact] = []
    while waiting:
        ready = [item for item in waiting.values() if waiting.keys().isdisjoint(item.input_ids())]
        for item in ready or list(waiting.values()):  # a circle can only be forged
            ordered.append(waiting.pop(item.id))
    return ordered


def prunable(workspace: Workspace, kind: str | None) -> list[Path]:
    """Unfinished artifacts that no living process is writing."""
    return [item.path for item in workspace.listings(kind) if item.state == "unfinished"]


def delete_artifact(workspace: Workspace, path: Path) -> None:
    """Delete an artifact, its manifest first so that no reader meets half of one."""
    with locked(workspace.lock_path(path.parent.name, path.name, "artifact")):
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)
