"""The frozen vision tower of any backbone folder, by its layout."""

from __future__ import annotations

import torch

from stages.models.backbones.catalog import CLIP_LAYOUT
from stages.models.backbones.clip import ClipTower, clip_config, clip_spec
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.vision import (
    Precision,
    VisionSpec,
    VisionTower,
    vision_config,
    vision_spec,
)

Tower = VisionTower | ClipTower


def load_tower(
    folder: BackboneFolder,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> Tower:
    """Read the vision tower alone.

    Raises:
        DataError: An unknown layout, or weights that do not fit.
    """
    kind = ClipTower if _is_clip(folder) else VisionTower
    return kind.load(folder, device, precision)


def tower_spec(folder: BackboneFolder) -> VisionSpec:
    """Sizes of the tower's frames and features; no weight is read."""
    where = str(folder.path)
    if _is_clip(folder):
        return clip_spec(clip_config(folder.config, where))
    return vision_spec(vision_config(folder.config, where))


def _is_clip(folder: BackboneFolder) -> bool:
    return folder.config.get("model_type") == CLIP_LAYOUT
