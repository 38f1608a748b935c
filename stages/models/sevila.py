"""SeViLA (arXiv 2305.06988): a localizer that scores frames and an answerer that reads the best.

Two BLIP-2 sides, one frozen Flan-T5 (specs/sevila.md). Forward chain: the localizer scores every
frame alone by T5's raw logit of `yes`, the K best frames in time order go to the answerer, which
writes `Option X`. Reverse chain: the answerer says per frame whether it alone leads to the right
answer, and the localizer is refined on that.

What leaves `answerer_tokens` and `localizer_tokens` depends on no question, so it may be kept: a
further question about the same frames costs T5 only (specs/sevila.md 9).

Differences from the published code: one encoder pass and one or two decoder steps where it
generates up to 30 tokens, a stable rule for ties, rows of like length together. None changes a
number beyond rounding.

Axes: B questions, F frames seen, K frames kept, N tokens, C vision width, Q queries,
D language width, R rows of T5, L label tokens, O options.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from stages.core.config import Config
from stages.core.errors import ConfigError, DataError
from stages.models.backbones.blip2 import Blip2, VisualSide
from stages.models.backbones.frozen_t5 import Encoded
from stages.models.losses import (
    balanced,
    row_cross_entropies,
    target_cross_entropy,
    weighted_mean,
)
from stages.models.parameters import load_exactly
from stages.models.selectors import TopK, first_argmax, stable_top_k
from stages.models.sevila_rows import (
    Prompts,
    Rows,
    first_token_logits,
    generated_texts,
    letter_logits,
    option_scores,
)

Side = Literal["answerer", "localizer"]


class SevilaConfig(Config):
    """What decides SeViLA's numbers, besides its weights; the defaults are the reference's."""

    score: Literal["yes", "yes_minus_no", "probability"] = "yes"
    """A frame's score: the raw logit of `yes`, its margin over `no`, or softmax over the two."""
    score_rounding: Literal["as_computed", "bfloat16", "float32"] = "as_computed"
    """Rounding of the scores before the best are chosen; as computed is bfloat16 in the half
    precisions. float32 multiplies the head in float32, which parts most ties."""
    first_token: Literal["free", "forced"] = "free"
    """Letters are read after a free greedy first token, or after a forced `Option`."""
    rank_norm: Literal["sum", "mean"] = "sum"
    """Option scores in rank mode: summed or mean token log-probability."""
    train_ln_vision: bool = True
    """Train the LayerNorm after the vision tower with its side."""
    frozen_dropout: bool = True
    """While one side trains, dropout is active in the other one and in T5 too."""
    class_balance: bool = False
    """Frames labelled yes and no weigh the same in the localizer's loss."""
    row_budget: int = Field(default=256, ge=1)
    """Rows that go through T5 at once in inference; changes memory, not results."""


