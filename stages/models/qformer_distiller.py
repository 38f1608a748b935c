"""The QFormer-Distiller's decoder D (arXiv 2312.08367, Sec. 3.3; specs/vlap.md 3.1-3.2).

D maps the student's visual tokens of K frames to as many tokens as the teacher has for T frames,
across the token axis and for every channel alike; it exists in training only.
The paper names FC, FC+LN and FC+LN+FC (Table 5) without the axis; only FC+LN is published as
code, the other two follow its axis.

Axes: B batch, M student tokens (K * Q), R teacher tokens (T * Q), D channels.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

DistillVariant = Literal["fc_ln", "fc", "fc_ln_fc"]


class DistillDecoder(nn.Module):
    """Linear(M -> R), LayerNorm(R) (eps 1e-5, affine per token) and perhaps Linear(R -> R)."""

    def __init__(self, tokens_in: int, tokens_out: int, variant: DistillVariant = "fc_ln") -> None:
        super().__init__()
        self.fc = nn.Linear(tokens_in, tokens_out)
        self.norm = nn.LayerNorm(tokens_out, eps=1e-5) if variant != "fc" else None
        self.fc2 = nn.Linear(tokens_out, tokens_out) if variant == "fc_ln_fc" else None

    def forward(self, tokens: Tensor) -> Tensor:
        """Student tokens [B, M, D] -> [B, R, D]."""
        mapped = self.fc(tokens.transpose(1, 2))  # (B, D, R)
        if self.norm is not None:
            mapped = self.norm(mapped)
        if self.fc2 is not None:
            mapped = self.fc2(mapped)
        return mapped.transpose(1, 2)
