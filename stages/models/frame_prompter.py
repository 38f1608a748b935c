"""The Frame-Prompter of VLAP (arXiv 2312.08367, Eq. 2; specs/vlap.md 2.1): blind to the question.

For each of K segments: mean over channels of every token of its S frames, Linear(S*N -> S),
LayerNorm(S), ReLU, Linear(S -> S), then one frame by straight-through Gumbel-softmax.

Differences from the paper, as in its code: the forward pass is hard in training too (the paper's
text replaces argmax by softmax), and evaluation without noise is our default.

Known weakness (specs/vlap.md 2.3): after a LayerNorm with equal gains the channel mean is a
constant, so the prompter sees little; with S = 2 its LayerNorm is nearly saturated, with S = 1
it is the identity with a zero gradient. `question_prompter.py` is the extension that looks.

Axes: B batch, T frames, K kept, S = T / K, N tokens a frame, C channels.
"""

from __future__ import annotations

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


class FramePrompter(nn.Module):
    """Scores the frames of a segment from their channel means; shared by all segments.

    | layer | shape | initialisation |
    |---|---|---|
    | fc1 | Linear(S*N -> S) | PyTorch default |
    | norm | LayerNorm(S), eps 1e-5 | ones, zeros |
    | fc2 | Linear(S -> S) | PyTorch default |
    """

    def __init__(self, frames: int, keep: int, tokens: int, select: SelectMode = "hard_st") -> None:
        super().__init__()
        segment = segment_size(frames, keep)
        self.frames, self.keep, self.tokens, self.segment = frames, keep, tokens, segment
        self.select = select
        self.fc1 = nn.Linear(segment * tokens, segment)
        self.norm = nn.LayerNorm(segment, eps=1e-5)
        self.fc2 = nn.Linear(segment, segment)

    def logits(self, frames: Tensor) -> Tensor:
        """Frames [B, T, N, C] after `ln_vision` -> scores [B, K, S]."""
        B, T, N, _ = frames.shape
        if (self.frames, self.tokens) != (T, N):
            raise DataError(
                f"the frame prompter was built for {self.frames} frames of {self.tokens} tokens, "
                f"not {T} of {N}"
            )
        means = frames.mean(dim=-1).reshape(B, self.keep, self.segment * N)  # (B, K, S*N)
        return self.fc2(torch.relu(self.norm(self.fc1(means))))

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
        """Choose one frame per segment; `noise` is [B, K, S] or None for the argmax.

        `question` is accepted for the common interface and ignored, as in the paper's Eq. 2.
        """
        return choose_frames(self.logits(frames), noise=noise, tau=tau, mode=self.mode)
