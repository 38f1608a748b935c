"""Differentiable sparse sampling of VideoDistill (arXiv 2404.00973, Eq. 4-6).

Reads the table of frame CLS tokens and the question; gives K slots, each of which holds one of N
frames, drawn by straight-through Gumbel-softmax (specs/videodistill.md 3). **Slots do not know of
each other: the same frame may be chosen more than once**, and slots are in no order of time
unless they are sorted.

Chosen here: the layer of scores has no bias, because softmax over the frames would cancel it;
nothing normalises the last block's output before it.

Axes: R rows (questions), V videos, N frames, K slots, P patches, C their width, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.core.errors import DataError
from stages.core.midpoints import subset_midpoints
from stages.models.attention import BlockOptions, FeedForward, SelfAttention
from stages.models.la_gate import EncodedText, build_gate

SamplingMode = Literal["hard", "soft"]


@dataclass(frozen=True)
class FrameSlots:
    """Which frames fill the slots and how the choice passes gradients on.

    Attributes:
        indices: the frame in each slot, [R, K]; of `soft` slots the heaviest.
        mask: weight of each frame in each slot, [R, K, N]; one-hot rows unless soft.
        logits: scores without noise, [R, K, N]; None if nothing scored the frames.
        mode: whether a slot holds one frame or a weighted sum of all.
    """

    indices: Tensor
    mask: Tensor
    logits: Tensor | None = None
    mode: SamplingMode = "hard"

    @property
    def frame_scores(self) -> Tensor | None:
        """Noise-free probability of each frame, averaged over the slots, [R, N]."""
        if self.logits is None:
            return None
        return torch.softmax(self.logits, dim=-1).mean(dim=1)

    def gather(
        self, patches: Tensor, *, videos: Tensor | None = None, chunk: int | None = None
    ) -> Tensor:
        """mask @ patches: [V, N, P, C] -> [R, K, P, C].

        Args:
            patches: features of all frames, in any precision.
            videos: int [R], the video of each row; None: row i goes with video i.
            chunk: frames that are converted to the mask's precision at a time; None: all. What
                comes out is the same.
        """
        self._check(patches, videos)
        if self.mode == "hard" and not (torch.is_grad_enabled() and self.mask.requires_grad):
            return _look_up(patches, videos, self.indices)
        chosen = self.indices if self.mode == "hard" else None
        step = chunk or patches.shape[1]
        return _MaskedFrames.apply(self.mask, patches, chosen, videos, step)  # type: ignore[no-untyped-call]

    def sorted_by_time(self) -> FrameSlots:
        """The same slots, the earliest frame first."""
        indices, order = torch.sort(self.indices, dim=1, stable=True)
        rows = order[..., None].expand_as(self.mask)
        logits = None if self.logits is None else self.logits.gather(1, rows)
        return FrameSlots(indices, self.mask.gather(1, rows), logits, self.mode)

    def _check(self, patches: Tensor, videos: Tensor | None) -> None:
        frames, rows = self.mask.shape[2], self.mask.shape[0]
        if patches.ndim != 4 or patches.shape[1] != frames:
            raise DataError(f"patches of shape {tuple(patches.shape)}, expected {frames} frames")
        if videos is None and len(patches) != rows:
            raise DataError(f"{rows} questions, but {len(patches)} videos and no map between them")


class _MaskedFrames(torch.autograd.Function):
    """mask @ patches without a second copy of all patches.

    Where rows of the mask are one-hot the product is a look-up. Backward is that of the product:
    every frame's weight gets <dL/d slot, frame>, converted `chunk` frames at a time, so that
    half-precision features of all frames are never held in single precision.
    """

    @staticmethod
    def forward(
        ctx: Any,
        mask: Tensor,
        patches: Tensor,
        chosen: Tensor | None,
        videos: Tensor | None,
        chunk: int,
    ) -> Tensor:
        ctx.save_for_backward(mask, patches, videos)
        ctx.chunk = chunk
        if chosen is not None:
            return _look_up(patches, videos, chosen).to(mask.dtype)
        R, K, N = mask.shape
        total = mask.new_zeros(R, K, patches.shape[2] * patches.shape[3])
        for low in range(0, N, chunk):
            total += mask[:, :, low : low + chunk] @ _chunk(patches, videos, low, chunk, mask.dtype)
        return total.reshape(R, K, *patches.shape[2:])

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        mask, patches, videos = ctx.saved_tensors
        slots = gradients[0].flatten(2)  # (R, K, P * C)
        for_mask = for_patches = None
        if ctx.needs_input_grad[0]:
            for_mask = torch.empty_like(mask)
            for low in range(0, mask.shape[2], ctx.chunk):
                seen = _chunk(patches, videos, low, ctx.chunk, slots.dtype)
                for_mask[:, :, low : low + ctx.chunk] = slots @ seen.transpose(1, 2)
        if ctx.needs_input_grad[1]:
            R, _, N = mask.shape
            by_row = (mask.transpose(1, 2) @ slots).reshape(R, N, *patches.shape[2:])
            owners = _owners(videos, mask)
            for_patches = torch.zeros_like(patches).index_add_(0, owners, by_row.to(patches.dtype))
        return for_mask, for_patches, None, None, None


def _owners(videos: Tensor | None, rows: Tensor) -> Tensor:
    """The video of each row; row i has video i unless `videos` says otherwise."""
    return torch.arange(len(rows), device=rows.device) if videos is None else videos


def _look_up(patches: Tensor, videos: Tensor | None, indices: Tensor) -> Tensor:
    """The frames [R, K, P, C] at `indices` [R, K] of each row's video."""
    return patches[_owners(videos, indices)[:, None], indices]