def selection_settings(made: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of a `SevilaConfig`, as JSON, that decide which frames a localizer keeps."""
    return {name: made[name] for name in ("score", "score_rounding") if name in made}


@dataclass(frozen=True)
class FrameScores:
    """First-step logits of the localizer, float32 [B, F]."""

    yes: Tensor
    no: Tensor

    @property
    def positive(self) -> Tensor:
        """Whether `yes` beats `no`, bool [B, F]; a tie is a no."""
        return self.yes > self.no

    def as_score(self, kind: Literal["yes", "yes_minus_no", "probability"]) -> Tensor:
        """The score that frames are chosen by."""
        if kind == "yes":
            return self.yes
        margin = self.yes - self.no
        return margin if kind == "yes_minus_no" else torch.sigmoid(margin)


@dataclass(frozen=True)
class PseudoLabels:
    """What the answerer makes of each frame alone.

    Attributes:
        labels: whether its prediction is the right answer, bool [B, F].
        predictions: int64 [B, F].
        scores: of the options, [B, F, O]; -inf: no such option.
        confidence: probability of the right answer among the options, [B, F].
    """

    labels: Tensor
    predictions: Tensor
    scores: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class SevilaOutput:
    """One training forward: the loss and T5's logits [R, L, V] at the label positions."""

    loss: Tensor
    logits: Tensor
    name: str

    @property
    def parts(self) -> dict[str, Tensor]:
        """Named parts of the loss, for the training log."""
        return {self.name: self.loss}


class Sevila(nn.Module):
    """Answerer, localizer and the frozen T5 between them.

    Parameters are named `answerer.*`, `localizer.*` and `language_model.*` (below `backbone.` for
    the first and last).

    Args:
        backbone: BLIP-2; its own side is the answerer.
        config: the options.
        with_localizer: False where frames are chosen otherwise. A localizer begins as a copy of
            the backbone's side, which the published code leaves to a private file.
    """

    def __init__(
        self, backbone: Blip2, config: SevilaConfig | None = None, *, with_localizer: bool = True
    ) -> None:
        super().__init__()
        self.config = config or SevilaConfig()
        self.backbone = backbone
        self.localizer = copy.deepcopy(backbone.answerer) if with_localizer else None
        self._trained: Side | None = None
        self.train_side(None)

    # --- what trains -------------------------------------------------------------------------

    def train_side(self, side: Side | None) -> Sevila:
        """Give gradients to one side (or to none); T5 and the other side are frozen."""
        if side is not None:
            self.side(side)  # refuses a side that is not there
        for name, module in self._sides().items():
            module.requires_grad_(name == side)
            module.ln_vision.requires_grad_(name == side and self.config.train_ln_vision)
        self._trained = side
        return self.train(self.training)

    def train(self, mode: bool = True) -> Sevila:
        """Train mode; frozen parts follow only if `frozen_dropout` says so."""
        super().train(mode)
        if mode and not self.config.frozen_dropout:
            self.backbone.language_model.eval()
            for name, module in self._sides().items():
                module.train(name == self._trained)
        return self

    def side(self, name: Side) -> VisualSide:
        """The answerer's or the localizer's side.

        Raises:
            ConfigError: This model was built without a localizer.
        """
        found = self._sides().get(name)
        if found is None:
            raise ConfigError("this model was built without a localizer")
        return found

    def _sides(self) -> dict[str, VisualSide]:
        sides: dict[str, VisualSide] = {"answerer": self.backbone.answerer}
        return sides if self.localizer is None else sides | {"localizer": self.localizer}

    # --- seeing ------------------------------------------------------------------------------

    def answerer_tokens(self, features: Tensor, *, uniform: bool = False) -> Tensor:
        """Features [B, F, N, C] -> the answerer's tokens [B, F, Q, D], whatever is asked.

        `uniform` is the precision of the reference's baseline without a localizer; it differs in
        the half policies only.
        """
        part: Literal["uniform", "answerer"] = "uniform" if uniform else "answerer"
        return self.backbone.frame_tokens(self.backbone.answerer, features, part)

    def localizer_tokens(self, features: Tensor) -> Tensor:
        """Features [B, F, N, C] -> the localizer's tokens [B, F, Q, D], whatever is asked."""
        return self.backbone.frame_tokens(self.side("localizer"), features, "localizer")

    # --- choosing frames ---------------------------------------------------------------------

    @torch.no_grad()
    def score_frames(self, tokens: Tensor, prompts: Prompts) -> FrameScores:
        """Whether each frame answers the question: the localizer's tokens [B, F, Q, D].

        One encoder pass and one decoder step per frame, two rows of the head.
        """
        answer = self.backbone.answer_tokens
        rounding = self.config.score_rounding
        logits = first_token_logits(
            Rows.of(self.backbone, tokens, prompts, single=True),
            (answer.yes, answer.no),
            self.config.row_budget,
            exact=rounding == "float32",
        )
        if rounding == "bfloat16":
            logits = logits.to(torch.bfloat16).float()
        yes, no = logits.unbind(-1)
        return FrameScores(yes, no)

    def select(self, scores: FrameScores | Tensor, keep: int) -> TopK:
        """The `keep` best frames, in time order; of equal scores the earlier frame."""
        if isinstance(scores, FrameScores):
            scores = scores.as_score(self.config.score)
        return stable_top_k(scores, keep)

    @torch.no_grad()
    def keyframes(self, features: Tensor, prompts: Prompts, keep: int) -> TopK:
        """Keyframes of features [B, F, N, C]: tokens, scores and choice at once."""
        return self.select(self.score_frames(self.localizer_tokens(features), prompts), keep)

    # --- answering from kept frames ----------------------------------------------------------

    @torch.no_grad()
    def answer_letters(
        self,
        tokens: Tensor,
        prompts: Prompts,
        num_options: Sequence[int],
        *,
        forced: bool | None = None,
    ) -> Tensor:
        """Letter logits from all K frames of tokens [B, K, Q, D] together, [B, 5].

        Args:
            tokens: the answerer's tokens, in time order.
            prompts: prompts with a lettered list.
            num_options: options of each question; further letters are -inf.
            forced: read letters after a forced `Option`; None: as the config says.
        """
        rows = Rows.of(self.backbone, tokens, prompts, single=False)
        return self._letters(rows, num_options, forced)

    @torch.no_grad()
    def answer_rank(
        self, tokens: Tensor, prompts: Prompts, options: Sequence[Sequence[str]]
    ) -> Tensor:
        """Log-probability of each option's text from all K frames together, [B, O]."""
        rows = Rows.of(self.backbone, tokens, prompts, single=False)
        return option_scores(rows, options, self.config.row_budget, norm=self.config.rank_norm)

    @torch.no_grad()
    def answer_text(self, tokens: Tensor, prompts: Prompts) -> list[str]:
        """Generated answers from all K frames together, for open-ended questions."""
        rows = Rows.of(self.backbone, tokens, prompts, single=False)
        return generated_texts(rows, self.config.row_budget)

    # --- answering from every frame alone ----------------------------------------------------

    @torch.no_grad()
    def frame_letters(
        self,
        tokens: Tensor,
        prompts: Prompts,
        num_options: Sequence[int],
        *,
        forced: bool | None = None,
    ) -> Tensor:
        """Letter logits from each frame alone, [B, F, 5]: voting, oracle, pseudo-labels."""
        rows = Rows.of(self.backbone, tokens, prompts, single=True)
        return self._letters(rows, num_options, forced)

    @torch.no_grad()
    def frame_ranks(
        self, tokens: Tensor, prompts: Prompts, options: Sequence[Sequence[str]]
    ) -> Tensor:
        """Log-probability of each option's text from each frame alone, [B, F, O]."""
        rows = Rows.of(self.backbone, tokens, prompts, single=True)
        return option_scores(rows, options, self.config.row_budget, norm=self.config.rank_norm)

    @torch.no_grad()
    def frame_texts(self, tokens: Tensor, prompts: Prompts) -> list[list[str]]:
        """Generated answers from each frame alone, [B][F]."""
        rows = Rows.of(self.backbone, tokens, prompts, single=True)
        texts = generated_texts(rows, self.config.row_budget)
        frames = tokens.shape[1]
        return [texts[start : start + frames] for start in range(0, len(texts), frames)]

    @torch.no_grad()
    def pseudo_labels(
        self,
        tokens: Tensor,
        prompts: Prompts,
        answers: Sequence[int],
        *,
        num_options: Sequence[int] | None = None,
        options: Sequence[Sequence[str]] | None = None,
    ) -> PseudoLabels:
        """Which frames lead the answerer to the right option (specs/sevila.md 4.2).

        Letters are read after the forced `Option` of the right answer, whose letter is not yet
        visible there; with `options` (rank mode) the option of the highest score is predicted.
        """
        if options is not None:
            scores = self.frame_ranks(tokens, prompts, options)
        elif num_options is not None:
            scores = self.frame_letters(tokens, prompts, num_options, forced=True)
        else:
            raise DataError("pseudo-labels need the options or their number")
        truth = torch.tensor(list(answers), device=scores.device)[:, None]
        predictions = first_argmax(scores)
        shares = torch.softmax(scores, dim=-1)
        confidence = shares.gather(2, truth[..., None].expand(-1, scores.shape[1], 1)).squeeze(-1)
        return PseudoLabels(predictions == truth, predictions, scores, confidence)

    def _letters(self, rows: Rows, num_options: Sequence[int], forced: bool | None) -> Tensor:
        force = self.config.first_token == "forced" if forced is None else forced
        return letter_logits(rows, num_options, self.config.row_budget, forced=force)

    # --- training ----------------------------------------------------------------------------

    def forward(
        self,
        features: Tensor,
        prompts: Prompts,
        targets: Sequence[str] | Tensor,
        *,
        side: Side,
        weights: Tensor | None = None,
        single: bool = False,
    ) -> SevilaOutput:
        """`answerer_loss` or `localizer_loss`, for wrappers that call the module."""
        if side == "answerer":
            return self.answerer_loss(features, prompts, targets, single=single)
        if not isinstance(targets, Tensor):
            raise DataError("the localizer learns from labels per frame, not from texts")
        return self.localizer_loss(features, prompts, targets, weights=weights)

    def answerer_loss(
        self,
        features: Tensor,
        prompts: Prompts,
        targets: Sequence[str] | Tensor,
        *,
        single: bool = False,
    ) -> SevilaOutput:
        """Mean cross entropy over all target tokens (specs/sevila.md 4.1).

        Args:
            features: [B, K, N, C] of the chosen frames, in time order.
            prompts: the answerer's prompts.
            targets: answers as text, or labels [B, L].
            single: each frame answers alone, in a row of its own (the voting baseline).
        """
        backbone = self.backbone
        labels = backbone.labels(targets)
        tokens = backbone.frame_tokens(backbone.answerer, features, "answerer")
        rows = Rows.of(backbone, tokens, prompts, single=single)
        labels = labels[rows.owners.to(labels.device)]
        logits = backbone.target_logits(rows.encode(), labels)
        return SevilaOutput(target_cross_entropy(logits, labels), logits, "answer_loss")

    def localizer_loss(
        self,
        features: Tensor,
        prompts: Prompts,
        labels: Tensor,
        *,
        weights: Tensor | None = None,
    ) -> SevilaOutput:
        """Mean cross entropy of `yes </s>` or `no </s>` over all frames (specs/sevila.md 4.2, 4.3).

        Args:
            features: [B, F, N, C]; every frame is a row of its own.
            prompts: the localizer's prompts.
            labels: bool [B, F], or soft labels from 0 (no) to 1 (yes): the loss is then the
                expectation of the hard one.
            weights: of the frames, [B, F]; 0 leaves a frame out. None: all the same.
        """
        tokens = self.localizer_tokens(features)
        encoded = Rows.of(self.backbone, tokens, prompts, single=True).encode()
        soft = labels.to(self.backbone.device).flatten().float()
        factors = torch.ones_like(soft) if weights is None else weights.to(soft).flatten()
        if self.config.class_balance:
            factors = balanced(factors, soft)
        if bool(((soft == 0) | (soft == 1)).all()):
            losses, logits = self._verdict_losses(encoded, soft == 1)
        else:
            yes, logits = self._verdict_losses(encoded, torch.ones_like(soft, dtype=torch.bool))
            no, _ = self._verdict_losses(encoded, torch.zeros_like(soft, dtype=torch.bool))
            losses = soft * yes + (1 - soft) * no
        return SevilaOutput(weighted_mean(losses, factors), logits, "localizer_loss")

    def verdict_labels(self, positives: Tensor) -> Tensor:
        """Labels [R, 2] of `yes </s>` where positives [R] are true, of `no </s>` elsewhere."""
        tokens = self.backbone.answer_tokens
        words = torch.where(positives, tokens.yes, tokens.no)
        return torch.stack([words, torch.full_like(words, tokens.eos)], dim=1)

    def _verdict_losses(self, encoded: Encoded, positives: Tensor) -> tuple[Tensor, Tensor]:
        labels = self.verdict_labels(positives)
        logits = self.backbone.target_logits(encoded, labels)
        return row_cross_entropies(logits, labels), logits


# --- weights -------------------------------------------------------------------------------------


def side_state(model: Sevila, *names: Side) -> dict[str, Tensor]:
    """Tensors of one side or both under `answerer.*` and `localizer.*`, for a weights artifact."""
    return {
        f"{name}.{key}": tensor
        for name in names
        for key, tensor in model.side(name).state_dict().items()
    }


def load_sides(model: Sevila, state: Mapping[str, Tensor]) -> None:
    """Inverse of `side_state`; each side that occurs must be whole.

    Raises:
        DataError: A name is missing, unexpected or of another shape.
    """
    names = {name.partition(".")[0] for name in state}
    unknown = names - {"answerer", "localizer"}
    if unknown or not names:
        raise DataError(f"no side of SeViLA is called {', '.join(sorted(unknown)) or 'nothing'}")
    for name in sorted(names):
        side: Side = "answerer" if name == "answerer" else "localizer"
        own = {k.partition(".")[2]: v for k, v in state.items() if k.startswith(f"{name}.")}
        load_exactly(model.side(side), own, f"{name} weights")
