"""A start for VideoDistill's sampler: what CLIP itself thinks of frames and sentences.

Hard sampling learns from a refinement that cannot read yet, and a small training may settle on
frames without content or take long to leave them ("easily trapped in local minimums", arXiv
2404.00973, appendix E, of deep networks). The paper's sampler has seen eleven million captions by
then. A small training can begin here instead: for some steps the sampler alone learns to hold the
frames that are most like the sentence by CLIP's own similarity. No label is used, and the text
tower stays as it is. **Not in the paper**; off unless asked for.

Axes: V clips, R rows, N frames, K slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import Config
from stages.core.runtime import Progress
from stages.models.backbones.clip import ClipMatcher, TextIds, clip_similarity
from stages.models.backbones.folder import BackboneFolder
from stages.models.text_tower import TokenIds
from stages.models.videodistill import VideoDistill


class SamplerStartConfig(Config):
    """How the sampler learns from CLIP before the training."""

    steps: int = Field(default=0, ge=0)
    """Steps in which it does; 0: none, as in the paper."""
    batch_size: int = Field(default=48, ge=1)
    """Questions of a step."""
    lr: float = Field(default=2e-3, gt=0)
    """Learning rate."""
    temperature: float = Field(default=0.05, gt=0)
    """Of the softmax over the frames' similarities that every slot learns."""


@dataclass(frozen=True)
class FrameTable:
    """Frame CLS [V, N, C] as stored, R sentences, and the clip of each (none: row i has clip i)."""

    cls: Tensor
    tokens: TokenIds
    videos: Tensor | None


class FrameTables(Protocol):
    """Questions as tables of frames."""

    def __len__(self) -> int:
        """Number of questions."""
        ...

    def table(self, indices: Sequence[int]) -> FrameTable:
        """Frames and sentences of these questions."""
        ...


def start_sampler(
    network: VideoDistill,
    folder: BackboneFolder,
    data: FrameTables,
    config: SamplerStartConfig,
    seed: int,
    progress: Progress,
) -> None:
    """Teach the sampler CLIP's ranking of frames; equal arguments give equal weights.

    Args:
        network: Its sampler and the projection of the frame CLS are trained in place.
        folder: CLIP's, for its text tower and projections.
        data: Training questions.
        config: How.
        seed: Of the order of the questions.
        progress: Told after every step.
    """
    if network.sampler is None or network.project_cls is None or not config.steps:
        return
    matcher = ClipMatcher.load(folder, network.device)
    learning = [*network.sampler.parameters(), *network.project_cls.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=config.lr)
    generator = np.random.Generator(np.random.PCG64([seed, len(data)]))
    size = min(config.batch_size, len(data))
    for step in range(config.steps):
        table = data.table(generator.choice(len(data), size, replace=False).tolist())
        loss = _slot_loss(network, matcher, table, config.temperature)
        for parameter, gradient in zip(learning, torch.autograd.grad(loss, learning), strict=True):
            parameter.grad = gradient
        optimizer.step()
        progress(step + 1, config.steps, "sampler's first steps")
    for parameter in learning:
        parameter.grad = None


def _slot_loss(
    network: VideoDistill, matcher: ClipMatcher, table: FrameTable, temperature: float
) -> Tensor:
    """Cross-entropy of every slot with the softmax of CLIP's similarities."""
    assert network.sampler is not None
    assert network.project_cls is not None
    device = network.device
    cls, tokens = table.cls.to(device).float(), table.tokens.to(device)
    rows = torch.arange(len(tokens), device=device)
    videos = rows if table.videos is None else table.videos.to(device)
    with torch.no_grad():
        text = network.encode_text(tokens)
        sentence = matcher.text.project(matcher.text(TextIds(tokens.ids, tokens.mask)).sentence)
        alike = clip_similarity(matcher.project_cls(cls)[videos], sentence[:, None])
        wanted = torch.softmax(alike / temperature, dim=-1)  # (R, N)
    logits = network.sampler.logits(network.project_cls(cls)[videos], text)  # (R, K, N)
    return -(wanted[:, None] * torch.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
