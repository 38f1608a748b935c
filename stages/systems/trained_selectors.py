"""Selectors that were trained with an answerer: differentiable top-K and ATP (SeViLA, Table 6)."""

from __future__ import annotations

import torch

from stages.artifacts.store import Artifact
from stages.artifacts.weights import read_weights
from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.questions import Question
from stages.benchmarks.sevila_prompts import localizer_form, localizer_prompt
from stages.core.errors import UsageError
from stages.models.atp import Atp
from stages.models.backbones.blip2 import Blip2
from stages.models.learnt_selectors import (
    FrameSelectorConfig,
    LearntKind,
    frame_selector,
    load_frame_selector,
    question_words,
)
from stages.models.perturbed_top_k import DifferentiableTopK
from stages.models.selectors import stable_top_k
from stages.systems.face import Selection
from stages.systems.seen import SeenFrames


class LearntSelector:
    """The K frames that a small trained network scores highest.

    Args:
        kind: `topk` or `atp`; also the rule that predictions name.
        network: The network.
        backbone: Whose word embeddings it reads.
        manifest: The benchmark, whose wording is used.
    """

    def __init__(
        self,
        kind: LearntKind,
        network: DifferentiableTopK | Atp,
        backbone: Blip2,
        manifest: BenchmarkManifest,
    ) -> None:
        self.kind, self.network = kind, network
        self.backbone, self.manifest = backbone, manifest

    @property
    def rule(self) -> str:
        """See `Selector`."""
        return self.kind

    def problem(self, question: Question) -> str:
        """None; see `Selector`."""
        return ""

    @torch.no_grad()
    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`; of equal scores the earlier frame is kept."""
        form, rule = localizer_form(self.manifest), self.manifest.prompt
        prompts = [localizer_prompt(question, rule, form) for question in seen.questions]
        words = question_words(self.backbone, prompts)
        scores = self.network.scorer(seen.features(), words)
        chosen = stable_top_k(scores, keep)
        return Selection(chosen.indices, scores, [bool(count) for count in chosen.ties.tolist()])


def learnt_selector(
    weights: Artifact, backbone: Blip2, manifest: BenchmarkManifest, device: torch.device
) -> LearntSelector:
    """The selector that lies beside an answerer's weights.

    Args:
        weights: Of `vqa train-answerer --select topk` or `atp`.
        backbone: The answerer's.
        manifest: The benchmark that is asked.
        device: Where to put it.

    Raises:
        UsageError: These weights hold no selector.
        DataError: They do not fit the backbone.
    """
    made = weights.config
    kind = made.get("select")
    if kind not in ("topk", "atp"):
        raise UsageError(
            f"{weights.id} holds no trained frame selector",
            "vqa train-answerer --select topk, or atp",
        )
    config = FrameSelectorConfig.build(made["frame_selector"], weights.id)
    network = frame_selector(kind, config, backbone, made["keep"])
    network = load_frame_selector(network, read_weights(weights)).to(device).eval()
    return LearntSelector(kind, network, backbone, manifest)
