"""Backbones by name: embedded ones, the published ones in the local hub cache, or any folder.

Nothing is ever downloaded: published weights are looked for where `huggingface_hub` keeps them
(`HF_HOME`), and a missing one is an error that says how to get it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import DataError, MissingInput, UsageError
from stages.models.embedded import EMBEDDED, embedded_folder

if TYPE_CHECKING:  # torch, which finding a folder does not need
    from stages.models.backbones.folder import BackboneFolder

PUBLISHED = {
    "blip2-flan-t5-xl": "Salesforce/blip2-flan-t5-xl",
    "instructblip-flan-t5-xl": "Salesforce/instructblip-flan-t5-xl",
}
"""Names of published backbones and their ids on the hub."""

PUBLISHED_IMAGE_SIZE = 224

LANGUAGE_MODEL_PREFIXES = ["vision_model.", "qformer.", "query_tokens", "language_"]
"""Tensors of everything that a question passes through, vision tower to language model."""


def backbone_path(name: str) -> Path:
    """The folder of backbone `name`.

    Args:
        name: Embedded or published name, or the path of a folder in Hugging Face layout.

    Raises:
        MissingInput: A published one that is not on this machine.
        UsageError: Neither a known name nor a folder.
    """
    if name in EMBEDDED:
        return embedded_folder(name)
    if name in PUBLISHED:
        return _cached(name)
    if Path(name).is_dir():
        return Path(name)
    known = ", ".join([*EMBEDDED, *PUBLISHED])
    raise UsageError(f"no backbone called {name!r} and no such folder", f"known: {known}")


def image_size(name: str) -> int:
    """Side in pixels of the square frames of `name`; published ones need not be on this machine."""
    if name in PUBLISHED:
        return PUBLISHED_IMAGE_SIZE
    path = backbone_path(name) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return int(config["vision_config"]["image_size"])
    except FileNotFoundError:
        raise MissingInput(f"no config.json in backbone folder {path.parent}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} has no vision_config.image_size ({error})") from None


def backbone_label(name: str) -> str:
    """A short name for labels of artifacts: a folder's own name in the characters of a label.

    Links are not followed, so that a folder keeps the name that its user gave it.
    """
    if is_named(name):
        return name
    path = Path(name)
    last = path.resolve().name if path.name in ("", "..") else path.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or "backbone"


def is_named(name: str) -> bool:
    """Whether `name` is one of the catalogue, not a folder's."""
    return name in EMBEDDED or name in PUBLISHED


def backbone_fingerprint(folder: BackboneFolder) -> str:
    """Fingerprint of vision tower, Q-Former, projection and language model together."""
    return folder.content_fingerprint(LANGUAGE_MODEL_PREFIXES)


def backbone_host(name: str) -> dict[str, str]:
    """Where a backbone without a catalogue name lies on this machine, for manifests' host part."""
    if is_named(name):
        return {}
    return {"backbone_folder": str(Path(name).absolute())}


def _cached(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(PUBLISHED[name], local_files_only=True))
    except LocalEntryNotFoundError:
        raise MissingInput(
            f"backbone {name} is not in the local hub cache",
            f"hf download {PUBLISHED[name]}, or give the folder: --backbone PATH",
        ) from None
