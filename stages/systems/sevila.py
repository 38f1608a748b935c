"""SeViLA and the BLIP-2 baselines as systems: a localizer as selector, BLIP-2 as answerer.

`blip2-concat` reads all kept frames at once, `blip2-voting` each frame alone (specs/sevila.md 3,
4.5). What a Q-Former makes of a frame depends on no question, so it is kept per clip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.prompts import AnswerMode, candidates, letter_problem, prompt
from stages.benchmarks.questions import Question
from stages.benchmarks.sevila_prompts import localizer_form, localizer_prompt
from stages.models.selectors import first_argmax
from stages.models.sevila import FrameScores, Sevila
from stages.systems.clip_cache import ClipCache
from stages.systems.face import Answers, Selection
from stages.systems.seen import SeenFrames


class SevilaLocalizer:
    """Keeps the frames of which T5 says most strongly that they answer the question."""

    rule = "localizer"

    def __init__(self, model: Sevila, manifest: BenchmarkManifest) -> None:
        self.model, self.manifest = model, manifest
        self.tokens = ClipCache(model.localizer_tokens)

    def problem(self, question: Question) -> str:
        """None; see `Selector`."""
        return ""

    @torch.no_grad()
    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`; of equal scores the earlier frame is kept."""
        scores = self.scores(seen)
        chosen = self.model.select(scores, keep)
        return Selection(
            chosen.indices,
            scores.as_score(self.model.config.score),
            [bool(count) for count in chosen.ties.tolist()],
        )

    def scores(self, seen: SeenFrames) -> FrameScores:
        """Logits of `yes` and `no` per frame [B, T]."""
        form, rule = localizer_form(self.manifest), self.manifest.prompt
        prompts = [localizer_prompt(question, rule, form) for question in seen.questions]
        return self.model.score_frames(self.tokens.of(seen), prompts)


class BlipAnswerer:
    """BLIP-2 over all kept frames at once.

    Args:
        model: Its answerer side is used.
        mode: How answers are read.
        manifest: The benchmark, whose wording is used.
        uniform: The precision of the reference's baseline without a localizer.
    """

    def __init__(
        self, model: Sevila, mode: AnswerMode, manifest: BenchmarkManifest, *, uniform: bool
    ) -> None:
        self.model, self.mode, self.manifest = model, mode, manifest
        self.tokens = ClipCache(lambda seen: model.answerer_tokens(seen, uniform=uniform))

    def problem(self, question: Question) -> str:
        """See `Answerer`; the rank mode has no such limit."""
        return letter_problem(question) if self.mode == "letter" else ""

    @torch.no_grad()
    def answer(self, seen: SeenFrames, indices: Tensor) -> Answers:
        """See `Answerer`; open-ended questions get generated text."""
        tokens, prompts = self.tokens.kept(seen, indices), self.prompts(seen.questions)
        if all(question.open_ended for question in seen.questions):
            texts = self.model.answer_text(tokens, prompts)
            return Answers([[] for _ in texts], list(texts))
        if self.mode == "letter":
            counts = [len(question.options) for question in seen.questions]
            scores = self.model.answer_letters(tokens, prompts, counts)
        else:
            scores = self.model.answer_rank(tokens, prompts, self.options(seen.questions))
        rows = [
            row[: len(question.options)]
            for row, question in zip(scores.tolist(), seen.questions, strict=True)
        ]
        return Answers(rows, [row.index(max(row)) for row in rows])

    def prompts(self, questions: Sequence[Question]) -> list[str]:
        """What T5 reads after the frames."""
        return [prompt(question, self.mode, self.manifest.prompt) for question in questions]

    def options(self, questions: Sequence[Question]) -> list[tuple[str, ...]]:
        """The texts that are ranked."""
        return [candidates(question, self.mode) for question in questions]


class VotingAnswerer(BlipAnswerer):
    """BLIP-2 over each kept frame alone; the option named most often wins, the first on a tie."""

    @torch.no_grad()
    def answer(self, seen: SeenFrames, indices: Tensor) -> Answers:
        """See `Answerer`; scores are votes."""
        tokens, prompts = self.tokens.kept(seen, indices), self.prompts(seen.questions)
        if all(question.open_ended for question in seen.questions):
            texts = self.model.frame_texts(tokens, prompts)
            winners = [Counter(row).most_common(1)[0][0] for row in texts]
            return Answers([[] for _ in texts], list(winners), [list(row) for row in texts])
        if self.mode == "letter":
            counts = [len(question.options) for question in seen.questions]
            scores = self.model.frame_letters(tokens, prompts, counts)
        else:
            scores = self.model.frame_ranks(tokens, prompts, self.options(seen.questions))
        votes = first_argmax(scores).tolist()
        tallies = [
            [float(row.count(option)) for option in range(len(question.options))]
            for row, question in zip(votes, seen.questions, strict=True)
        ]
        return Answers(tallies, [row.index(max(row)) for row in tallies], votes)
