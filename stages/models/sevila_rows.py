"""Rows that BLIP-2's T5 reads in SeViLA (specs/sevila.md 2.2), and answers read from them.

A row holds either one frame (`Frame: `; the localizer, voting, pseudo-labels) or all kept frames of
a question (`Frame 1: `, `Frame 2: `, ...). Rows of like prompt length go through T5 together, at
most `budget` at once; padding has no meaning, so neither changes a result.

Axes: B questions, F frames, Q queries, D language width, R rows, O options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.core.errors import DataError
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.frozen_t5 import Encoded, restrict_options
from stages.models.backbones.text import FramePrefixes, PromptIds

Prompts = Sequence[str] | PromptIds
LENGTH_BUCKET = 8
"""Prompts whose lengths differ by fewer ids may share a batch of rows."""


@dataclass(frozen=True)
class Rows:
    """How frames' tokens [B, F, Q, D] become rows: `single` frames (B * F) or joint ones (B)."""

    backbone: Blip2
    tokens: Tensor
    text: PromptIds
    single: bool

    @classmethod
    def of(cls, backbone: Blip2, tokens: Tensor, prompts: Prompts, *, single: bool) -> Rows:
        """Rows of tokens [B, F, Q, D] and one prompt per question.

        Raises:
            DataError: Another number of prompts than of questions.
        """
        text = backbone.read_prompts(prompts)
        if tokens.ndim != 4 or len(text) != len(tokens):
            raise DataError(f"tokens of shape {tuple(tokens.shape)} for {len(text)} prompts")
        return cls(backbone, tokens, text, single)

    def __len__(self) -> int:
        return self.tokens.shape[0] * (self.tokens.shape[1] if self.single else 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, F] of single rows, [B] of joint ones."""
        return tuple(self.tokens.shape[: 2 if self.single else 1])

    @property
    def owners(self) -> Tensor:
        """The question of each row, question by question, on the CPU."""
        questions = torch.arange(self.tokens.shape[0])
        return questions.repeat_interleave(self.tokens.shape[1]) if self.single else questions

    def owned(self, values: Sequence[int]) -> list[int]:
        """The value of each row's question."""
        return [values[question] for question in self.owners.tolist()]

    def prefixes(self) -> FramePrefixes:
        """What stands before each frame of a row."""
        text = self.backbone.text
        prefixes = (
            text.frame_prefix() if self.single else text.numbered_prefixes(self.tokens.shape[1])
        )
        return prefixes.to(self.backbone.device)

    def encode(self) -> Encoded:
        """All rows in one batch, as in training."""
        tokens = self.tokens.flatten(0, 1)[:, None] if self.single else self.tokens
        text = self.text.rows(self.owners.to(self.backbone.device))
        return self.backbone.encode(tokens, text, self.prefixes())

    def encoded(self, budget: int) -> Iterator[tuple[Tensor, Encoded]]:
        """Row numbers and their encodings, in batches of like length."""
        device, prefixes = self.backbone.device, self.prefixes()
        tokens = self.tokens.flatten(0, 1)[:, None] if self.single else self.tokens
        owners = self.owners.to(device)
        for rows in length_buckets(self.text.lengths[owners], budget):
            chosen = tokens[rows.to(tokens.device)].to(device)
            yield rows, self.backbone.encode(chosen, self.text.rows(owners[rows]), prefixes)


def length_buckets(lengths: Tensor, budget: int) -> Iterator[Tensor]:
    """Numbers of rows of like length together, at most `budget` at once; each exactly once."""
    buckets = torch.div(lengths, LENGTH_BUCKET, rounding_mode="floor")
    for bucket in sorted(set(buckets.tolist())):
        yield from (buckets == bucket).nonzero().squeeze(1).split(budget)


@torch.no_grad()
def first_token_logits(
    rows: Rows, names: Sequence[int], budget: int, *, exact: bool = False
) -> Tensor:
    """First-step logits of some tokens, float32 [B, F, names] (or [B, names])."""
    found = torch.empty(len(rows), len(names), device=rows.backbone.device)
    for numbers, encoded in rows.encoded(budget):
        found[numbers] = rows.backbone.first_logits(encoded, names, exact=exact)
    return found.reshape(*rows.shape, len(names))


@torch.no_grad()
def letter_logits(rows: Rows, num_options: Sequence[int], budget: int, *, forced: bool) -> Tensor:
    """Letter logits, float32 [B, F, 5] (or [B, 5]); letters without an option are -inf.

    Args:
        num_options: options of each question.
        forced: read letters after a forced `Option`, else after a free greedy token.

    Raises:
        DataError: More options than letters.
    """
    backbone = rows.backbone
    letters = len(backbone.answer_tokens.letters)
    if max(num_options) > letters:
        raise DataError(f"{max(num_options)} options, but letters A to E only")
    found = torch.empty(len(rows), letters, device=backbone.device)
    for numbers, encoded in rows.encoded(budget):
        if forced:
            found[numbers] = backbone.forced_letters(encoded)
        else:
            found[numbers] = backbone.greedy_letters(encoded).letters
    return restrict_options(found, rows.owned(num_options)).reshape(*rows.shape, letters)


@torch.no_grad()
def option_scores(
    rows: Rows,
    options: Sequence[Sequence[str]],
    budget: int,
    *,
    norm: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Log-probability of each option's text, [B, F, O] (or [B, O]); missing ones are -inf."""
    width, owners = max(len(row) for row in options), rows.owners
    found = torch.full((len(rows), width), -torch.inf, device=rows.backbone.device)
    for numbers, encoded in rows.encoded(budget):
        asked = [options[question] for question in owners[numbers.cpu()].tolist()]
        scores = rows.backbone.rank_scores(encoded, asked, norm=norm)
        found[numbers, : scores.shape[1]] = scores
    return found.reshape(*rows.shape, width)


@torch.no_grad()
def generated_texts(rows: Rows, budget: int) -> list[str]:
    """Greedy text of every row."""
    texts = [""] * len(rows)
    for numbers, encoded in rows.encoded(budget):
        for number, text in zip(numbers.tolist(), rows.backbone.generate(encoded), strict=True):
            texts[number] = text
    return texts
