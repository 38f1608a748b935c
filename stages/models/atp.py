"""ATP, the atemporal probe (arXiv 2206.01720), as a keyframe selector (SeViLA, Table 6).

A small transformer scores the frames without knowing their order; one is drawn by Gumbel-softmax,
hard in the forward pass and soft in the gradient. It is trained with the loss of a frozen answerer
on that one frame. For K > 1 keyframes in evaluation, SeViLA's table takes the K best scores.

Axes: B batch, T frames, N tokens a frame, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn

from stages.models.frame_scorer import FrameScorer
from stages.models.selectors import (
    FrameSelection,
    QuestionText,
    TopK,
    choose_frames,
    stable_top_k,
)


class Atp(nn.Module):
    """One frame of all, chosen by a `FrameScorer`."""

    def __init__(self, scorer: FrameScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(
        self,
        frames: Tensor,
        *,
        noise: Tensor | None = None,
        tau: float = 1.0,
        question: QuestionText | None = None,
    ) -> FrameSelection:
        """Frames [B, T, N, C] -> one of them; `noise` is [B, 1, T] or None for the best."""
        logits = self.scorer(frames, question)[:, None]  # (B, K = 1, S = T)
        return choose_frames(logits, noise=noise, tau=tau)

    def select(self, frames: Tensor, keep: int, question: QuestionText | None = None) -> TopK:
        """The `keep` frames of the highest scores, in time order (evaluation)."""
        return stable_top_k(self.scorer(frames, question), keep)
