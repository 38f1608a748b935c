"""Choosing frames from their scores: one in each of K segments, or the K best of all.

Segments are VLAP's: its prompter (`frame_prompter.py`) and ours (`question_prompter.py`) differ in
how they score frames; drawing, straight-through gradients and gathering live here, with the two
selectors that score nothing (`UniformMid`, `RandomSegment`). The K best frames are SeViLA's
(`stable_top_k`), with a rule for ties, which scores in bfloat16 make common.

Axes: B batch, T frames, K kept, S = T / K frames a segment, N tokens, C channels, L text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stages.core.errors import ConfigError

SelectMode = Literal["hard_st", "soft"]
GUMBEL_EPS = 1e-10


@dataclass(frozen=True)
class QuestionText:
    """The question as a prompter sees it: word embeddings [B, L, D] and their mask [B, L]."""

    embeddings: Tensor
    mask: Tensor


@dataclass(frozen=True)
class FrameSelection:
    """Which frames were kept and how the choice passes gradients on.

    Attributes:
        logits: scores of the frames inside their segment, [B, K, S], without noise.
        soft: softmax((logits + noise) / tau) over S, [B, K, S].
        mask: one-hot per segment with the gradient of `soft` (or `soft` itself), [B, T].
        indices: absolute index of the kept frame of each segment, ascending, [B, K].
        mode: `hard_st` gathers whole frames; `soft` averages each segment's frames.
    """

    logits: Tensor
    soft: Tensor
    mask: Tensor
    indices: Tensor
    mode: SelectMode = "hard_st"

    @property
    def frame_scores(self) -> Tensor:
        """Noise-free probability of each frame inside its segment, [B, T]."""
        return torch.softmax(self.logits.float(), dim=-1).flatten(1)

    def gather(self, frames: Tensor) -> Tensor:
        """Frames [B, T, ...] -> kept frames [B, K, ...], in time order.

        Hard: the chosen frames times their mask entry, which is 1 and carries the gradient.
        """
        B, K, S = self.soft.shape
        if self.mode == "soft":
            segments = frames.reshape(B, K, S, *frames.shape[2:])
            weights = self.soft.reshape(B, K, S, *[1] * (frames.ndim - 2))
            return (segments * weights.to(frames.dtype)).sum(dim=2)
        rows = torch.arange(B, device=frames.device)[:, None]
        weight = self.mask.gather(1, self.indices)
        return frames[rows, self.indices] * weight.reshape(B, K, *[1] * (frames.ndim - 2)).to(
            frames.dtype
        )


@dataclass(frozen=True)
class TopK:
    """The K best of T frames.

    Attributes:
        indices: kept frames in time order, int64 [B, K].
        by_score: the same frames, best first.
        values: their scores, best first, [B, K].
        ties: how many frames that were not kept have the K-th best score, int64 [B]; 0 where the
            choice does not depend on the rule for ties.
    """

    indices: Tensor
    by_score: Tensor
    values: Tensor
    ties: Tensor


def stable_top_k(scores: Tensor, keep: int) -> TopK:
    """The `keep` largest of scores [B, T]; of equal ones the earlier frame first.

    The reference's order of ties is that of `torch.topk` on a GPU, which is unspecified
    (specs/sevila.md 8, #3). A score that is not a number counts as the smallest.

    Raises:
        ConfigError: More frames are kept than there are.
    """
    if not 1 <= keep <= scores.shape[1]:
        raise ConfigError(f"cannot keep {keep} of {scores.shape[1]} frames")
    known = torch.where(scores.isnan(), -torch.inf, scores)
    order = known.sort(dim=1, descending=True, stable=True)
    by_score, values = order.indices[:, :keep], order.values[:, :keep]
    equal = (known == values[:, -1:]).sum(dim=1) - (values == values[:, -1:]).sum(dim=1)
    return TopK(by_score.sort(dim=1).values, by_score, values, equal)


def first_argmax(values: Tensor) -> Tensor:
    """Index of the largest of values [..., V]; the lowest one on a tie, on every device."""
    best = values == values.amax(dim=-1, keepdim=True)
    places = torch.arange(values.shape[-1], device=values.device)
    return torch.where(best, places, values.shape[-1] - 1).amin(dim=-1)


def segment_size(frames: int, keep: int) -> int:
    """S = T / K, or `ConfigError` when K does not divide T."""
    if keep < 1 or frames < 1 or frames % keep:
        raise ConfigError(
            f"cannot keep {keep} of {frames} frames: {keep} must divide {frames}",
            "one frame is kept in each of `keep` equal segments",
        )
    return frames // keep


def gumbel_noise(
    shape: tuple[int, ...],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Gumbel noise -log(eps - log(u + eps)), u ~ U(0, 1), eps = 1e-10 (specs/vlap.md 2.1)."""
    uniform = torch.rand(shape, generator=generator, device=device)
    return -torch.log(GUMBEL_EPS - torch.log(uniform + GUMBEL_EPS))


def choose_frames(
    logits: Tensor, *, noise: Tensor | None, tau: float, mode: SelectMode = "hard_st"
) -> FrameSelection:
    """One frame per segment by (straight-through) Gumbel-softmax over S (specs/vlap.md 2.1, 4-5).

    y = softmax((logits + noise) / tau); the mask is stopgrad(onehot(argmax y) - y) + y, so its
    value is hard and its gradient is the soft one's. `noise=None` is the deterministic argmax.
    """
    B, K, S = logits.shape
    noisy = logits if noise is None else logits + noise
    soft = torch.softmax(noisy / tau, dim=-1)
    within = noisy.argmax(dim=-1)  # (B, K); of the noisy scores: y ties when tau saturates it
    if mode == "soft":
        mask = soft
    else:
        hard = torch.zeros_like(soft).scatter_(-1, within[..., None], 1.0)
        mask = (hard - soft).detach() + soft
        # (0 - y) + y is exactly zero, so frames that were not chosen weigh nothing at all.
    start = torch.arange(K, device=logits.device) * S
    return FrameSelection(logits, soft, mask.reshape(B, K * S), start + within, mode)


class UniformMid(nn.Module):
    """The frame in the middle of each segment, whatever is in it."""

    def __init__(self, frames: int, keep: int) -> None:
        super().__init__()
        self.keep = keep
        self.segment = segment_size(frames, keep)

    def forward(
        self,
        frames: Tensor,
        *,
        noise: Tensor | None = None,
        tau: float = 1.0,
        question: QuestionText | None = None,
    ) -> FrameSelection:
        """Frames [B, T, N, C] -> index S // 2 of each segment; noise and question are ignored."""
        return fixed_selection(frames, self.keep, self.segment)


class RandomSegment(nn.Module):
    """A random frame of each segment in training, the middle one in evaluation.

    The reference's "without prompter" twin and the K-frame start. Equal Gumbel noise on equal
    scores is a uniform draw; without noise the choice is the midpoint.
    """

    def __init__(self, frames: int, keep: int) -> None:
        super().__init__()
        self.keep = keep
        self.segment = segment_size(frames, keep)

    def forward(
        self,
        frames: Tensor,
        *,
        noise: Tensor | None = None,
        tau: float = 1.0,
        question: QuestionText | None = None,
    ) -> FrameSelection:
        """Frames [B, T, N, C], noise [B, K, S] or None."""
        if noise is None:
            return fixed_selection(frames, self.keep, self.segment)
        logits = torch.zeros_like(noise)
        return choose_frames(logits, noise=noise, tau=1.0)


def fixed_selection(frames: Tensor, keep: int, segment: int) -> FrameSelection:
    """The selection that keeps frame S // 2 of each segment for every row of the batch."""
    shape = (frames.shape[0], keep, segment)
    logits = torch.zeros(shape, device=frames.device)
    middle = torch.zeros_like(logits)
    middle[..., segment // 2] = 1.0
    indices = torch.arange(keep, device=frames.device) * segment + segment // 2
    return FrameSelection(
        logits, middle, middle.flatten(1), indices.expand(frames.shape[0], keep).clone()
    )


def indices_selection(indices: Tensor, frames: int) -> FrameSelection:
    """A selection of given frames [B, K] of T (an oracle's, another model's), without scores."""
    B, K = indices.shape
    mask = torch.zeros(B, frames, device=indices.device).scatter_(1, indices, 1.0)
    empty = torch.zeros(B, K, segment_size(frames, K), device=indices.device)
    return FrameSelection(empty, empty, mask, indices)
