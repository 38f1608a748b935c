"""Scores as shares of one."""

from __future__ import annotations

import math
from collections.abc import Sequence


def softmax(scores: Sequence[float]) -> list[float]:
    """Shares of the scores, adding up to 1; empty for none."""
    if not scores:
        return []
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]
