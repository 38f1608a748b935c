"""Attention and feed-forward layers of VideoDistill's blocks; pre-norm, without their own skips.

Frozen-in-Time's divided space-time attention (arXiv 2104.00650) is here because both its axes are
plain attention over groups of tokens (specs/videodistill.md 4).

Initialisation is PyTorch's default for linear layers (a standard deviation of about 0.02 at width
1024, and one that still learns at width 64); the original starts its time attention at zero.

Axes: B batch, m tokens, D width, H heads, d = D / H, K frames, P patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.errors import ConfigError

Activation = Literal["gelu", "relu"]
GateKind = Literal["gate", "cross_attention"]


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of one network share."""

    width: int
    heads: int
    gate: GateKind = "gate"
    gate_norm: bool = True
    mlp_ratio: int = 4
    activation: Activation = "gelu"
    dropout: float = 0.0


class FeedForward(nn.Module):
    """Linear(D -> ratio * D), activation, Linear back."""

    def __init__(self, options: BlockOptions) -> None:
        super().__init__()
        inner = options.width * options.mlp_ratio
        self.expand = nn.Linear(options.width, inner)
        self.activation = nn.GELU() if options.activation == "gelu" else nn.ReLU()
        self.contract = nn.Linear(inner, options.width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.dropout(self.contract(self.dropout(self.activation(self.expand(tokens)))))


class AttentionProjections(nn.Module):
    """Queries, keys and values of every token, and the way back from heads to width D."""

    def __init__(self, options: BlockOptions) -> None:
        super().__init__()
        self.heads = check_heads(options.width, options.heads)
        self.qkv = nn.Linear(options.width, 3 * options.width)
        self.output = nn.Linear(options.width, options.width)
        self.dropout = nn.Dropout(options.dropout)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, m, D] -> query, key, value [B, H, m, d]."""
        B, m, D = tokens.shape
        parts = self.qkv(tokens).reshape(B, m, 3, self.heads, D // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value

    def join(self, heads: Tensor) -> Tensor:
        """Heads [B, H, m, d] -> [B, m, D] through the output layer."""
        return self.dropout(self.output(heads.transpose(1, 2).flatten(2)))


class SelfAttention(AttentionProjections):
    """Standard multi-head attention among all tokens."""

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Tokens [B, m, D]; nobody looks at tokens whose `present` [B, m] is 0."""
        mask = None if present is None else (present != 0)[:, None, None, :]
        query, key, value = self.split(tokens)
        return self.join(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


class DividedAttention(AttentionProjections):
    """Attention of a video's patches along one axis; the first token (CLS) sees everything.

    `time`: a patch sees the same patch of all frames and CLS. `space`: the patches of its own
    frame and CLS.
    """

    def __init__(self, options: BlockOptions, axis: Literal["time", "space"]) -> None:
        super().__init__(options)
        self.axis = axis

    def forward(self, tokens: Tensor, frames: int) -> Tensor:
        """Tokens [B, 1 + K * P, D], frame by frame after CLS, K = `frames`."""
        query, key, value = self.split(tokens)
        cls = F.scaled_dot_product_attention(query[:, :, :1], key, value)
        B, H, _, d = query.shape
        groups = [self._group(part[:, :, 1:], frames) for part in (query, key, value)]
        each = groups[0].shape[1]
        keys, values = (
            torch.cat([part[:, None, :, :1].expand(B, each, H, 1, d), group], dim=3).flatten(0, 1)
            for part, group in zip((key, value), groups[1:], strict=True)
        )
        patches = F.scaled_dot_product_attention(groups[0].flatten(0, 1), keys, values)
        return self.join(torch.cat([cls, self._ungroup(patches, B)], dim=2))

    def cls_only(self, tokens: Tensor) -> Tensor:
        """What `forward` gives for CLS, [B, 1, D], without computing it for the patches."""
        query, key, value = self.split(tokens)
        return self.join(F.scaled_dot_product_attention(query[:, :, :1], key, value))

    def _group(self, patches: Tensor, frames: int) -> Tensor:
        """[B, H, K * P, d] -> [B, groups, H, tokens of a group, d]."""
        B, H, _, d = patches.shape
        grid = patches.reshape(B, H, frames, -1, d)  # (B, H, K, P, d)
        order = (0, 3, 1, 2, 4) if self.axis == "time" else (0, 2, 1, 3, 4)
        return grid.permute(*order)

    def _ungroup(self, patches: Tensor, batch: int) -> Tensor:
        """[B * groups, H, tokens of a group, d] -> [B, H, K * P, d]."""
        grid = patches.reshape(batch, -1, *patches.shape[1:])
        order = (0, 2, 3, 1, 4) if self.axis == "time" else (0, 2, 1, 3, 4)
        return grid.permute(*order).flatten(2, 3)


def check_heads(width: int, heads: int) -> int:
    """`heads`, or `ConfigError` when they do not divide the width."""
    if heads < 1 or width % heads:
        raise ConfigError(f"{heads} heads do not divide a width of {width}")
    return heads
