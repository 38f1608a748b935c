"""What everything on a page was made with.

Reads: manifests.   Writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from stages.artifacts.store import Artifact
from stages.reporting.ancestry import Ancestry

OWN_PACKAGE = "vqa-toolkit"


def environment_of(ancestry: Ancestry) -> dict[str, str]:
    """Name -> value, from the evaluations' manifests; several values where they differ."""
    predictions, features = ancestry.of_kind("predictions"), ancestry.of_kind("features")
    names = dict.fromkeys(name for item in predictions for name in item.manifest["versions"])
    versions = {
        name: _each(item.manifest["versions"].get(name) for item in predictions) for name in names
    }
    facts = {
        OWN_PACKAGE: versions.pop(OWN_PACKAGE, ""),
        "machine": _each(_machine(item) for item in predictions),
        "device": _each(item.config.get("device") for item in predictions),
        "precision": _each(item.config.get("precision") for item in predictions),
        "backbones": _each(item.config.get("backbone") for item in predictions),
        "decoder": _each(item.config["decoder"]["decoder"] for item in features),
        **versions,
    }
    return {name: value for name, value in facts.items() if value}


def _machine(artifact: Artifact) -> str:
    host = artifact.manifest["host"]
    return " ".join(str(host[name]) for name in ("system", "machine") if host.get(name))


def _each(values: Iterable[str | None]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value))