def _chunk(
    patches: Tensor, videos: Tensor | None, low: int, chunk: int, dtype: torch.dtype
) -> Tensor:
    """Frames low to low + chunk of each row's video, [R, chunk, P * C]."""
    frames = patches[:, low : low + chunk]
    return (frames if videos is None else frames[videos]).flatten(2).to(dtype)


class FrameSamplingBlock(nn.Module):
    """g = gate(x); a = x + attention over frames(norm(g)); y = a + mlp(norm(a)).

    The gate brings its own norm and skip; the attention's skip starts from the block's input, as
    in the divided block of Frozen-in-Time.
    """

    def __init__(self, options: BlockOptions) -> None:
        super().__init__()
        self.gate = build_gate(options)
        self.attention_norm = nn.LayerNorm(options.width)
        self.attention = SelfAttention(options)
        self.mlp_norm = nn.LayerNorm(options.width)
        self.mlp = FeedForward(options)

    def forward(self, frames: Tensor, text: EncodedText) -> Tensor:
        """Frames [R, N, D] -> [R, N, D]."""
        attended = frames + self.attention(self.attention_norm(self.gate(frames, text)))
        return attended + self.mlp(self.mlp_norm(attended))


class SparseSampler(nn.Module):
    """L frame-sampling blocks and K scores per frame."""

    def __init__(
        self,
        frames: int,
        keep: int,
        layers: int,
        options: BlockOptions,
        *,
        mode: SamplingMode = "hard",
        sort: bool = False,
    ) -> None:
        """
        Args:
            frames: rows of the temporal table; fewer frames may be given, more may not.
            keep: K.
            layers: L.
            options: sizes of the blocks.
            mode: `soft` is Table 4 c: weighted sums of frames, in evaluation too.
            sort: order the slots by time.
        """
        super().__init__()
        self.keep, self.mode, self.sort = keep, mode, sort
        self.temporal = nn.Parameter(torch.empty(frames, options.width).normal_(std=0.02))
        self.blocks = nn.ModuleList(FrameSamplingBlock(options) for _ in range(layers))
        self.scores = nn.Linear(options.width, keep, bias=False)

    def logits(self, frames: Tensor, text: EncodedText) -> Tensor:
        """Projected frame CLS [R, N, D] and the question -> scores [R, K, N]."""
        N = frames.shape[1]
        if len(self.temporal) < N:
            raise DataError(f"the sampler knows {len(self.temporal)} frame positions, not {N}")
        tokens = frames + self.temporal[:N]
        for block in self.blocks:
            tokens = block(tokens, text)
        return self.scores(tokens).transpose(1, 2)

    def forward(
        self, frames: Tensor, text: EncodedText, *, noise: Tensor | None = None, tau: float = 1.0
    ) -> FrameSlots:
        """Fill K slots; `noise` is Gumbel noise [R, K, N] or None for the best frames."""
        logits = self.logits(frames, text)
        slots = choose_slots(logits, noise=noise, tau=tau, mode=self.mode)
        return slots.sorted_by_time() if self.sort else slots


def choose_slots(
    logits: Tensor, *, noise: Tensor | None, tau: float, mode: SamplingMode = "hard"
) -> FrameSlots:
    """One frame per slot by straight-through Gumbel-softmax over all N frames (Eq. 4-6).

    y = softmax((logits + noise) / tau); the mask is onehot(argmax y) + y - stopgrad(y), so its
    value is exactly one-hot and its gradient is that of y. `soft`: the mask is y.
    """
    noisy = logits if noise is None else logits + noise
    soft = torch.softmax(noisy / tau, dim=-1)
    indices = noisy.argmax(dim=-1)  # of the scores: y ties where tau saturates it
    if mode == "soft":
        return FrameSlots(indices, soft, logits, mode)
    hard = torch.zeros_like(soft).scatter_(-1, indices[..., None], 1.0)
    # y - stopgrad(y) is exactly zero; (onehot + y) - y would not be exactly one-hot.
    return FrameSlots(indices, hard + (soft - soft.detach()), logits, mode)


def fixed_slots(indices: Tensor, frames: int) -> FrameSlots:
    """Slots that hold given frames [R, K] of N = `frames` (an oracle's, another model's)."""
    mask = torch.zeros(*indices.shape, frames, device=indices.device)
    return FrameSlots(indices, mask.scatter_(-1, indices[..., None], 1.0))


def uniform_slots(rows: int, frames: int, keep: int, device: torch.device) -> FrameSlots:
    """The middle frame of each of K equal segments, for every row (Table 4 b)."""
    indices = torch.as_tensor(subset_midpoints(frames, keep), device=device)
    return fixed_slots(indices.expand(rows, -1), frames)
