"""VideoDistill over a CLIP folder: its text tower, and the sizes of what its vision tower says."""

from __future__ import annotations

import torch

from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.towers import tower_spec
from stages.models.text_tower import TextTower
from stages.models.videodistill import VideoDistill
from stages.models.videodistill_config import VideoDistillConfig


def network_over(
    folder: BackboneFolder,
    config: VideoDistillConfig,
    device: torch.device,
    *,
    with_captions: bool = False,
    frame_chunk: int | None = None,
) -> VideoDistill:
    """A network whose text tower is the folder's and whose other parts are drawn at random.

    Args:
        folder: In CLIPModel layout; its vision tower is not read.
        config: The options.
        device: Where to put it.
        with_captions: Build the head that only pre-training needs.
        frame_chunk: See `VideoDistill`.
    """
    spec = tower_spec(folder)
    network = VideoDistill(
        TextTower.load(folder),
        config,
        patches=spec.tokens,
        patch_width=spec.width,
        cls_width=spec.cls_width,
        with_captions=with_captions,
        frame_chunk=frame_chunk,
    )
    return network.to(device)
