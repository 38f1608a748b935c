"""The language-aware gate of VideoDistill (arXiv 2404.00973, Eq. 1-3; specs/videodistill.md 2).

Each visual token is scaled, head by head, by how similar it is to the sentence: no softmax, no
mixing between tokens and no text in the values, so that an output row depends on its own input
row and on the sentence alone. `CrossAttentionGate` is the layer it replaces (Table 4 e).

Chosen here, where the paper is silent:

- The visual tokens are normalised before the projections (`gate_norm`), as in the divided block.
- No projection has a bias. With one in w_k or w_o the sentence's length would matter and an
  all-zero sentence would not leave the tokens as they are; the norm before w_q and w_v has a
  bias already.
- The cosine divides by lengths of at least 1e-8, so that a zero vector gives 0; it is taken in
  float32 at least.

Axes: B batch, m visual tokens, D width, H heads, d = D / H, L sentences, M words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.models.attention import BlockOptions, check_heads

COSINE_EPS = 1e-8


@dataclass(frozen=True)
class EncodedText:
    """A batch of sentences as the gates see them.

    Attributes:
        sentence: t_cls, [B, D].
        words: t_word, [B, M, D].
        mask: 1 for words, 0 for padding, [B, M].
    """

    sentence: Tensor
    words: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.sentence.shape[0]

    def rows(self, index: Tensor) -> EncodedText:
        """The sentences at `index` (which may repeat): one encoding serves many videos."""
        return EncodedText(self.sentence[index], self.words[index], self.mask[index])

    def to_dtype(self, dtype: torch.dtype) -> EncodedText:
        """The same sentences in another precision."""
        return EncodedText(self.sentence.to(dtype), self.words.to(dtype), self.mask)


class LAGate(nn.Module):
    """v + w_o(concat over heads of cos(w_q v_i, w_k t) * w_v v_i)."""

    def __init__(self, options: BlockOptions) -> None:
        super().__init__()
        width = options.width
        self.heads = check_heads(width, options.heads)
        self.norm = nn.LayerNorm(width) if options.gate_norm else nn.Identity()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, visual: Tensor, text: EncodedText) -> Tensor:
        """Visual tokens [B, m, D] -> [B, m, D], skip connection included."""
        return self.distil(visual, text.sentence)

    def distil(self, visual: Tensor, sentences: Tensor) -> Tensor:
        """The same for one sentence [B, D] or several [B, L, D], whose similarities add up."""
        normed = self.norm(visual)
        importance = self._importance(normed, sentences)  # (B, m, H)
        values = _by_head(self.value(normed), self.heads)
        gated = (importance[..., None].to(values.dtype) * values).flatten(2)
        return visual + self.dropout(self.output(gated))

    def importance(self, visual: Tensor, text: EncodedText) -> Tensor:
        """dist of Eq. 2: how much each token matters to the sentence, per head, [B, m, H]."""
        return self._importance(self.norm(visual), text.sentence)

    def _importance(self, normed: Tensor, sentences: Tensor) -> Tensor:
        if sentences.ndim == 2:
            sentences = sentences[:, None]
        query = _by_head(_at_least_float32(self.query(normed)), self.heads)
        key = _by_head(_at_least_float32(self.key(sentences)), self.heads)
        products = torch.einsum("bmhd,blhd->bmhl", query, key)
        lengths = _length(query)[..., None] * _length(key).transpose(1, 2)[:, None]
        return (products / lengths).sum(dim=-1)


class CrossAttentionGate(nn.Module):
    """Cross-attention in the gate's place: visual tokens ask, the words are keys and values.

    As large as the gate (four D x D layers and a norm), so that the ablation compares mechanisms.
    """

    def __init__(self, options: BlockOptions) -> None:
        super().__init__()
        width = options.width
        self.heads = check_heads(width, options.heads)
        self.norm = nn.LayerNorm(width) if options.gate_norm else nn.Identity()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, visual: Tensor, text: EncodedText) -> Tensor:
        """Visual tokens [B, m, D] -> [B, m, D], skip connection included."""
        asked = (self.query(self.norm(visual)), self.key(text.words), self.value(text.words))
        query, key, value = (_by_head(part, self.heads).transpose(1, 2) for part in asked)
        words = (text.mask != 0)[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=words)
        return visual + self.dropout(self.output(attended.transpose(1, 2).flatten(2)))


def build_gate(options: BlockOptions) -> LAGate | CrossAttentionGate:
    """The layer by which language reaches the visual tokens."""
    return LAGate(options) if options.gate == "gate" else CrossAttentionGate(options)


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """[B, m, D] -> [B, m, H, d]."""
    return tokens.reshape(*tokens.shape[:2], heads, -1)


def _length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1).clamp_min(COSINE_EPS)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
