"""Parameters of any network: counting them by part and loading them strictly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stages.core.errors import DataError


def load_exactly(
    module: nn.Module,
    state: Mapping[str, Tensor],
    what: str,
    *,
    expected: set[str] | None = None,
) -> None:
    """Copy `state` into `module`; missing, unexpected or misshapen names raise `DataError`."""
    own = module.state_dict()
    wanted = set(own) if expected is None else expected
    problems = [f"missing {name}" for name in sorted(wanted - set(state))]
    problems += [f"unexpected {name}" for name in sorted(set(state) - wanted)]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}"
        for name in sorted(wanted & set(state))
        if state[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:8])
        raise DataError(
            f"{what} do not fit this model: {shown}" + (" ..." if len(problems) > 8 else ""),
            "same backbone, frames, keep and prompter as when they were trained?",
        )
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Parameters per part, with `trainable` and `total`."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.removeprefix("backbone.").split(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    counts["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    counts["total"] = sum(p.numel() for p in model.parameters())
    return counts
