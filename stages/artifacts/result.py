"""What a stage returns: the artifacts it made or found, and what to say about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stages.artifacts.store import FORMAT_VERSIONS, Artifact, Draft


@dataclass(frozen=True)
class StageResult:
    """One artifact of one stage.

    Attributes:
        artifact: The finished artifact, or None if other runs have still to finish it.
        draft: Where it stands, as the JSON's `artifact` object.
        reused: Whether it was there already.
        counts: Items total, done, failed.
        inputs: Ids of the artifacts read.
        seconds: Wall time of this run.
        next: Commands that a user would type next.
        notes: Sentences for the terminal: what was chosen, repeated or skipped.
        details: Further JSON fields (metrics, coverage).
        failure_share: Failed items over all items.
    """

    artifact: Artifact | None
    draft: dict[str, Any]
    reused: bool
    counts: Mapping[str, int]
    inputs: list[str]
    seconds: float
    next: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failure_share(self) -> float:
        """Failed items over all items, 0 when there are none."""
        total = self.counts.get("total", 0)
        return self.counts.get("failed", 0) / total if total else 0.0

    def as_json(self, command: str) -> dict[str, Any]:
        """The command line's JSON object."""
        return {
            "command": command,
            "artifact": self.draft,
            "reused": self.reused,
            "counts": dict(self.counts),
            "inputs": self.inputs,
            "seconds": round(self.seconds, 3),
            "next": self.next,
            **self.details,
        }


def finished_result(
    artifact: Artifact,
    *,
    reused: bool,
    seconds: float,
    next_commands: list[str],
    notes: list[str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> StageResult:
    """The result of a finished artifact."""
    return StageResult(
        artifact=artifact,
        draft=artifact.as_json(),
        reused=reused,
        counts=artifact.counts,
        inputs=artifact.input_ids(),
        seconds=seconds,
        next=next_commands,
        notes=notes or [],
        details=details or {},
    )


def unfinished_result(draft: Draft, counts: Mapping[str, int], seconds: float) -> StageResult:
    """The result of a run that did its shards while others are missing."""
    request = draft.request
    return StageResult(
        artifact=None,
        draft={
            "kind": request.kind,
            "id": request.id,
            "path": str(draft.path),
            "format_version": FORMAT_VERSIONS[request.kind],
            "fingerprint": request.fingerprint,
            "finished": False,
        },
        reused=False,
        counts=counts,
        inputs=[item.id for item in request.inputs.values()],
        seconds=seconds,
        notes=["other shards are still missing; a run without --shard finishes them"],
    )
