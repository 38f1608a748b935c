"""Looking at a workspace as a whole: listing, status, verification, deletion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.artifacts import atomic
from stages.artifacts.locks import locked
from stages.artifacts.progress import (
    folder_bytes,
    locked_shards,
    pace,
    read_json,
    training_position,
)
from stages.artifacts.store import (
    FORMAT_VERSIONS,
    REBUILD_COMMANDS,
    Artifact,
    Listing,
    Workspace,
    delete_directory,
    has_manifest,
    pick_by_name,
    verify_files,
)
from stages.core.errors import DataError, MissingInput, UsageError
from stages.core.runtime import Progress

SHARDED_STEMS = {
    "frames": "frames",
    "features": "features",
    "pseudo-labels": "pseudo-labels",
    "predictions": "predictions",
}

LOOKS = 3
"""How often a workspace in which others delete is looked at."""


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
        "bytes": folder_bytes(listing.path),
    }


def workspace_status(workspace: Workspace) -> dict[str, Any]:
    """Every artifact with its shards, inputs, pace, and whether an input has changed since."""
    for _ in range(LOOKS - 1):
        try:
            return _look(workspace)
        except FileNotFoundError:  # something was deleted or renamed between two looks at it
            continue
    return _look(workspace)


def _look(workspace: Workspace) -> dict[str, Any]:
    rows = []
    for listing in workspace.listings():
        row = describe(listing) | {"stage": _stage(listing)}
        row |= _shards(workspace, listing) | {"inputs": [], "stale": [], "stale_why": []}
        row["training"] = training_position(listing.path) if _trains(listing) else None
        if listing.artifact is not None:
            why = stale_reasons(workspace, listing.artifact)
            row["inputs"] = listing.artifact.input_ids()
            row["stale"], row["stale_why"] = list(why), list(why.values())
            row["state"] = "stale" if why else row["state"]
        rows.append(row)
    return {
        "workspace": str(workspace.root),
        "artifacts": rows,
        "bytes": sum(row["bytes"] for row in rows),
        "free": atomic.free_bytes(workspace.root),
    }


def _stage(listing: Listing) -> str:
    """The command that makes such an artifact; of weights their role says more."""
    if listing.kind == "weights":
        return "training"
    return REBUILD_COMMANDS[listing.kind].removeprefix("vqa ")


def _trains(listing: Listing) -> bool:
    return listing.kind == "weights" and listing.artifact is None


def _shards(workspace: Workspace, listing: Listing) -> dict[str, Any]:
    """Finished shards of how many, and of an unfinished artifact the items and the pace as well."""
    still: dict[str, Any] = {"shards_running": 0, "rate": None, "eta_seconds": None}
    stem = SHARDED_STEMS.get(listing.kind)
    if stem is None:
        return {"shards": 0, "shards_done": 0, **still}
    sidecars = sorted(listing.path.glob(f"{stem}-[0-9]*.json"))
    if listing.artifact is not None:
        total = int(listing.artifact.manifest.get("shards", len(sidecars)))
        return {"shards": total, "shards_done": len(sidecars), **still}
    lock = workspace.lock_path(listing.kind, listing.path.name, "outlook")
    outlook_path = lock.with_suffix(".json")
    outlook = read_json(outlook_path)
    counts = [read_json(path).get("counts", {}) for path in sidecars]
    items = int(outlook.get("total", 0))
    if listing.running:
        still["shards_running"] = locked_shards(lock.parent, listing.path.name)
        found = pace(sidecars, outlook_path, items)
        still |= {"rate": found.rate, "eta_seconds": found.eta_seconds}
    return {
        "shards": outlook.get("shards", len(sidecars)),
        "shards_done": len(sidecars),
        "total": items,
        "done": sum(item.get("done", 0) for item in counts),
        "failed": sum(item.get("failed", 0) for item in counts),
        **still,
    }


def stale_reasons(workspace: Workspace, artifact: Artifact) -> dict[str, str]:
    """Inputs that are gone, unreadable, or hold other content than when `artifact` was made.

    Returns:
        Id of each, and in one sentence what happened to it.
    """
    reasons = {}
    for record in artifact.manifest["inputs"]:
        why = _why_stale(workspace, record)
        if why:
            reasons[str(record["id"])] = f"{record['role']} {record['id']} {why}"
    return reasons


def _why_stale(workspace: Workspace, record: dict[str, str]) -> str:
    path = workspace.root / record["kind"] / record["id"]
    try:
        found = workspace.open(path)
    except MissingInput:
        return "is gone" if not path.exists() else "is not finished any more"
    except DataError as error:
        return f"cannot be read: {error.message}"
    if found.content == record["content"]:
        return ""
    return f"was made again with other content ({found.manifest['created']})"


def find_anywhere(workspace: Workspace, reference: str) -> Listing:
    """A finished artifact of any kind, readable or not, by path, id, label or start of its id.

    Raises:
        MissingInput: Nothing of that name.
        UsageError: Several.
    """
    if _is_there(Path(reference)):
        return workspace.listing(Path(reference).absolute())
    every = [item for item in workspace.listings() if item.artifact is not None or item.problem]
    return pick_by_name(every, reference, "artifact", workspace.root)


def _is_there(path: Path) -> bool:
    """Whether a path is an artifact, be it one that may not be entered."""
    try:
        return has_manifest(path)
    except DataError:
        return True


def check_artifacts(
    workspace: Workspace, chosen: Sequence[Listing] | None, progress: Progress
) -> dict[Path, list[str]]:
    """What is wrong with finished artifacts, by directory; empty if all is well."""
    listings = workspace.listings() if chosen is None else chosen
    problems: dict[Path, list[str]] = {}
    # Looked at again: a repair writes a new manifest, and logs in it may differ.
    again = [workspace.listing(item.path) for item in listings]
    problems = {item.path: [item.problem] for item in again if item.problem}
    readable = inputs_first([item.artifact for item in again if item.artifact is not None])
    for number, artifact in enumerate(readable):
        found = verify_files(artifact)
        if found:
            problems[artifact.path] = found
        progress(number + 1, len(readable), "artifacts verified")
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
    """Unfinished artifacts that no living process is writing; never what a link leads to."""
    unfinished = [item.path for item in workspace.listings(kind) if item.state == "unfinished"]
    return [path for path in unfinished if not path.is_symlink()]


def check_deletable(workspace: Workspace, path: Path) -> None:
    """Look before anything is deleted.

    Raises:
        UsageError: The directory is not an artifact of this workspace.
    """
    real, root = path.resolve(), workspace.root.resolve()
    own = real.parent.parent == root and real.parent.name in FORMAT_VERSIONS
    if not own or path.is_symlink():
        raise UsageError(f"{path} is not an artifact of workspace {workspace.root}")


def delete_artifact(workspace: Workspace, path: Path) -> None:
    """Delete one artifact of the workspace.

    Raises:
        UsageError: The directory is not an artifact of this workspace.
    """
    check_deletable(workspace, path)
    with locked(workspace.lock_path(path.parent.name, path.name, "artifact")):
        delete_directory(path)
