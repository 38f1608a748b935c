"""VideoDistill over a CLIP folder: its text tower, and the sizes of what its vision tower says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.towers import tower_spec
from stages.models.la_gate import LAGate
from stages.models.text_tower import TextTower
from stages.models.videodistill import InputProjection, VideoDistill
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
    if config.aligned_start:
        align_with_clip(network, folder)
    return network.to(device)


CLIP_SPACE = (
    "visual_projection.weight",
    "text_projection.weight",
    "vision_model.post_layernorm.weight",
    "vision_model.post_layernorm.bias",
)


@torch.no_grad()
def align_with_clip(network: VideoDistill, folder: BackboneFolder) -> None:
    """Let frames and sentences meet from the start as they do in CLIP (`aligned_start`).

    The three input projections become CLIP's own into its common space, turned at random to D and
    scaled to what random weights would give; stored patches pass CLIP's last norm on the way, which
    the frame CLS has passed. With w_k equal to w_q a gate's cosine is about CLIP's similarity.
    """
    given = folder.tensors(set(CLIP_SPACE), dtype=torch.float32, device="cpu")
    visual, textual, gain, shift = (given[name] for name in CLIP_SPACE)
    turn = nn.init.orthogonal_(torch.empty(network.config.width, len(visual)))
    _take_over(network.project_text, turn @ textual)
    _take_over(network.project_patches, turn @ visual)
    if network.project_cls is not None:
        _take_over(network.project_cls, turn @ visual)
    if isinstance(network.project_patches.norm, nn.LayerNorm):
        network.project_patches.norm.weight.copy_(gain)
        network.project_patches.norm.bias.copy_(shift)
    for part in network.modules():
        if isinstance(part, LAGate):
            part.key.weight.copy_(part.query.weight)


def _take_over(projection: InputProjection, weight: Tensor) -> None:
    """Give a projection a direction, and rows as long as PyTorch draws them (1/3 squared)."""
    size = (1 / 3 / weight.square().sum(dim=1).mean()).sqrt()
    projection.linear.weight.copy_(weight * size)
    projection.linear.bias.zero_()
