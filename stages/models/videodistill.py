"""VideoDistill (arXiv 2404.00973): a question chooses frames, refines them, and is answered from
one visual vector that no text was added to.

Reads stored CLIP features of N frames, patches [P, C] and a frame CLS each, and sentences as ids.
Two ways through the network give the same numbers:

- training, all in memory: `forward` (losses) or `see` (v_cls*);
- evaluation, frame by frame: `select` reads the CLS table alone and says which frames it wants;
  `refine` reads their patches. `soft` sampling has no such way (`reads_all_frames`).

v_cls* depends on the sentence, so every (sentence, video) pair is a row of its own: `videos` says
which video each row goes with. Sentences are encoded once (`encode_text`, `EncodedText.rows`).

CLIP's vision tower is not here and never trained; its text tower is, and always trained. What was
decided where the paper is silent: `videodistill_config`, and each part's own docstring.

Axes: V videos, N frames, K slots, P patches, C vision width, R rows, M words, D width, A answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.errors import DataError
from stages.models.attention import BlockOptions
from stages.models.la_gate import EncodedText
from stages.models.losses import IGNORED
from stages.models.matching import (
    Exchange,
    by_question,
    choice_loss,
    contrastive_loss,
    exchange_captions,
    matched_scores,
    matching_loss,
    similarities,
)
from stages.models.mlm import GuidedWordHead, MaskedCaptions, guided_word_loss, mask_captions
from stages.models.parameters import load_exactly
from stages.models.selectors import gumbel_noise
from stages.models.sparse_sampler import FrameSlots, SparseSampler, fixed_slots, uniform_slots
from stages.models.text_tower import TextTower, TokenIds
from stages.models.videodistill_config import VideoDistillConfig
from stages.models.vision_refinement import Fusion, VisionRefinement

Task = Literal["open-ended", "choice", "contrastive", "captions"]
HEADS = ("answer", "matched", "contrastive_video", "contrastive_text", "mlm")


@dataclass(frozen=True)
class VideoFeatures:
    """Frozen features of whole videos: frame CLS [V, N, C'] and patches [V, N, P, C]."""

    cls: Tensor
    patches: Tensor


@dataclass(frozen=True)
class OpenEnded:
    """Answers as places in the vocabulary, int [R]; -100 is outside of it and does not count."""

    answers: Tensor


@dataclass(frozen=True)
class Choice:
    """Rows are candidates (texts or videos), question after question, `counts` of each;
    `answers` is the right one, int [B]."""

    counts: tuple[int, ...]
    answers: Tensor


@dataclass(frozen=True)
class Contrastive:
    """Row i's sentence describes row i's video and no other (retrieval)."""


@dataclass(frozen=True)
class Captions:
    """What chance decides in a pre-training step: exchanged captions and hidden words."""

    exchange: Exchange
    masked: MaskedCaptions


Target = OpenEnded | Choice | Contrastive | Captions


@dataclass(frozen=True)
class Seen:
    """v_cls* [R, D] and the slots it was made from."""

    v_cls: Tensor
    slots: FrameSlots


@dataclass(frozen=True)
class VideoDistillOutput:
    """One training forward: the loss, its unweighted parts by name, and what led to them.

    `logits`: of the answers [R, A]; scores of the candidates [B, O]; cosines of the rows' videos
    and sentences [R, R]; matching logits [R, 2] of captions.
    """

    loss: Tensor
    parts: Mapping[str, Tensor]
    logits: Tensor
    seen: Seen


class InputProjection(nn.Module):
    """LayerNorm and Linear from a tower's width to D."""

    def __init__(self, width: int, out: int, *, norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.linear = nn.Linear(width, out)

    def forward(self, features: Tensor) -> Tensor:
        """Stored features in any precision [..., width] -> [..., D]."""
        return self.linear(self.norm(features.to(self.linear.weight.dtype)))


class AnswerHead(nn.Module):
    """v_cls* -> Linear(D -> D), GELU, Linear(D -> A); sees no text."""

    def __init__(self, width: int, answers: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.vocabulary = nn.Linear(width, answers)

    def forward(self, v_cls: Tensor) -> Tensor:
        """[R, D] -> [R, A]."""
        return self.vocabulary(self.dropout(F.gelu(self.hidden(v_cls))))


class VideoDistill(nn.Module):
    """Sampler, refinement and heads over CLIP's features and its text tower."""

    def __init__(
        self,
        text: TextTower,
        config: VideoDistillConfig,
        *,
        patches: int,
        patch_width: int,
        cls_width: int | None = None,
        with_captions: bool = False,
        frame_chunk: int | None = None,
    ) -> None:
        """
        Args:
            text: CLIP's text tower; trained with the rest.
            config: the options.
            patches: P of the stored features.
            patch_width: C of the stored patches.
            cls_width: width of the stored frame CLS; None: as the patches.
            with_captions: build the head that only pre-training needs.
            frame_chunk: frames whose patches are converted at a time in training (memory only).
        """
        super().__init__()
        self.config = config
        self.frame_chunk = frame_chunk
        width, norm = config.width, config.input_norm
        self.text = text
        self.project_text = InputProjection(text.width, width, norm=norm)
        self.project_patches = InputProjection(patch_width, width, norm=norm)
        self.project_cls: InputProjection | None = None
        self.sampler = build_sampler(config)
        if self.sampler is not None:
            self.project_cls = InputProjection(cls_width or patch_width, width, norm=norm)
        self.refinement = build_refinement(config, patches)
        self.matched = nn.Linear(width, 2)
        self.answer = AnswerHead(width, config.answers, config.dropout) if config.answers else None
        self.contrastive_video = self.contrastive_text = None
        if config.contrastive_width:
            self.contrastive_video = nn.Linear(width, config.contrastive_width, bias=False)
            self.contrastive_text = nn.Linear(width, config.contrastive_width, bias=False)
        self.mlm = GuidedWordHead(width, text.vocabulary) if with_captions else None
        text.mask_embedding.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.matched.weight.device

    @property
    def reads_all_frames(self) -> bool:
        """Whether evaluation needs the patches of all N frames (soft sampling)."""
        return self.config.sampler == "soft"

    # --- from sentences and features to v_cls* -----------------------------------------------

    def encode_text(self, tokens: TokenIds, masked: Tensor | None = None) -> EncodedText:
        """Sentences as the gates see them; `masked` [R, M] hides words."""
        seen = self.text(tokens, masked)
        return EncodedText(
            self.project_text(seen.sentence), self.project_text(seen.words), tokens.mask
        )

    def draw_noise(
        self, rows: int, frames: int, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Gumbel noise [R, K, N] where the config wants it in this mode, drawn on the CPU."""
        wanted = self.config.train_noise if self.training else self.config.eval_noise
        if self.sampler is None or not wanted:
            return None
        shape = (rows, self.config.keep, frames)
        return gumbel_noise(shape, generator=generator).to(self.device)

    def select(
        self,
        cls: Tensor,
        text: EncodedText,
        *,
        videos: Tensor | None = None,
        noise: Tensor | None = None,
        tau: float | None = None,
    ) -> FrameSlots:
        """Choose frames for each row from the CLS table alone.

        Args:
            cls: frame CLS [V, N, C'] in any precision.
            text: R sentences.
            videos: int [R], the video of each row; None: row i goes with video i.
            noise: from `draw_noise`; None: the best frame of each slot.
            tau: temperature; None: the config's last.
        """
        rows, frames = _rows(cls, text, videos), cls.shape[1]
        if self.sampler is None or self.project_cls is None:
            if self.config.sampler == "none":
                every = torch.arange(frames, device=cls.device)
                return fixed_slots(every.expand(rows, -1), frames)
            return uniform_slots(rows, frames, self.config.keep, cls.device)
        # Always the weights' precision: it costs next to nothing, and half-precision scores tie.
        with torch.autocast(cls.device.type, enabled=False):
            projected = self.project_cls(cls)
            table = projected if videos is None else projected[videos]
            sentences = text.to_dtype(projected.dtype)
            temperature = self.config.tau_at(1.0) if tau is None else tau
            return self.sampler(table, sentences, noise=noise, tau=temperature)

    def refine(self, patches: Tensor, text: EncodedText) -> Tensor:
        """Patches of the chosen frames [R, K, P, C] and their questions -> v_cls* [R, D]."""
        if patches.ndim != 4 or len(patches) != len(text):
            raise DataError(
                f"patches of shape {tuple(patches.shape)} for {len(text)} sentences, "
                "expected (rows, slots, patches, width)"
            )
        return self.refinement(self.project_patches(patches), text)

    def see(
        self,
        video: VideoFeatures,
        text: EncodedText,
        *,
        videos: Tensor | None = None,
        noise: Tensor | None = None,
        tau: float | None = None,
    ) -> Seen:
        """`select` and `refine` with the patches of all frames in memory, so that every frame's
        soft weight gets its gradient."""
        slots = self.select(video.cls, text, videos=videos, noise=noise, tau=tau)
        kept = slots.gather(video.patches, videos=videos, chunk=self.frame_chunk)
        return Seen(self.refine(kept, text), slots)

    def gaussian_video(
        self, rows: int, cls: Tensor, patches: Tensor, generator: torch.Generator | None = None
    ) -> VideoFeatures:
        """Standard normal features for `rows` videos, shaped like the given ones and blind to
        them; the input norms take their scale away (language-only runs, Table 11)."""
        shapes = (rows, *cls.shape[1:]), (rows, *patches.shape[1:])
        drawn = [torch.randn(shape, generator=generator).to(self.device) for shape in shapes]
        return VideoFeatures(*drawn)

    # --- heads -------------------------------------------------------------------------------

    def answer_logits(self, v_cls: Tensor) -> Tensor:
        """Scores of the answer vocabulary, [R, A]."""
        if self.answer is None:
            raise DataError(
                "these weights have no answer head", "open-ended training builds one (`answers`)"
            )
        return self.answer(v_cls)

    def match_scores(self, v_cls: Tensor) -> Tensor:
        """How well each row's sentence and video match, [R]."""
        return matched_scores(self.matched(v_cls).float(), self.config.match_score)

    def contrastive_pair(self, v_cls: Tensor, text: EncodedText) -> tuple[Tensor, Tensor]:
        """v_cls* and t_cls as the contrastive loss compares them, [R, W] each."""
        if self.contrastive_video is None or self.contrastive_text is None:
            return v_cls, text.sentence
        return self.contrastive_video(v_cls), self.contrastive_text(text.sentence)

    def similarity(self, v_cls: Tensor, text: EncodedText) -> Tensor:
        """Cosine of each row's v_cls* and t_cls, [R]; what contrastive retrieval ranks by."""
        video, sentence = self.contrastive_pair(v_cls, text)
        return F.cosine_similarity(video.float(), sentence.float(), dim=-1)

    # --- training ----------------------------------------------------------------------------

    def train_for(self, task: Task) -> VideoDistill:
        """Train everything but the heads that `task` does not use (call it before the optimiser).

        Raises:
            DataError: the network was built without a head that the task needs.
        """
        used = _heads_of(task, self.config)
        if "mlm" in used and self.mlm is None:
            raise DataError("pre-training needs a network built with_captions")
        if "answer" in used and self.answer is None:
            raise DataError("open-ended training needs the size of the answer vocabulary")
        for name in HEADS:
            head = getattr(self, name)
            if head is not None:
                head.requires_grad_(name in used)
        learns = self.config.mask_token == "learned" and not self.config.mlm_stopgrad
        self.text.mask_embedding.requires_grad_("mlm" in used and learns)
        return self

    def draw_captions(self, tokens: TokenIds, generator: torch.Generator | None = None) -> Captions:
        """Exchange captions and hide words for one pre-training step."""
        exchange = exchange_captions(tokens, generator)
        return Captions(exchange, mask_captions(tokens, self.text.vocabulary, generator))

    def forward(
        self,
        video: VideoFeatures,
        tokens: TokenIds,
        target: Target,
        *,
        videos: Tensor | None = None,
        noise: Tensor | None = None,
        tau: float | None = None,
    ) -> VideoDistillOutput:
        """The loss of one step, whatever the target.

        Args:
            video: features of all frames.
            tokens: R sentences; of `Captions` each video's own one.
            target: the task and its labels.
            videos: int [R], the video of each row; None: row i goes with video i.
            noise: from `draw_noise`.
            tau: from `config.tau_at`; None: the last.
        """
        encoded = self.encode_text(tokens)
        given = encoded.rows(target.exchange.source) if isinstance(target, Captions) else encoded
        seen = self.see(video, given, videos=videos, noise=noise, tau=tau)
        if isinstance(target, OpenEnded):
            return self._open_ended(seen, target)
        if isinstance(target, Choice):
            return self._choice(seen, target)
        if isinstance(target, Contrastive):
            return self._contrastive(seen, given)
        return self._captions(seen, given, tokens, target)

    def _open_ended(self, seen: Seen, target: OpenEnded) -> VideoDistillOutput:
        logits = self.answer_logits(seen.v_cls)
        total = F.cross_entropy(
            logits.float(), target.answers, ignore_index=IGNORED, reduction="sum"
        )
        loss = total / (target.answers != IGNORED).sum().clamp_min(1)
        return VideoDistillOutput(loss, {"answer": loss}, logits, seen)

    def _choice(self, seen: Seen, target: Choice) -> VideoDistillOutput:
        config, logits = self.config, self.matched(seen.v_cls)
        loss = choice_loss(
            logits, target.counts, target.answers, loss=config.choice_loss, score=config.match_score
        )
        scores = by_question(matched_scores(logits, config.match_score), target.counts)
        return VideoDistillOutput(loss, {"choice": loss}, scores, seen)

    def _contrastive(self, seen: Seen, text: EncodedText) -> VideoDistillOutput:
        video, sentence = self.contrastive_pair(seen.v_cls, text)
        everyone = torch.ones(len(video), dtype=torch.bool, device=video.device)
        temperature = self.config.contrastive_temperature
        loss = contrastive_loss(video, sentence, everyone, temperature=temperature)
        parts = {"contrastive": loss}
        return VideoDistillOutput(loss, parts, similarities(video, sentence), seen)

    def _captions(
        self, seen: Seen, given: EncodedText, tokens: TokenIds, target: Captions
    ) -> VideoDistillOutput:
        """VTM + CL + VG-MLM (Eq. 10), each by its weight; a weight of 0 is not computed."""
        config, matched = self.config, target.exchange.matched
        logits = self.matched(seen.v_cls)
        parts: dict[str, Tensor] = {}
        if config.vtm_weight:
            parts["vtm"] = matching_loss(logits, matched)
        if config.contrastive_weight:
            video, sentence = self.contrastive_pair(seen.v_cls, given)
            parts["contrastive"] = contrastive_loss(
                video,
                sentence,
                matched,
                temperature=config.contrastive_temperature,
                negatives=config.contrastive_negatives,
            )
        if config.mlm_weight:
            parts["mlm"] = self._guess_words(seen.v_cls, tokens, target)
        loss = sum(
            (getattr(config, f"{k}_weight") * v for k, v in parts.items()), logits.new_zeros(())
        )
        return VideoDistillOutput(loss, parts, logits, seen)

    def _guess_words(self, v_cls: Tensor, tokens: TokenIds, target: Captions) -> Tensor:
        """VG-MLM on the matched rows."""
        if self.mlm is None:
            raise DataError("pre-training needs a network built with_captions")
        rows = torch.nonzero(target.exchange.matched).flatten()
        masked = target.masked
        words = self._hidden_words(tokens.rows(rows), masked.ids[rows], masked.masked[rows])
        return guided_word_loss(self.mlm, words, v_cls[rows], masked.hidden[rows], tokens.ids[rows])

    def _hidden_words(self, tokens: TokenIds, shown: Tensor, masked: Tensor) -> Tensor:
        """w_i^M: the masked captions' words [R, M, D], without a gradient unless asked for."""
        if not len(tokens):
            return torch.zeros(*shown.shape, self.config.width, device=shown.device)
        hide: Tensor | None = masked
        if self.config.mask_token == "end":
            ends = tokens.ids.gather(1, tokens.mask.sum(dim=1, keepdim=True) - 1)
            shown, hide = torch.where(masked, ends, shown), None
        learns = torch.is_grad_enabled() and not self.config.mlm_stopgrad
        with torch.set_grad_enabled(learns):
            return self.encode_text(TokenIds(shown, tokens.mask), hide).words


def build_sampler(config: VideoDistillConfig) -> SparseSampler | None:
    """The learned sampler, or none."""
    if config.sampler not in ("hard", "soft"):
        return None
    return SparseSampler(
        config.positions, config.keep, config.layers, block_options(config),
        mode="soft" if config.sampler == "soft" else "hard", sort=config.sort_slots,
    )  # fmt: skip


def build_refinement(config: VideoDistillConfig, patches: int) -> VisionRefinement | Fusion:
    """What turns chosen frames into v_cls*."""
    sizes = (config.keep, patches, config.layers, block_options(config))
    if not config.refinement:
        return Fusion(*sizes, final_norm=config.final_norm)
    return VisionRefinement(*sizes, skip=config.refine_skip, final_norm=config.final_norm)


def block_options(config: VideoDistillConfig) -> BlockOptions:
    """What the blocks of one network share."""
    return BlockOptions(
        config.width, config.heads, config.fusion, config.gate_norm,
        config.mlp_ratio, config.activation, config.dropout,
    )  # fmt: skip


def _heads_of(task: Task, config: VideoDistillConfig) -> set[str]:
    """Heads that get a gradient from a task."""
    contrastive = {"contrastive_video", "contrastive_text"}
    if task != "captions":
        used = {"open-ended": {"answer"}, "choice": {"matched"}, "contrastive": contrastive}
        return used[task]
    return (
        ({"matched"} if config.vtm_weight else set())
        | (contrastive if config.contrastive_weight else set())
        | ({"mlm"} if config.mlm_weight else set())
    )


def _rows(cls: Tensor, text: EncodedText, videos: Tensor | None) -> int:
    """R, after checking that sentences and videos go together."""
    if cls.ndim != 3:
        raise DataError(f"frame CLS of shape {tuple(cls.shape)}, expected (videos, frames, width)")
    owners = len(cls) if videos is None else len(videos)
    if owners != len(text):
        raise DataError(f"{len(text)} sentences for {owners} videos", "say which goes with which")
    return len(text)


# --- weights -------------------------------------------------------------------------------------


def load_weights(model: VideoDistill, state: Mapping[str, Tensor], *, start: bool = False) -> None:
    """Copy a `state_dict` of the same network, strict about names and shapes.

    Args:
        model: filled in place.
        state: all of it was trained; the text tower is in it.
        start: begin a training from other weights (a pre-training's): heads that are missing
            there keep their values, heads that are missing here or of another size are ignored.
    """
    given = dict(state)
    if start:
        own = model.state_dict()
        heads = {name: tensor for name, tensor in own.items() if name.split(".")[0] in HEADS}
        given = {n: t for n, t in given.items() if n.split(".")[0] not in HEADS}
        fitting = {
            n: state[n] for n, t in heads.items() if n in state and state[n].shape == t.shape
        }
        given |= heads | fitting
    load_exactly(model, given, "weights")
