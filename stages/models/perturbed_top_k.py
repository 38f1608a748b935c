"""Differentiable top-K by perturbation (arXiv 2104.03059, on arXiv 2002.08676), as a selector.

The K largest of noisy scores s + sigma * Z, averaged over many draws of Z ~ N(0, 1), are a smooth
function of s whose gradient needs no derivative of the choice itself:

    Y(s) = E[top_k(s + sigma Z)]        dY / ds = E[top_k(s + sigma Z) Z^T] / sigma

As sigma goes to 0, Y goes to the plain choice, one-hot rows in time order.

Axes: B batch, T frames, K kept, M draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.errors import ConfigError
from stages.models.frame_scorer import FrameScorer
from stages.models.selectors import QuestionText, TopK, stable_top_k


@dataclass(frozen=True)
class TopKSelection:
    """K frames of T, softly in training.

    Attributes:
        scores: of the frames, [B, T].
        indicators: rows that sum to 1, row k about the k-th kept frame in time, [B, K, T].
        indices: the plain choice in time order, int64 [B, K].
    """

    scores: Tensor
    indicators: Tensor
    indices: Tensor

    def gather(self, frames: Tensor) -> Tensor:
        """Frames [B, T, ...] -> their averages by the indicators [B, K, ...]."""
        return torch.einsum("bkt,bt...->bk...", self.indicators.to(frames.dtype), frames)


class DifferentiableTopK(nn.Module):
    """A `FrameScorer` whose K best frames are chosen softly in training, plainly in evaluation.

    Scores are scaled to [0, 1] within each question first, so that sigma has one meaning.
    """

    def __init__(
        self, scorer: FrameScorer, keep: int, *, sigma: float = 0.05, draws: int = 500
    ) -> None:
        super().__init__()
        if keep < 1 or draws < 1 or sigma <= 0:
            raise ConfigError(f"keep {keep}, draws {draws} and sigma {sigma} must be positive")
        self.scorer, self.keep, self.sigma, self.draws = scorer, keep, sigma, draws

    def forward(
        self,
        frames: Tensor,
        *,
        noise: Tensor | None = None,
        question: QuestionText | None = None,
    ) -> TopKSelection:
        """Frames [B, T, N, C]; `noise` is standard normal [B, M, T], drawn here if None."""
        scores = self.scorer(frames, question)
        chosen = stable_top_k(scores.detach(), self.keep).indices
        if not self.training:
            hard = F.one_hot(chosen, scores.shape[1]).to(scores.dtype)
            return TopKSelection(scores, hard, chosen)
        if noise is None:
            noise = normal_noise(len(scores), self.draws, scores.shape[1]).to(scores.device)
        soft = perturbed_top_k(unit_range(scores), self.keep, noise, self.sigma)
        return TopKSelection(scores, soft, chosen)

    def select(self, frames: Tensor, keep: int, question: QuestionText | None = None) -> TopK:
        """The `keep` frames of the highest scores, in time order (evaluation)."""
        return stable_top_k(self.scorer(frames, question), keep)


def perturbed_top_k(scores: Tensor, keep: int, noise: Tensor, sigma: float) -> Tensor:
    """Mean over draws of the one-hot top-K of scores + sigma * noise, rows in time order.

    Args:
        scores: [B, T].
        keep: K.
        noise: standard normal [B, M, T].
        sigma: how much the scores are perturbed; also the scale of the gradient.

    Returns:
        [B, K, T], differentiable in `scores`.
    """
    if not 1 <= keep <= scores.shape[1]:
        raise ConfigError(f"cannot keep {keep} of {scores.shape[1]} frames")
    return _PerturbedTopK.apply(scores, keep, noise, sigma)  # type: ignore[no-untyped-call]


def normal_noise(
    batch: int, draws: int, frames: int, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normal [B, M, T], drawn on the CPU (the same on all devices)."""
    return torch.randn(batch, draws, frames, generator=generator)


def unit_range(scores: Tensor) -> Tensor:
    """Scores [B, T] moved and scaled to [0, 1] within each row; equal ones become 0."""
    low, high = scores.amin(dim=1, keepdim=True), scores.amax(dim=1, keepdim=True)
    return (scores - low) / (high - low).clamp(min=torch.finfo(scores.dtype).eps)


class _PerturbedTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep: int, noise: Tensor, sigma: float) -> Tensor:
        noisy = scores[:, None] + sigma * noise  # (B, M, T)
        chosen = noisy.topk(keep, dim=-1).indices.sort(dim=-1).values  # (B, M, K), in time order
        ctx.save_for_backward(chosen, noise)
        ctx.sigma = sigma
        indicators = scores.new_zeros(len(scores), keep, scores.shape[1])
        share = scores.new_full((), 1 / noise.shape[1]).expand(chosen.transpose(1, 2).shape)
        return indicators.scatter_add(2, chosen.transpose(1, 2), share)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        chosen, noise = ctx.saved_tensors
        # What each draw's choice is worth to the loss: sum over k of gradient[k, chosen[k]].
        worth = gradient.gather(2, chosen.transpose(1, 2)).sum(dim=1)  # (B, M)
        slope = torch.einsum("bm,bmt->bt", worth, noise) / (noise.shape[1] * ctx.sigma)
        return slope, None, None, None
