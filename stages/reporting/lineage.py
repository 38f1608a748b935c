"""What everything on a page was made from, with the command of each step, and what failed.

Reads: manifests and failures.   Writes nothing.
"""

from __future__ import annotations

from stages.artifacts.clips import FAILURES_TABLE, read_table
from stages.artifacts.store import Artifact
from stages.report_page.model import Failure, Node
from stages.reporting.ancestry import Ancestry
from stages.reporting.commands import command_of

SHOWN_FAILURES = 200


def nodes_of(ancestry: Ancestry) -> list[Node]:
    """Every artifact, sources first; those that are gone are there by name."""
    ranks = dict.fromkeys(ancestry.gone, 0)
    nodes = [Node(name, kind, name, 0, (), 0, "", "") for name, (kind, _) in ancestry.gone.items()]
    for artifact in ancestry.found.values():
        inputs = tuple(dict.fromkeys(artifact.input_ids()))
        ranks[artifact.id] = 1 + max((ranks[name] for name in inputs), default=-1)
        nodes.append(
            Node(
                id=artifact.id,
                kind=artifact.kind,
                label=artifact.label,
                rank=ranks[artifact.id],
                inputs=inputs,
                bytes=_bytes(artifact),
                created=ancestry.host_facts[artifact.id]["created"],
                command=command_of(artifact),
            )
        )
    return nodes


def _bytes(artifact: Artifact) -> int:
    """Of its data files; logs differ between two equal runs."""
    return sum(int(entry["size"]) for entry in artifact.manifest["files"].values())


def failures_of(ancestry: Ancestry) -> tuple[list[Failure], int]:
    """The first things that could not be made, sources first, and how many there are in all.

    What failed for one reason in several artifacts, such as one question of several systems, is one
    thing.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for artifact in ancestry.found.values():
        if not (artifact.path / FAILURES_TABLE).is_file():
            continue
        for row in read_table(artifact.path / FAILURES_TABLE).to_pylist():
            found.setdefault((row["id"], _reason(row)), []).append(artifact.id)
    failures = [
        Failure(tuple(dict.fromkeys(where)), key, reason) for (key, reason), where in found.items()
    ]
    return failures[:SHOWN_FAILURES], len(failures)


def _reason(row: dict[str, str]) -> str:
    return f"{row['reason']}: {row['words']}" if row["words"] else row["reason"]
