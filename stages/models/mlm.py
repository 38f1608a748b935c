"""Vision-guided masked language modelling (arXiv 2404.00973, Eq. 9; specs/videodistill.md 5).

A caption's words are hidden as in BERT and guessed from v_cls*, which was made from the caption
as it is; the tower's view of the hidden word comes along, but passes no gradient on.

Chosen here, where the paper is silent:

- CLIP has no mask token: an embedding of the text tower stands for it, or the end token
  (`mask_token`). **While w_i^M passes no gradient on, that embedding is never trained** and stays
  as it was drawn; it learns only with `mlm_stopgrad` off.
- w_i^M is the projected word, D wide, as all of the paper's vectors are.
- Words are drawn one by one with probability 0.15, at least one per caption; begin and end tokens
  are never drawn; random words come from the whole vocabulary.

Axes: R rows, M tokens, D width, V vocabulary, n hidden words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.models.text_tower import TokenIds

MASKED_SHARE = 0.15
SHOWN_AS_MASK, SHOWN_AS_RANDOM = 0.8, 0.1


@dataclass(frozen=True)
class MaskedCaptions:
    """Captions with hidden words.

    Attributes:
        ids: what the tower reads, [R, M]; random words are in place, masked ones are still there.
        masked: bool [R, M], where the mask embedding (or the end token) is shown instead.
        hidden: bool [R, M], the words to guess: shown as mask, as a random word or as they are.
    """

    ids: Tensor
    masked: Tensor
    hidden: Tensor

    def to(self, device: torch.device | str) -> MaskedCaptions:
        """The same captions on `device`."""
        return MaskedCaptions(self.ids.to(device), self.masked.to(device), self.hidden.to(device))


def mask_captions(
    tokens: TokenIds, vocabulary: int, generator: torch.Generator | None = None
) -> MaskedCaptions:
    """Hide 15 % of the words: 80 % of them masked, 10 % replaced, 10 % left (BERT).

    Drawn on the CPU, so that a seed means the same on all devices.
    """
    ids, mask = tokens.ids.cpu(), tokens.mask.cpu()
    draws = torch.rand(3, *ids.shape, generator=generator)
    words = inner_words(mask)
    luck = draws[0].masked_fill(~words, 2.0)
    # A row whose draws are all too high gives up its lowest one.
    threshold = luck.amin(dim=1, keepdim=True).clamp_min(MASKED_SHARE)
    hidden = words & ((luck < MASKED_SHARE) | (luck == threshold))
    masked = hidden & (draws[1] < SHOWN_AS_MASK)
    replaced = hidden & (draws[1] >= SHOWN_AS_MASK) & (draws[1] < SHOWN_AS_MASK + SHOWN_AS_RANDOM)
    random = (draws[2] * vocabulary).long().clamp_max(vocabulary - 1)
    shown = torch.where(replaced, random, ids)
    return MaskedCaptions(shown, masked, hidden).to(tokens.ids.device)


def inner_words(mask: Tensor) -> Tensor:
    """bool [R, M]: tokens of the mask between the begin and the end token."""
    position = torch.arange(mask.shape[1], device=mask.device)
    return (position > 0) & (position < mask.sum(dim=1, keepdim=True) - 1)


class GuidedWordHead(nn.Module):
    """concat(w_i^M, v_cls*) -> Linear(2 D -> D), GELU, Linear(D -> V)."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * width, width)
        self.vocabulary = nn.Linear(width, vocabulary)

    def forward(self, words: Tensor, v_cls: Tensor) -> Tensor:
        """Words [n, D], each with its caption's v_cls* [n, D] -> logits [n, V]."""
        return self.vocabulary(F.gelu(self.hidden(torch.cat([words, v_cls], dim=-1))))


def guided_word_loss(
    head: GuidedWordHead, words: Tensor, v_cls: Tensor, hidden: Tensor, original: Tensor
) -> Tensor:
    """Mean of -log p(w_i | w_i^M, v_cls*) over the hidden words; 0 if there is none.

    Args:
        head: the guessing head.
        words: the masked captions' words [R, M, D]; detach them for the paper's stop-gradient.
        v_cls: [R, D], made from the captions as they are.
        hidden: bool [R, M], the words to guess.
        original: the captions' ids [R, M].
    """
    rows, positions = torch.nonzero(hidden, as_tuple=True)
    logits = head(words[rows, positions], v_cls[rows]).float()
    total = F.cross_entropy(logits, original[rows, positions], reduction="sum")
    return total / max(len(rows), 1)
