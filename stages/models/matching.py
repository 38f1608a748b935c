"""Losses on how well a sentence and a video match (specs/videodistill.md 5-6).

Video-text matching with exchanged captions (arXiv 2404.00973, Eq. 7), the contrastive constraint
on matched pairs (Eq. 8), and multiple choice by the matching head.

Chosen here, where the paper is silent:

- Captions are exchanged between the two members of random couples of the batch, each couple with
  probability 0.5; two equal captions stay matched.
- The contrastive loss is a mean over matched pairs (Eq. 8 sums). An exchanged pair's video never
  enters it; its caption is a negative for the others (`batch`, the sum over B of Eq. 8) or is
  left out as well (`matched`).
- Multiple choice trains by cross-entropy over the candidates' matched scores, or candidate by
  candidate like matching (`vtm`). The score is the matched logit, or its lead over the other one
  (`margin`).

Axes: R rows, B questions, O candidates, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.core.errors import DataError
from stages.models.text_tower import TokenIds

ChoiceLoss = Literal["cross_entropy", "vtm"]
MatchScore = Literal["logit", "margin"]
Negatives = Literal["batch", "matched"]
EXCHANGE_PROBABILITY = 0.5
CONTRASTIVE_TEMPERATURE = 0.07


@dataclass(frozen=True)
class Exchange:
    """Whose caption each video gets, int [R], and whether it is (equal to) its own, bool [R]."""

    source: Tensor
    matched: Tensor

    def to(self, device: torch.device | str) -> Exchange:
        """The same on `device`."""
        return Exchange(self.source.to(device), self.matched.to(device))


def exchange_captions(
    captions: TokenIds,
    generator: torch.Generator | None = None,
    *,
    probability: float = EXCHANGE_PROBABILITY,
) -> Exchange:
    """Couple the rows at random and exchange captions within couples; an odd one stays out."""
    R = len(captions)
    ids = captions.ids.masked_fill(captions.mask == 0, -1).cpu()
    couples = torch.randperm(R, generator=generator)[: R // 2 * 2].reshape(-1, 2)
    left, right = couples[torch.rand(len(couples), generator=generator) < probability].T
    source = torch.arange(R)
    source[left], source[right] = right, left
    matched = (ids == ids[source]).all(dim=1)
    return Exchange(source, matched).to(captions.ids.device)


def matching_loss(logits: Tensor, matched: Tensor) -> Tensor:
    """Mean of -log p(matched or not) (Eq. 7): logits [R, 2], class 1 is matched; bool [R]."""
    return F.cross_entropy(logits.float(), matched.long())


def matched_scores(logits: Tensor, score: MatchScore = "logit") -> Tensor:
    """What candidates are ranked by: [..., 2] -> [...]."""
    return logits[..., 1] if score == "logit" else logits[..., 1] - logits[..., 0]


def by_question(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """Candidates' scores, question after question, as [B, O]; -inf where there is no candidate."""
    if sum(counts) != len(scores):
        raise DataError(f"{len(scores)} candidates, but {sum(counts)} by the questions' counts")
    table = scores.new_full((len(counts), max(counts)), -torch.inf)
    lengths = torch.tensor(list(counts), device=scores.device)
    place = torch.arange(table.shape[1], device=scores.device) < lengths[:, None]
    return table.masked_scatter(place, scores)


def choice_loss(
    logits: Tensor,
    counts: Sequence[int],
    answers: Tensor,
    *,
    loss: ChoiceLoss = "cross_entropy",
    score: MatchScore = "logit",
) -> Tensor:
    """Multiple choice over texts or videos.

    Args:
        logits: matching logits of all candidates, question after question, [R, 2].
        counts: candidates of each question; they sum to R.
        answers: the right candidate of each question, int [B].
        loss: over the candidates, or each candidate by itself.
        score: what cross-entropy compares.
    """
    if loss == "cross_entropy":
        table = by_question(matched_scores(logits.float(), score), counts)
        return F.cross_entropy(table, answers)
    lengths = torch.tensor(list(counts), device=answers.device)
    right = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    right[lengths.cumsum(0) - lengths + answers] = 1
    return F.cross_entropy(logits.float(), right)


def similarities(video: Tensor, text: Tensor) -> Tensor:
    """Cosine of every video vector [R, D] with every text vector [S, D]: [R, S]."""
    return F.normalize(video.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T


def contrastive_loss(
    video: Tensor,
    text: Tensor,
    matched: Tensor,
    *,
    temperature: float = CONTRASTIVE_TEMPERATURE,
    negatives: Negatives = "batch",
) -> Tensor:
    """Mean over matched pairs of -log softmax over captions of cosine / temperature (Eq. 8).

    Args:
        video: v_cls* [R, D], each made with the caption its row was given.
        text: the captions the rows were given, [R, D].
        matched: bool [R], rows that were given their own caption.
        temperature: 0.07 in the paper.
        negatives: `matched` leaves exchanged captions out of the softmax too.
    """
    logits = similarities(video[matched], text) / temperature
    if negatives == "matched":
        logits = logits[:, matched]
        targets = torch.arange(len(logits), device=logits.device)
    else:
        targets = torch.nonzero(matched).flatten()
    return F.cross_entropy(logits, targets, reduction="sum") / max(len(targets), 1)
