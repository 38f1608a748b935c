"""A small transformer that gives each frame a score; what ATP and differentiable top-K learn.

Frames enter as the mean of their tokens and without a position, so that the order of frames does
not matter (as in ATP, arXiv 2206.01720); the question may enter as one token more.

Axes: B batch, T frames, N tokens a frame, C channels, L text tokens, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.core.errors import DataError
from stages.models.selectors import QuestionText


class FrameScorer(nn.Module):
    """Transformer encoder over [question] frame 1 ... frame T, then a linear score per frame.

    Args:
        channels: C of the frames' tokens (stored features, or a side's tokens).
        text_width: width of the question's word embeddings; None: the question is not seen.
        width, layers, heads, dropout: of the encoder (pre-norm, GELU, feed-forward 4 W).
    """

    def __init__(
        self,
        channels: int,
        text_width: int | None = None,
        *,
        width: int = 256,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.frame_norm = nn.LayerNorm(channels)
        self.frame_projection = nn.Linear(channels, width)
        self.text_projection = None if text_width is None else nn.Linear(text_width, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)

    def forward(self, frames: Tensor, question: QuestionText | None = None) -> Tensor:
        """Frames [B, T, N, C] (and the question) -> scores [B, T]."""
        T = frames.shape[1]
        tokens = self.frame_projection(self.frame_norm(frames.mean(dim=2)))  # (B, T, W)
        if self.text_projection is not None:
            if question is None:
                raise DataError("this frame scorer needs the question's embeddings")
            asked = self.text_projection(mean_words(question))
            tokens = torch.cat([tokens, asked[:, None]], dim=1)
        encoded = self.norm(self.encoder(tokens)[:, :T])
        return self.score(encoded).squeeze(-1)


def mean_words(question: QuestionText) -> Tensor:
    """Mean word embedding of each question, padding not counted: [B, L, D] -> [B, D]."""
    weights = question.mask[..., None].to(question.embeddings)
    return (question.embeddings * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
