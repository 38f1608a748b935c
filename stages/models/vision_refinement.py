"""Vision refinement of VideoDistill (arXiv 2404.00973, 3.4; specs/videodistill.md 4).

Reads the patches of K chosen frames and the question; gives v_cls*, one vector per question that
the answer is read from. `Fusion` is what Table 4 a and d put in its place: a plain transformer
over visual tokens and words.

Chosen here:

- The gate feeds Frozen-in-Time's space-time layer as a whole, so that layer's skips start from the
  gated tokens (`skip="gate"`); `skip="input"` starts them from the block's input instead, as the
  frame-sampling block does.
- v_cls* passes a last LayerNorm, as pre-norm transformers need before a head (`final_norm`).
- `Fusion` reads the same patch tokens as the refinement would, and needs no type embedding: each
  modality enters through a projection of its own.
- v_cls* is all that the last block is asked for, so that block computes nothing else.

Axes: R rows, K frames, P patches, D width, M words.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stages.core.errors import DataError
from stages.models.attention import BlockOptions, DividedAttention, FeedForward, SelfAttention
from stages.models.la_gate import EncodedText, build_gate

Skip = Literal["gate", "input"]


class VisualTokens(nn.Module):
    """Puts v_cls* before the patches and says where each patch comes from."""

    def __init__(self, frames: int, patches: int, width: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.empty(width).normal_(std=0.02))
        self.temporal = nn.Parameter(torch.empty(frames, width).normal_(std=0.02))
        self.spatial = nn.Parameter(torch.empty(patches, width).normal_(std=0.02))

    def forward(self, patches: Tensor) -> Tensor:
        """Projected patches [R, K, P, D] -> tokens [R, 1 + K * P, D]."""
        expected = (len(self.temporal), len(self.spatial))
        if tuple(patches.shape[1:3]) != expected:
            K, P = patches.shape[1:3]
            raise DataError(f"{K} frames of {P} patches, expected {expected[0]} of {expected[1]}")
        placed = patches + self.temporal[:, None] + self.spatial
        cls = self.cls.to(placed.dtype).expand(len(patches), 1, -1)
        return torch.cat([cls, placed.flatten(1, 2)], dim=1)


class RefinementBlock(nn.Module):
    """LA-Gate on all tokens, attention over time, attention over space, MLP."""

    def __init__(self, options: BlockOptions, skip: Skip = "gate") -> None:
        super().__init__()
        self.skip = skip
        self.gate = build_gate(options)
        self.time_norm = nn.LayerNorm(options.width)
        self.time = DividedAttention(options, "time")
        self.space_norm = nn.LayerNorm(options.width)
        self.space = DividedAttention(options, "space")
        self.mlp_norm = nn.LayerNorm(options.width)
        self.mlp = FeedForward(options)

    def forward(
        self, tokens: Tensor, text: EncodedText, frames: int, *, cls_only: bool = False
    ) -> Tensor:
        """Tokens [R, 1 + K * P, D] -> the same, or v_cls* alone [R, 1, D].

        t = s + time(norm(g)); a = s + space(norm(t)); y = a + mlp(norm(a)), where g is the gated
        input and s is g or the input.
        """
        gated = self.gate(tokens, text)
        base = gated if self.skip == "gate" else tokens
        timed = self.space_norm(base + self.time(self.time_norm(gated), frames))
        if cls_only:
            spaced = base[:, :1] + self.space.cls_only(timed)
        else:
            spaced = base + self.space(timed, frames)
        return spaced + self.mlp(self.mlp_norm(spaced))


class VisionRefinement(nn.Module):
    """L refinement blocks; v_cls* of the last one."""

    def __init__(
        self,
        frames: int,
        patches: int,
        layers: int,
        options: BlockOptions,
        *,
        skip: Skip = "gate",
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.frames = frames
        self.tokens = VisualTokens(frames, patches, options.width)
        self.blocks = nn.ModuleList(RefinementBlock(options, skip) for _ in range(layers))
        self.norm = nn.LayerNorm(options.width) if final_norm else nn.Identity()

    def forward(self, patches: Tensor, text: EncodedText) -> Tensor:
        """Projected patches [R, K, P, D] and the question -> v_cls* [R, D]."""
        tokens = self.tokens(patches)
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            tokens = block(tokens, text, self.frames, cls_only=last)
        return self.norm(tokens[:, 0])


class FusionBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, options: BlockOptions) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(options.width)
        self.attention = SelfAttention(options)
        self.mlp_norm = nn.LayerNorm(options.width)
        self.mlp = FeedForward(options)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens [R, m, D], of which those with `present` [R, m] are real."""
        attended = tokens + self.attention(self.attention_norm(tokens), present)
        return attended + self.mlp(self.mlp_norm(attended))


class Fusion(nn.Module):
    """v_cls*, patches and words in one transformer (Table 4 a, d)."""

    def __init__(
        self,
        frames: int,
        patches: int,
        layers: int,
        options: BlockOptions,
        *,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        self.tokens = VisualTokens(frames, patches, options.width)
        self.blocks = nn.ModuleList(FusionBlock(options) for _ in range(layers))
        self.norm = nn.LayerNorm(options.width) if final_norm else nn.Identity()

    def forward(self, patches: Tensor, text: EncodedText) -> Tensor:
        """Projected patches [R, K, P, D] and the question -> v_cls* [R, D]."""
        visual = self.tokens(patches)
        everywhere = torch.ones(visual.shape[:2], dtype=torch.bool, device=visual.device)
        present = torch.cat([everywhere, text.mask != 0], dim=1)
        tokens = torch.cat([visual, text.words], dim=1)
        for block in self.blocks:
            tokens = block(tokens, present)
        return self.norm(tokens[:, 0])
