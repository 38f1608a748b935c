"""Frame selectors that learn with the answerer: differentiable top-K and ATP (SeViLA, Table 6).

The answerer's loss is their only teacher. They see the stored features and the words of the
localizer's prompt (question and options); what they learn lies beside the answerer's weights under
`frame_selector.*`.

Axes: B questions, T frames, K kept, N tokens, C width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.core.config import Config
from stages.models.atp import Atp
from stages.models.backbones.blip2 import Blip2
from stages.models.frame_scorer import FrameScorer
from stages.models.parameters import load_exactly
from stages.models.perturbed_top_k import DifferentiableTopK, normal_noise
from stages.models.selectors import QuestionText, gumbel_noise
from stages.models.sevila import Sevila, SevilaOutput, side_state
from stages.models.sevila_rows import Prompts

LearntKind = Literal["topk", "atp"]
PREFIX = "frame_selector."


class FrameSelectorConfig(Config):
    """The small network that scores frames."""

    width: int = Field(default=256, ge=1)
    """Width of its transformer."""
    layers: int = Field(default=2, ge=1)
    """Its layers."""
    heads: int = Field(default=4, ge=1)
    """Its attention heads."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Its dropout."""
    question: bool = True
    """Whether it sees the question."""
    sigma: float = Field(default=0.05, gt=0)
    """Spread of the noise of `topk`, on scores between 0 and 1."""
    draws: int = Field(default=500, ge=1)
    """Draws of that noise per question."""


def frame_selector(
    kind: LearntKind, config: FrameSelectorConfig, backbone: Blip2, keep: int
) -> DifferentiableTopK | Atp:
    """A selector with random weights, in the sizes of `backbone`."""
    (channels,) = backbone.answerer.ln_vision.normalized_shape
    scorer = FrameScorer(
        channels,
        backbone.language_model.config.d_model if config.question else None,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        dropout=config.dropout,
    )
    if kind == "atp":
        return Atp(scorer)
    return DifferentiableTopK(scorer, keep, sigma=config.sigma, draws=config.draws)


@torch.no_grad()
def question_words(backbone: Blip2, prompts: Prompts) -> QuestionText:
    """T5's word embeddings of prompts."""
    ids = backbone.read_prompts(prompts)
    return QuestionText(backbone.language_model.shared(ids.ids).float(), ids.mask)


class SelectingAnswerer(nn.Module):
    """An answerer and the selector that learns with it."""

    def __init__(self, sevila: Sevila, selector: DifferentiableTopK | Atp) -> None:
        super().__init__()
        self.sevila, self.frame_selector = sevila, selector

    def forward(
        self,
        features: Tensor,
        prompts: Prompts,
        labels: Tensor,
        *,
        chosen_for: Prompts,
        tau: float = 1.0,
    ) -> SevilaOutput:
        """The answerer's loss on frames chosen softly of features [B, T, N, C].

        Args:
            features: Stored features, float32.
            prompts: The answerer's prompts.
            labels: Target tokens [B, L].
            chosen_for: What the selector reads.
            tau: Temperature of ATP's choice, which is of one frame.
        """
        question = question_words(self.sevila.backbone, chosen_for)
        if isinstance(self.frame_selector, Atp):
            noise = gumbel_noise((len(features), 1, features.shape[1])).to(features.device)
            atp = self.frame_selector(features, noise=noise, tau=tau, question=question)
            kept: Tensor = atp.gather(features)
        else:
            draws = normal_noise(len(features), self.frame_selector.draws, features.shape[1])
            top = self.frame_selector(features, noise=draws.to(features.device), question=question)
            kept = top.gather(features)
        return self.sevila.answerer_loss(kept, prompts, labels)


def selecting_state(model: SelectingAnswerer) -> dict[str, Tensor]:
    """Tensors of a weights artifact: `answerer.*` and `frame_selector.*`."""
    own = model.frame_selector.state_dict()
    return side_state(model.sevila, "answerer") | {f"{PREFIX}{name}": own[name] for name in own}


def sides_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of SeViLA's sides, without a selector's."""
    return {name: value for name, value in state.items() if not name.startswith(PREFIX)}


def load_frame_selector(
    selector: DifferentiableTopK | Atp, state: Mapping[str, Tensor]
) -> DifferentiableTopK | Atp:
    """Fill a selector from a weights artifact.

    Raises:
        DataError: A name is missing, unexpected or of another shape.
    """
    own = {n.removeprefix(PREFIX): value for n, value in state.items() if n.startswith(PREFIX)}
    load_exactly(selector, own, "frame selector weights")
    return selector
