"""Losses as functions of tensors (specs/vlap.md 1.3, 3.1, 3.3; specs/sevila.md 4).

Axes: B batch, L label tokens, V vocabulary, M and R tokens, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
RELEVANCE_TEMPERATURE = 0.5


def target_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p(label) over all label tokens of the batch; labels of -100 do not count.

    Args:
        logits: [B, L, V]; the softmax is taken in float32.
        labels: int [B, L].
    """
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def row_cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p(label) over each row's own label tokens, [B]; -100 does not count."""
    total, length = label_log_probabilities(logits, labels)
    return -total / length


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of values [B] with weights [B]; 0 (with a zero gradient) if no weight is positive."""
    return (values * weights).sum() / weights.sum().clamp(min=torch.finfo(values.dtype).tiny)


def balanced(weights: Tensor, positives: Tensor) -> Tensor:
    """Weights [B] changed so that yes and no count the same, in sum as much as before.

    Args:
        weights: of the rows, [B].
        positives: how much of each row is a yes, 0 to 1, [B]. Where only one side has weight,
            nothing changes.
    """
    total, yes = weights.sum(), (weights * positives).sum()
    no = total - yes
    if min(yes, no) <= 0:
        return weights
    return weights * total / 2 * (positives / yes + (1 - positives) / no)


def distillation_mse(decoded: Tensor, target: Tensor) -> Tensor:
    """Mean of (target - decoded)^2 over all elements of [B, R, D]."""
    return F.mse_loss(decoded.float(), target.float())


def token_mean_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of the mean tokens: student [B, M, D], teacher [B, R, D]."""
    return F.mse_loss(student.float().mean(dim=1), teacher.float().mean(dim=1))


def label_log_probabilities(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed log p of each row's labels and their number: ([B], [B])."""
    per_token = -F.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return per_token.sum(dim=1), (labels != IGNORED).sum(dim=1)


def relevance_cross_entropy(logits: Tensor, likelihoods: Tensor) -> Tensor:
    """How well frame scores follow the frames' own power to answer; an extension of ours.

    Cross entropy of softmax(logits) [B, T] against softmax(likelihoods / 0.5) [B, T], where a
    likelihood is the answer's summed log-probability from that frame alone.
    """
    wanted = torch.softmax(likelihoods.float() / RELEVANCE_TEMPERATURE, dim=-1)
    return -(wanted * torch.log_softmax(logits.float(), dim=-1)).sum(dim=-1).mean()
