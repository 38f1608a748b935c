"""AdamW with the reference's rule of what decays (specs/vlap.md 5.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import torch
from pydantic import Field
from torch import nn

from stages.core.config import Config
from stages.models.reference_names import reference_from_ours_name

_UNDECAYED = ("bias", "ln", "bn")


class OptimizerConfig(Config):
    """AdamW's settings; the learning rate itself comes from the schedule at every step."""

    weight_decay: float = Field(default=0.05, ge=0)
    """Decoupled decay of the parameters that decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Running averages of the gradient and its square."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the denominator."""
    new_parts_factor: float = Field(default=1.0, gt=0)
    """The learning rate of what starts from random weights (frame prompter or selector,
    distillation decoder; all of VideoDistill but its text tower) is this many times the schedule's;
    1 in the reference."""


def decays(name: str, ndim: int) -> bool:
    """Whether a parameter decays: at least two axes, no `bias`, `ln` or `bn` in its name.

    The rule is a substring rule on the reference's names, so the distillation decoder's Linear
    (`dist_fc_bn.0.weight` there) does not decay; names are translated first.
    """
    # A name that is ours alone (the question prompter) keeps it, and the rule applies to that.
    with contextlib.suppress(KeyError):
        name = reference_from_ours_name(name)
    return ndim >= 2 and not any(part in name for part in _UNDECAYED)


NEW_PARTS = (
    *("frame_prompter.", "distill_decoder.", "frame_selector."),
    *("sampler.", "refinement.", "project_", "answer.", "matched.", "contrastive_", "mlm."),
)
"""How the names of what no checkpoint fills begin: VLAP's and SeViLA's parts, then VideoDistill's,
of which the text tower alone comes from CLIP."""


def is_new_part(name: str) -> bool:
    """Whether a parameter belongs to a part that no checkpoint fills."""
    return name.startswith(NEW_PARTS)


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> list[dict[str, object]]:
    """Groups by decay and by learning rate factor, each with its `names` and `lr_factor`.

    Frozen parameters are left out.
    """
    split: dict[tuple[bool, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            factor = config.new_parts_factor if is_new_part(name) else 1.0
            key = (decays(name, parameter.ndim), factor)
            split.setdefault(key, []).append((name, parameter))
    return [
        {
            "params": [parameter for _, parameter in members],
            "names": [name for name, _ in members],
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr_factor": factor,
        }
        for (decayed, factor), members in sorted(split.items(), key=lambda item: not item[0][0])
    ]


def build_optimizer(
    named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig, lr: float
) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; `set_learning_rate` before every step from the schedule."""
    groups = parameter_groups(named, config)
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas, eps=config.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate of the coming step, times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
