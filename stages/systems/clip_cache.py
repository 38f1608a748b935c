"""What depends on a clip alone is computed once for the questions about it.

Evaluation keeps the questions about one clip together, so few clips need be held at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from stages.systems.seen import SeenFrames

CLIPS_HELD = 16


class ClipCache:
    """Values [T, ...] per clip, the least recently used ones dropped.

    A clip is always computed alone and in full, so that a value does not depend on what was asked
    before: a resumed run has the same bits.

    Args:
        compute: Features [1, T, N, C] -> values [1, T, ...], from the frames alone.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], held: int = CLIPS_HELD) -> None:
        self._compute, self._held = compute, held
        self._values: OrderedDict[bytes, Tensor] = OrderedDict()
        self.computed = 0

    def of(self, seen: SeenFrames) -> Tensor:
        """Values [B, T, ...] of all frames seen."""
        keys = seen.clip_keys()
        if keys is None:
            rows = [self._compute(seen.clip(row)[None])[0] for row in range(len(seen))]
        else:
            rows = [self._one(key, seen, row) for row, key in enumerate(keys)]
        return torch.stack(rows)

    def kept(self, seen: SeenFrames, indices: Tensor) -> Tensor:
        """Values [B, K, ...] of the frames `indices` [B, K].

        Clips that several questions are about are computed in full, once; of the others only the
        kept frames are.
        """
        rows = []
        for row in range(len(seen)):
            chosen = indices[row].cpu()
            key = seen.shared_key(row)
            if key is None:
                rows.append(self._compute(seen.kept_row(row, chosen)[None])[0])
            else:
                rows.append(self._one(key, seen, row)[chosen.to(seen.device)])
        return torch.stack(rows)

    def _one(self, key: bytes, seen: SeenFrames, row: int) -> Tensor:
        value = self._values.pop(key, None)
        if value is None:
            value = self._compute(seen.clip(row)[None])[0]
            self.computed += 1
        self._values[key] = value
        if len(self._values) > self._held:
            self._values.popitem(last=False)
        return value
