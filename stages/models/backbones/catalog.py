"""Backbones by name: embedded ones, the published ones in the local hub cache, or any folder.

Nothing is ever downloaded: published weights are looked for where `huggingface_hub` keeps them
(`HF_HOME`), and a missing one is an error that says how to get it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.core.errors import DataError, MissingInput, UsageError
from stages.models.embedded import EMBEDDED, embedded_folder

if TYPE_CHECKING:  # torch, which finding a folder does not need
    from stages.models.backbones.folder import BackboneFolder

PUBLISHED = {
    "blip2-flan-t5-xl": "Salesforce/blip2-flan-t5-xl",
    "instructblip-flan-t5-xl": "Salesforce/instructblip-flan-t5-xl",
    "clip-vit-base-patch16": "openai/clip-vit-base-patch16",
}
"""Names of published backbones and their ids on the hub."""

PUBLISHED_LAYOUTS = {
    "blip2-flan-t5-xl": "blip-2",
    "instructblip-flan-t5-xl": "instructblip",
    "clip-vit-base-patch16": "clip",
}
"""Their `model_type`, known before they are on this machine."""

PUBLISHED_IMAGE_SIZE = 224

CLIP_LAYOUT = "clip"
"""`model_type` of a folder in CLIPModel layout."""

CLIP_IMAGE_SIZE = 224
"""What transformers' CLIP takes where a config.json does not say."""

LANGUAGE_MODEL_PREFIXES = ["vision_model.", "qformer.", "query_tokens", "language_"]
"""Tensors of everything that a question passes through, vision tower to language model."""

CLIP_PREFIXES = ["vision_model.", "text_model.", "visual_projection.", "text_projection."]
"""The same for a folder in CLIPModel layout."""


@dataclass(frozen=True)
class FrameRule:
    """What is stored of a frame for a backbone, and what of it the vision tower sees.

    Attributes:
        kind: `squash`: straight to a square, aspect ratio not kept (BLIP-2 family). `crop`: the
            short side to `stored` pixels, then the central square (CLIP).
        stored: Side in pixels of the stored square.
        size: Side of what the tower sees: all of it, or a crop of it.
    """

    kind: Literal["squash", "crop"]
    stored: int
    size: int

    def format_values(self) -> dict[str, Any]:
        """The fields of the `FrameFormat` in which frames are stored."""
        return {"kind": self.kind, "width": self.stored, "height": self.stored}


def frame_rule(layout: str, size: int, short_side: int | None = None) -> FrameRule:
    """The rule of a `model_type` whose tower sees `size` pixels.

    For CLIP the short side is 256 for 224 (specs/videodistill.md 1) and in proportion for other
    sizes, so that an even margin is left for random crops. The stored square is the middle of the
    frame: its centre crop is that of the whole frame (to a pixel, where the margin is no multiple
    of four), and random crops stay inside it, which the paper does not say.

    Raises:
        UsageError: `short_side` is no number of pixels, smaller than the crop, or the layout crops
            nothing.
    """
    if layout != CLIP_LAYOUT:
        if short_side is not None:
            raise UsageError(
                f"short_side: frames for a {layout} backbone are not cropped",
                "only backbones in CLIP layout take it",
            )
        return FrameRule("squash", size, size)
    stored = size + 2 * round(size / 14) if short_side is None else short_side
    if type(stored) is not int or stored < size:
        raise UsageError(f"short_side: {stored!r} must be a whole number of {size} pixels or more")
    return FrameRule("crop", stored, size)


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
    config = _read_config(path)
    try:
        return int(_vision_values(config)["image_size"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} has no vision_config.image_size ({error})") from None


def _vision_values(config: dict[str, Any]) -> dict[str, Any]:
    """`vision_config`; a CLIP's may leave out its default and be overridden by an older key."""
    if config.get("model_type") != CLIP_LAYOUT:
        return dict(config["vision_config"])
    older = config.get("vision_config_dict") or {}
    return {"image_size": CLIP_IMAGE_SIZE, **(config.get("vision_config") or {}), **older}


def backbone_layout(name: str) -> str:
    """`model_type` of backbone `name`; published ones need not be on this machine."""
    if name in PUBLISHED:
        return PUBLISHED_LAYOUTS[name]
    path = backbone_path(name) / "config.json"
    layout = str(_read_config(path).get("model_type"))
    if not layout.isprintable():
        raise DataError(f"{path}: model_type {layout[:80]!a} cannot be printed")
    return layout


def in_layout(name: str, layout: str) -> str:
    """The backbone that is meant where a system needs `layout`: `tiny` is a family.

    Raises:
        UsageError: A backbone of another layout; names those that have it.
    """
    if backbone_layout(name) == layout:
        return name
    if name in EMBEDDED:
        return next(other for other in EMBEDDED if backbone_layout(other) == layout)
    known = [other for other in (*EMBEDDED, *PUBLISHED) if backbone_layout(other) == layout]
    raise UsageError(
        f"backbone {name} has the layout {backbone_layout(name)}, this needs {layout}",
        f"--backbone {' or '.join(known)}, or a folder",
    )


def backbone_frames(name: str, short_side: int | None = None) -> FrameRule:
    """How frames are stored for backbone `name`; see `frame_rule`."""
    return frame_rule(backbone_layout(name), image_size(name), short_side)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInput(f"no config.json in backbone folder {path.parent}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise DataError(f"{path} must hold a JSON object, not a {type(config).__name__}")
    return config


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
    """Fingerprint of everything that answers: both towers of a CLIP, or tower to language model."""
    clip = folder.config.get("model_type") == CLIP_LAYOUT
    return folder.content_fingerprint(CLIP_PREFIXES if clip else LANGUAGE_MODEL_PREFIXES)


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
