"""The published schedules, written down from their descriptions, over our own networks.

What decides their cost is kept: every question runs the tower over all its frames again, VLAP's
kept frames go through the Q-Former one by one, and T5 generates without a key-value cache
(specs/vlap.md 4 and 8; specs/sevila.md 3, 8 and 9). Generation is stopped where trained weights
stop: after 3 steps for an answer, 2 for a localizer's yes or no.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from stages.bench.work import encode
from stages.benchmarks.manifest import PromptRule, load_manifest
from stages.benchmarks.prompts import prompt
from stages.benchmarks.questions import Question
from stages.benchmarks.sevila_prompts import localizer_form, localizer_prompt
from stages.models.backbones.frozen_t5 import FrozenT5
from stages.models.backbones.text import PromptIds
from stages.models.backbones.vision import VisionTower
from stages.models.sevila import Sevila
from stages.models.vlap import VlapStudent, VlapTeacher

BENCHMARK = "shapes"
LOCALIZER_STEPS, ANSWERER_STEPS = 2, 3
REPETITION_PENALTY = 1.5
"""Of VLAP's published generation; it touches no letter."""

Outcome = tuple[Tensor, list[int]]
"""Kept frames [B, K] and the answers of a batch."""


def prompts(questions: list[Question]) -> list[str]:
    """What the answerer reads."""
    return [prompt(question, "letter", prompt_rule()) for question in questions]


def localizer_prompts(questions: list[Question]) -> list[str]:
    """What SeViLA's localizer reads."""
    form = localizer_form(load_manifest(BENCHMARK))
    return [localizer_prompt(question, prompt_rule(), form) for question in questions]


def prompt_rule() -> PromptRule:
    """The wording of the questions that speed is measured on."""
    return load_manifest(BENCHMARK).prompt


def generated(
    backbone: FrozenT5, embeds: Tensor, mask: Tensor, steps: int, penalty: float = 1.0
) -> tuple[Tensor, ...]:
    """Logits [R, V] of each of exactly `steps` greedy steps, the whole decoder in every step."""
    language = backbone.language_model
    config = GenerationConfig(
        min_new_tokens=steps,
        max_new_tokens=steps,
        num_beams=1,
        do_sample=False,
        use_cache=False,
        repetition_penalty=penalty,
        decoder_start_token_id=language.config.decoder_start_token_id,
        pad_token_id=language.config.pad_token_id,
        return_dict_in_generate=True,
        output_scores=True,
    )
    # A row that would end early is not ended: every row takes every step.
    language.generation_config.eos_token_id = None
    with backbone.language_precision():
        found = language.generate(
            inputs_embeds=embeds, attention_mask=mask, generation_config=config
        )
    return tuple(found.scores)


def best_letters(backbone: FrozenT5, logits: Tensor, questions: list[Question]) -> list[int]:
    """The best letter among each question's own."""
    letters = list(backbone.answer_tokens.letters)
    return [
        int(row[letters[: len(question.options)]].argmax())
        for row, question in zip(logits, questions, strict=True)
    ]


def tower_features(tower: VisionTower, frames: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] -> features [B, T, N, C], all frames in one forward pass."""
    features = encode(tower, frames.flatten(0, 1))
    return features.reshape(*frames.shape[:2], *features.shape[1:])


class VlapReference:
    """VLAP as its published code evaluates it.

    Args:
        model: A student, or a teacher that looks at all its frames.
        tower: The vision tower.
    """

    def __init__(self, model: VlapStudent | VlapTeacher, tower: VisionTower) -> None:
        self.model, self.tower = model, tower

    @torch.no_grad()
    def __call__(self, questions: list[Question], frames: Tensor) -> Outcome:
        """One batch: frames uint8 [B, T, H, W, 3]."""
        backbone = self.model.backbone
        seen = backbone.normalise(tower_features(self.tower, frames))
        kept, indices = self._kept(seen)
        text = backbone.read_text(prompts(questions))
        # One Q-Former call per kept frame.
        visual = torch.cat(
            [backbone.visual_tokens(kept[:, k : k + 1], text) for k in range(kept.shape[1])], dim=1
        )
        words = backbone.word_embeddings(text)
        ones = torch.ones(visual.shape[:2], dtype=text.t5_mask.dtype, device=visual.device)
        embeds = torch.cat([visual.float(), words], dim=1)
        mask = torch.cat([ones, text.t5_mask], dim=1)
        steps = generated(backbone, embeds, mask, ANSWERER_STEPS, REPETITION_PENALTY)
        return indices.cpu(), best_letters(backbone, steps[1], questions)

    def _kept(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.model, VlapTeacher):
            every = torch.arange(seen.shape[1], device=seen.device)
            return seen, every.expand(len(seen), -1)
        chosen: Any = self.model.frame_prompter(seen, noise=None, tau=0.01, question=None)
        return chosen.gather(seen), chosen.indices


class SevilaReference:
    """SeViLA's forward chain as its published code evaluates it.

    Args:
        model: SeViLA.
        tower: The vision tower.
        keep: K.
        steps: Decoder steps of the localizer and of the answerer.
        all_frames: The answerer's Q-Former runs on all frames, not only on those kept.
    """

    def __init__(
        self,
        model: Sevila,
        tower: VisionTower,
        keep: int,
        steps: tuple[int, int] = (LOCALIZER_STEPS, ANSWERER_STEPS),
        *,
        all_frames: bool = True,
    ) -> None:
        self.model, self.tower, self.keep, self.steps = model, tower, keep, steps
        self.all_frames = all_frames

    @torch.no_grad()
    def __call__(self, questions: list[Question], frames: Tensor) -> Outcome:
        """One batch: frames uint8 [B, T, H, W, 3]."""
        features = tower_features(self.tower, frames)
        scores = self._frame_scores(features, questions)
        kept = scores.topk(self.keep, dim=1).indices.sort(dim=1).values
        return kept.cpu(), self._answers(features, kept, questions)

    def _frame_scores(self, features: Tensor, questions: list[Question]) -> Tensor:
        backbone = self.model.backbone
        count = features.shape[1]
        side = self.model.side("localizer")
        tokens = backbone.frame_tokens(side, features, "localizer").flatten(0, 1)[:, None]
        texts = localizer_prompts(questions)
        text = backbone.read_prompts([one for one in texts for _ in range(count)])
        logits = self._generated(tokens, text, backbone.text.frame_prefix(), self.steps[0])[0]
        return logits[:, backbone.answer_tokens.yes].reshape(len(questions), count)

    def _answers(self, features: Tensor, kept: Tensor, questions: list[Question]) -> list[int]:
        backbone = self.model.backbone
        rows = torch.arange(len(questions), device=kept.device)[:, None]
        side = backbone.answerer
        if self.all_frames:
            tokens = backbone.frame_tokens(side, features, "answerer")[rows, kept]
        else:
            tokens = backbone.frame_tokens(side, features[rows, kept], "answerer")
        text = backbone.read_prompts(prompts(questions))
        prefixes = backbone.text.numbered_prefixes(self.keep)
        logits = self._generated(tokens, text, prefixes, self.steps[1])[1]
        return best_letters(backbone, logits, questions)

    def _generated(
        self, tokens: Tensor, text: PromptIds, prefixes: Any, steps: int
    ) -> tuple[Tensor, ...]:
        backbone = self.model.backbone
        with backbone.language_precision():
            embeds, mask = backbone.encoder_input(tokens, text, prefixes.to(backbone.device))
        return generated(backbone, embeds, mask, steps)
