"""Every artifact that some artifacts were made from, as far as they are still there.

Reads: manifests.   Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from stages.artifacts.store import Artifact, Workspace
from stages.core.errors import DataError, MissingInput

HostFacts = Mapping[str, Mapping[str, Any]]
"""Artifact id -> created, seconds, ms_per_video: what another run of the same stage changes."""


class Ancestry:
    """Artifacts and all their ancestors, sources first.

    Args:
        workspace: Where they are looked for.
        artifacts: The youngest ones.
        known: What the host said of them when a page was made before; see `host_facts`.
    """

    def __init__(
        self, workspace: Workspace, artifacts: Sequence[Artifact], known: HostFacts | None = None
    ) -> None:
        self.workspace = workspace
        self.found: dict[str, Artifact] = {}
        """By id, each after what it was made from."""
        self.gone: dict[str, tuple[str, str]] = {}
        """Id -> kind and why it cannot be read."""
        for artifact in artifacts:
            self._add(artifact)
        self._known = known or {}

    def _add(self, artifact: Artifact) -> None:
        if artifact.id in self.found:
            return
        for record in artifact.manifest["inputs"]:
            made_from = self._read(record)
            if made_from is not None:
                self._add(made_from)
        self.found[artifact.id] = artifact

    def _read(self, record: Mapping[str, str]) -> Artifact | None:
        if record["id"] in self.gone:
            return None
        path = self.workspace.root / record["kind"] / record["id"]
        try:
            found = self.workspace.open(path)
        except (MissingInput, DataError):
            self.gone[record["id"]] = (record["kind"], "is gone")
            return None
        if found.content != record["content"]:
            self.gone[record["id"]] = (record["kind"], "was made again with other content")
            return None
        return found

    def of_kind(self, kind: str) -> list[Artifact]:
        """Those of a kind, sources first."""
        return [item for item in self.found.values() if item.kind == kind]

    def input_of(self, artifact: Artifact, role: str) -> Artifact | None:
        """What `artifact` read in that role; none: nothing, or it is gone."""
        for record in artifact.manifest["inputs"]:
            if record["role"] == role:
                return self.found.get(str(record["id"]))
        return None

    @cached_property
    def host_facts(self) -> HostFacts:
        """What another run of the same stages changes: times.

        A page that is made again takes what the first one said, so that it has the same bytes.
        """
        return {name: self._known.get(name) or _facts(item) for name, item in self.found.items()}


def _facts(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "created": manifest["created"],
        "seconds": manifest.get("seconds"),
        "ms_per_video": manifest["host"].get("ms_per_video"),
    }
