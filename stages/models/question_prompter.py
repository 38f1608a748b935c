"""A frame prompter that reads the question: an extension, not part of the VLAP paper.

The paper calls its prompter question-aware, but its Eq. 2 and its code never see the question
(specs/vlap.md 0.2). This one keeps the interface (one frame per segment, straight-through
Gumbel-softmax) and scores each frame by what the question attends to in it:

1. `heads` learned queries pool the question's word embeddings into topics.
2. Each topic attends over the frame's N tokens and collects what it finds.
3. A small MLP on topic and finding, together and multiplied, gives the frame's score.

Axes: B batch, T frames, K kept, S = T / K, N tokens, C channels, L text tokens, H heads, W width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stages.core.errors import DataError
from stages.models.selectors import (
    FrameSelection,
    QuestionText,
    SelectMode,
    choose_frames,
    segment_size,
)


class QuestionPrompter(nn.Module):
    """Scores every frame against the question; all layers keep PyTorch's default initialisation."""

    def __init__(
        self,
        frames: int,
        keep: int,
        channels: int,
        text_width: int,
        *,
        width: int = 64,
        heads: int = 4,
        select: SelectMode = "hard_st",
    ) -> None:
        super().__init__()
        self.frames, self.keep, self.segment = frames, keep, segment_size(frames, keep)
        self.width, self.heads, self.select = width, heads, select
        self.text_norm = nn.LayerNorm(text_width)
        self.text_key = nn.Linear(text_width, heads)
        self.text_value = nn.Linear(text_width, heads * width)
        self.patch_key = nn.Linear(channels, width)
        self.patch_value = nn.Linear(channels, width)
        self.mlp = nn.Sequential(
            nn.Linear(heads * width * 3, width), nn.GELU(), nn.Linear(width, 1)
        )

    def topics(self, question: QuestionText) -> Tensor:
        """Question words [B, L, D] -> topics [B, H, W]."""
        words = self.text_norm(question.embeddings)
        B, L, _ = words.shape
        scores = self.text_key(words).masked_fill(question.mask[..., None] == 0, -math.inf)
        values = self.text_value(words).reshape(B, L, self.heads, self.width)
        return torch.einsum("blh,blhw->bhw", torch.softmax(scores, dim=1), values)

    def frame_logits(self, frames: Tensor, question: QuestionText) -> Tensor:
        """Frames [B, T, N, C] and the question -> one score per frame [B, T]."""
        topics = self.topics(question)
        keys, values = self.patch_key(frames), self.patch_value(frames)  # (B, T, N, W)
        scores = torch.einsum("bhw,btnw->bthn", topics, keys) / math.sqrt(self.width)
        found = torch.einsum("bthn,btnw->bthw", torch.softmax(scores, dim=-1), values)
        asked = topics[:, None].expand_as(found)
        return self.mlp(torch.cat([found, asked, found * asked], dim=-1).flatten(2)).squeeze(-1)

    @property
    def mode(self) -> SelectMode:
        """`soft` is for training only: evaluation keeps one frame per segment in any case."""
        return self.select if self.training else "hard_st"

    def forward(
        self,
        frames: Tensor,
        *,
        noise: Tensor | None = None,
        tau: float = 1.0,
        question: QuestionText | None = None,
    ) -> FrameSelection:
        """Choose one frame per segment for this question; `noise` is [B, K, S] or None."""
        if question is None:
            raise DataError("the question prompter needs the question's embeddings")
        B, T = frames.shape[:2]
        if self.frames != T:
            raise DataError(f"the question prompter was built for {self.frames} frames, not {T}")
        logits = self.frame_logits(frames, question).reshape(B, self.keep, self.segment)
        return choose_frames(logits, noise=noise, tau=tau, mode=self.mode)
