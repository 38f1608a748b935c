"""VLAP (arXiv 2312.08367, "ViLA" in its code): teacher on all frames, student on prompted ones.

Reads stored vision features (before `ln_vision`) and prompts; gives losses in training and
answers with frame scores in evaluation. Sections of specs/vlap.md: teacher 1, prompter 2,
distillation 3, inference 4, options 10.

Differences from the published code, all with an option back: evaluation draws no noise
(`eval_noise`), the teacher branch runs the frozen teacher Q-Former in eval mode (`teacher`,
`teacher_mode`), options that a question does not have cannot be chosen (`restrict_options`),
letters are read in one forced pass (`answer`).

Axes: B questions, T frames, K kept, S = T / K, N tokens, C vision width, Q queries,
H Q-Former width, D language width, O options.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from stages.core.config import Config
from stages.core.errors import DataError
from stages.core.optional import require
from stages.models.backbones.frozen_t5 import Encoded, module_mode, restrict_options
from stages.models.backbones.instructblip import InstructBlip, run_qformer
from stages.models.backbones.text import TextBatch
from stages.models.frame_prompter import FramePrompter
from stages.models.losses import (
    distillation_mse,
    label_log_probabilities,
    relevance_cross_entropy,
    target_cross_entropy,
    token_mean_mse,
)
from stages.models.parameters import load_exactly
from stages.models.pooled import pool_tokens
from stages.models.qformer_distiller import DistillDecoder, DistillVariant
from stages.models.question_prompter import QuestionPrompter
from stages.models.selectors import (
    FrameSelection,
    QuestionText,
    RandomSegment,
    UniformMid,
    gumbel_noise,
    segment_size,
)

AnswerMode = Literal["letter", "rank"]
PrompterReads = Literal["tokens", "pooled"]
PrompterName = Literal["visual", "question", "uniform_mid", "random_segment"]
TeacherName = Literal["frozen", "shared", "none"]


class LoraConfig(Config):
    """Low-rank adapters on T5 (specs/vlap.md 5.4)."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update."""
    alpha: int = Field(default=32, ge=1)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before the adapters."""
    targets: tuple[str, ...] = ("q", "v")
    """Names of the linear layers that get one."""


class VlapConfig(Config):
    """What decides a VLAP network and its losses; frame counts have no defaults."""

    silent_at_default: ClassVar[tuple[str, ...]] = ("prompter_reads",)

    frames: int = Field(ge=1)
    """T, frames given to the vision tower."""
    keep: int = Field(ge=1)
    """K, frames kept; must divide `frames`. Equal to `frames`: no prompter."""
    prompter: PrompterName = "visual"
    """`visual` is the paper's, `question` our extension, the others are ablations."""
    prompter_reads: PrompterReads = "tokens"
    """What the question prompter looks at: every token after `ln_vision`, or the pooled tier, of
    which a cache holds less than 1 % of the bytes: then tokens are read of kept frames alone."""
    select: Literal["hard_st", "soft"] = "hard_st"
    """In training: one frame per segment with a straight-through gradient (published code), or
    the segment's weighted mean (the paper's text). Evaluation keeps one frame in any case."""
    eval_noise: bool = False
    """Draw Gumbel noise in evaluation too, as the published code does."""
    teacher: TeacherName = "frozen"
    """Whose Q-Former makes the targets: the teacher's, the student's own (published code), none."""
    teacher_mode: Literal["eval", "train"] = "eval"
    """Whether dropout is active in the teacher branch (`train` in the published code)."""
    distill: Literal["fc_ln", "fc", "fc_ln_fc", "token_mean"] = "fc_ln"
    """Form of the distillation decoder (Table 5), or mean tokens without one."""
    distill_weight: float = Field(default=0.01, ge=0)
    """Weight of the distillation loss."""
    distill_space: Literal["projected", "qformer"] = "projected"
    """Distil the tokens given to T5 (published code) or the Q-Former's outputs (Eq. 7)."""
    relevance_weight: float | None = Field(default=None, ge=0)
    """Extension: weight of the loss that teaches frame scores which frames answer by themselves
    according to the teacher branch. None: 1 for the question prompter, 0 for all others."""
    train_ln_vision: bool = True
    """Train the LayerNorm after the vision tower."""
    answer: Literal["forced_prefix", "generate"] = "forced_prefix"
    """Read letters in one forced decoder pass, or after the reference's free first token."""
    restrict_options: bool = True
    """Options that a question does not have cannot be chosen."""
    frame_prefix_text: bool = False
    """Write `Frame i: ` before each frame's tokens."""
    rank_norm: Literal["sum", "mean"] = "sum"
    """Option scores in rank mode: summed or mean token log-probability."""
    lora: LoraConfig | None = None
    """Adapters on T5, or none."""

    @model_validator(mode="after")
    def _keep_divides_frames(self) -> VlapConfig:
        segment_size(self.frames, self.keep)
        if self.relevance_weight and (
            self.teacher == "none" or self.prompter not in ("visual", "question")
        ):
            raise ValueError("relevance_weight needs a teacher and a prompter that learns")
        if self.prompter_reads == "pooled" and self.prompter != "question":
            raise ValueError("only the question prompter can read the pooled tier")
        return self

    @property
    def relevance(self) -> float:
        """`relevance_weight` with its default filled in."""
        if self.relevance_weight is not None:
            return self.relevance_weight
        return 1.0 if self.prompter == "question" and self.teacher != "none" else 0.0

    @property
    def segment(self) -> int:
        """S, frames per segment."""
        return self.frames // self.keep


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"teacher": "frozen", "teacher_mode": "eval", "eval_noise": False},
    "reference": {
        "teacher": "shared",
        "teacher_mode": "train",
        "eval_noise": True,
        "restrict_options": False,
        "answer": "generate",
    },
}
"""Option values of specs/vlap.md 10; temperature and accumulation are the training config's."""


@dataclass(frozen=True)
class VlapOutput:
    """One training forward: losses (scalars) and what led to them."""

    loss: Tensor
    task_loss: Tensor
    distill_loss: Tensor
    """Unweighted; 0 without a teacher."""
    relevance_loss: Tensor
    """Unweighted; 0 unless `relevance` is on."""
    selection: FrameSelection | None
    logits: Tensor
    """T5's logits at the label positions, [B, L, V]."""

    @property
    def indices(self) -> Tensor | None:
        """Kept frames [B, K]; None when all frames are used."""
        return self.selection.indices if self.selection else None

    @property
    def frame_scores(self) -> Tensor | None:
        """Noise-free probability of each frame in its segment [B, T]."""
        return self.selection.frame_scores if self.selection else None


@dataclass(frozen=True)
class VlapAnswer:
    """Scores of the options [B, O] (-inf: no such option) and the frames they came from."""

    scores: Tensor
    indices: Tensor
    frame_scores: Tensor | None

    @property
    def prediction(self) -> Tensor:
        """Best option [B]; the earlier one on a tie."""
        return self.scores.argmax(dim=-1)


class TeacherBranch(nn.Module):
    """The teacher's Q-Former, queries and projection; never trained."""

    def __init__(self, backbone: InstructBlip) -> None:
        super().__init__()
        self.qformer = copy.deepcopy(backbone.qformer)
        self.query_tokens = nn.Parameter(backbone.query_tokens.detach().clone())
        self.language_projection = copy.deepcopy(backbone.language_projection)
        self.requires_grad_(False)


class VlapTeacher(nn.Module):
    """Multi-frame question answering: the teacher on T frames, or the K-frame start.

    With `keep` < `frames` one random frame of each segment is used in training and the middle
    one in evaluation (`vqa train-teacher --keep K`).
    """

    def __init__(self, backbone: InstructBlip, config: VlapConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.sampler: nn.Module | None = None
        if config.keep != config.frames:
            sampler = {"uniform_mid": UniformMid}.get(config.prompter, RandomSegment)
            self.sampler = sampler(config.frames, config.keep)
        prepare_backbone(backbone, config)

    def forward(
        self,
        features: Tensor,
        text: TextBatch,
        targets: Sequence[str] | Tensor,
        noise: Tensor | None = None,
        tau: float = 1.0,
    ) -> VlapOutput:
        """Features [B, T, N, C] before `ln_vision` -> losses; `noise` [B, K, S] draws frames."""
        frames = self.backbone.normalise(check_frames(features, self.config.frames))
        selection = self.sampler(frames, noise=noise) if self.sampler else None
        kept = selection.gather(frames) if selection else frames
        visual = self.backbone.visual_tokens(kept, text)
        loss, logits = task_loss(self.backbone, self.config, visual, text, targets)
        return VlapOutput(loss, loss, loss.new_zeros(()), loss.new_zeros(()), selection, logits)

    @torch.no_grad()
    def answer(
        self,
        features: Tensor,
        text: TextBatch,
        *,
        mode: AnswerMode,
        num_options: Sequence[int] | None = None,
        options: Sequence[Sequence[str]] | None = None,
    ) -> VlapAnswer:
        """Answer from all T frames (or the middle ones of `keep` segments)."""
        kept, indices = check_frames(features, self.config.frames), None
        if self.sampler:
            selection = self.sampler(features)
            kept, indices = selection.gather(features), selection.indices
        scores = answer_frames(
            self.backbone, self.config, kept, text,
            mode=mode, num_options=num_options, options=options,
        )  # fmt: skip
        if indices is None:
            every = torch.arange(self.config.frames, device=scores.device)
            indices = every.expand(len(scores), -1)
        return VlapAnswer(scores, indices, None)


class VlapStudent(nn.Module):
    """Frame-Prompter, Q-Former and distillation decoder; the teacher branch only in training."""

    def __init__(
        self,
        backbone: InstructBlip,
        config: VlapConfig,
        *,
        tokens: int,
        with_teacher: bool = True,
    ) -> None:
        """
        Args:
            backbone: weights of the student's start.
            config: the options.
            tokens: N, tokens a frame of the stored features.
            with_teacher: build the training-only parts; False for inference.
        """
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.frame_prompter = build_prompter(backbone, config, tokens)
        self.distill_decoder: DistillDecoder | None = None
        self.teacher: TeacherBranch | None = None
        if with_teacher and config.teacher != "none":
            self.teacher = TeacherBranch(backbone)
            if config.distill != "token_mean":
                self.distill_decoder = build_decoder(backbone, config, config.distill)
        prepare_backbone(backbone, config)

    def train(self, mode: bool = True) -> VlapStudent:
        """Train mode for the student; a frozen teacher in `eval` mode stays there."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.train(mode and self.config.teacher_mode == "train")
        return self

    def load_teacher(self, state: Mapping[str, Tensor]) -> None:
        """Take Q-Former, queries and projection from a teacher's `trained_state`."""
        if self.teacher is None:
            raise DataError("this student was built without a teacher branch")
        wanted = self.teacher.state_dict()
        load_exactly(self.teacher, {k: v for k, v in state.items() if k in wanted}, "teacher")

    def draw_noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Gumbel noise [B, K, S] on the model's device, drawn on the CPU (same on all devices)."""
        shape = (batch, self.config.keep, self.config.segment)
        return gumbel_noise(shape, generator=generator).to(self.backbone.device)

    def forward(
        self,
        features: Tensor,
        text: TextBatch,
        targets: Sequence[str] | Tensor,
        noise: Tensor | None = None,
        tau: float = 1.0,
        teacher_targets: Tensor | None = None,
        relevance_targets: Tensor | None = None,
    ) -> VlapOutput:
        """Task loss plus weighted distillation loss (specs/vlap.md 3.1).

        Args:
            features: [B, T, N, C] before `ln_vision`.
            text: the prompts, encoded as in training.
            targets: answers as text, or labels [B, L].
            noise: Gumbel noise [B, K, S]; None chooses by argmax.
            tau: temperature; shapes the gradient only.
            teacher_targets: [B, T * Q, D] from `teacher_targets`, to save the teacher's pass.
            relevance_targets: [B, T] from `relevance_targets`, to save its passes.
        """
        backbone, config = self.backbone, self.config
        frames = backbone.normalise(check_frames(features, config.frames))
        selection = self._prompt(self._looked_at(features, frames), text, noise, tau)
        outputs = backbone.query_outputs(selection.gather(frames), text)
        visual = backbone.project(outputs)
        task, logits = task_loss(backbone, config, visual, text, targets)
        distill = relevance = task.new_zeros(())
        seen = self._teacher_sees(frames, text, teacher_targets, relevance_targets)
        if config.teacher != "none":
            student = visual if config.distill_space == "projected" else outputs.flatten(1, 2)
            wanted = self._targets(seen) if teacher_targets is None else teacher_targets
            distill = self._distill_loss(student, wanted)
        if config.relevance:
            if relevance_targets is None:
                relevance_targets = self._relevance(seen, text, backbone.labels(targets))
            relevance = relevance_cross_entropy(selection.logits.flatten(1), relevance_targets)
        loss = task + config.distill_weight * distill + config.relevance * relevance
        return VlapOutput(loss, task, distill, relevance, selection, logits)

    @torch.no_grad()
    def teacher_targets(self, features: Tensor, text: TextBatch) -> Tensor:
        """Targets [B, T * Q, D] (or H in Q-Former space) from features before `ln_vision`.

        They may be kept and reused with a frozen teacher in eval mode. With a trained
        `ln_vision` kept targets are those of the norm at the time, which then moves on.
        """
        frames = self.backbone.normalise(check_frames(features, self.config.frames))
        return self._targets(self._teacher_outputs(frames, text))

    @torch.no_grad()
    def relevance_targets(
        self, features: Tensor, text: TextBatch, targets: Sequence[str] | Tensor
    ) -> Tensor:
        """Log-probability of the right answer from each frame alone [B, T], by the teacher branch.

        May be kept and reused like `teacher_targets`.
        """
        return self.both_targets(features, text, targets)[1]

    @torch.no_grad()
    def both_targets(
        self, features: Tensor, text: TextBatch, targets: Sequence[str] | Tensor
    ) -> tuple[Tensor, Tensor]:
        """`teacher_targets` and `relevance_targets` from one pass of the teacher branch."""
        frames = self.backbone.normalise(check_frames(features, self.config.frames))
        seen = self._teacher_outputs(frames, text)
        return self._targets(seen), self._relevance(seen, text, self.backbone.labels(targets))

    @torch.no_grad()
    def select(
        self, features: Tensor, text: TextBatch, generator: torch.Generator | None = None
    ) -> FrameSelection:
        """Choose frames in evaluation: argmax, or with noise if `eval_noise` says so."""
        frames = self.backbone.normalise(check_frames(features, self.config.frames))
        return self._select(self._looked_at(features, frames), text, generator)

    @torch.no_grad()
    def select_pooled(
        self, pooled: Tensor, text: TextBatch, generator: torch.Generator | None = None
    ) -> FrameSelection:
        """The same from the pooled tier [B, T, 2, C], for `prompter_reads` of that name."""
        return self._select(check_frames(pooled, self.config.frames).float(), text, generator)

    @torch.no_grad()
    def answer(
        self,
        features: Tensor,
        text: TextBatch,
        *,
        mode: AnswerMode,
        num_options: Sequence[int] | None = None,
        options: Sequence[Sequence[str]] | None = None,
        selection: FrameSelection | None = None,
        generator: torch.Generator | None = None,
    ) -> VlapAnswer:
        """Select frames and answer from them.

        Args:
            features: [B, T, N, C] before `ln_vision`.
            text: the prompts, encoded as in evaluation.
            mode: `letter` needs `num_options`, `rank` needs `options`.
            num_options: options per question.
            options: options' texts per question.
            selection: frames chosen elsewhere; None asks the prompter.
            generator: for `eval_noise`.
        """
        selection = selection or self.select(features, text, generator)
        kept = selection.gather(features.float())
        scores = answer_frames(
            self.backbone, self.config, kept, text,
            mode=mode, num_options=num_options, options=options,
        )  # fmt: skip
        return VlapAnswer(scores, selection.indices, selection.frame_scores)

    def _looked_at(self, features: Tensor, frames: Tensor) -> Tensor:
        """What the prompter sees of `features`, which are `frames` after `ln_vision`."""
        return pool_tokens(features).float() if self.config.prompter_reads == "pooled" else frames

    def _select(
        self, looked_at: Tensor, text: TextBatch, generator: torch.Generator | None
    ) -> FrameSelection:
        noise = self.draw_noise(len(looked_at), generator) if self.config.eval_noise else None
        return self._prompt(looked_at, text, noise, tau=0.01)

    def _prompt(
        self, frames: Tensor, text: TextBatch, noise: Tensor | None, tau: float
    ) -> FrameSelection:
        question = None
        if self.config.prompter == "question":
            words = self.backbone.word_embeddings(text).detach()
            question = QuestionText(words, text.t5_mask)
        # Always float32: it costs next to nothing, and half-precision scores tie.
        with torch.autocast(frames.device.type, enabled=False):
            return self.frame_prompter(frames, noise=noise, tau=tau, question=question)

    def _teacher_sees(
        self,
        frames: Tensor,
        text: TextBatch,
        teacher_targets: Tensor | None,
        relevance_targets: Tensor | None,
    ) -> Tensor:
        """The teacher branch's outputs, or nothing where every target that is needed is there."""
        distills = self.config.teacher != "none" and teacher_targets is None
        if distills or (self.config.relevance and relevance_targets is None):
            return self._teacher_outputs(frames, text)
        return frames.new_empty(0)

    @torch.no_grad()
    def _teacher_outputs(self, frames: Tensor, text: TextBatch) -> Tensor:
        """The teacher branch's Q-Former on all frames after `ln_vision`: [B, T, Q, H]."""
        if self.teacher is None:
            raise DataError("distillation needs a teacher branch or ready teacher targets")
        shared = self.config.teacher == "shared"
        qformer = self.backbone.qformer if shared else self.teacher.qformer
        training = self.training and self.config.teacher_mode == "train"
        with module_mode(qformer, training=training), self.backbone.vision_precision():
            return run_qformer(qformer, self.teacher.query_tokens, frames, text)

    def _teacher_tokens(self, outputs: Tensor) -> Tensor:
        assert self.teacher is not None
        with self.backbone.vision_precision():
            return self.teacher.language_projection(outputs)

    @torch.no_grad()
    def _targets(self, outputs: Tensor) -> Tensor:
        if self.config.distill_space == "qformer":
            return outputs.flatten(1, 2)
        return self._teacher_tokens(outputs).flatten(1, 2)

    @torch.no_grad()
    def _relevance(self, outputs: Tensor, text: TextBatch, labels: Tensor) -> Tensor:
        tokens = self._teacher_tokens(outputs)
        with module_mode(self.backbone.language_model, training=False):
            return frame_likelihoods(self.backbone, tokens, text, labels)

    def _distill_loss(self, student: Tensor, targets: Tensor) -> Tensor:
        if self.config.distill == "token_mean":
            return token_mean_mse(student, targets)
        assert self.distill_decoder is not None
        with self.backbone.language_precision():
            decoded = self.distill_decoder(student)
        return distillation_mse(decoded, targets)


# --- shared by teacher and student ---------------------------------------------------------------


def check_frames(features: Tensor, frames: int) -> Tensor:
    """Features [B, T, N, C] as they are, or `DataError` if T is not `frames`."""
    if features.ndim != 4 or features.shape[1] != frames:
        raise DataError(f"features of shape {tuple(features.shape)}, expected {frames} frames")
    return features


def task_loss(
    backbone: InstructBlip,
    config: VlapConfig,
    visual: Tensor,
    text: TextBatch,
    targets: Sequence[str] | Tensor,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the answer and the logits it came from."""
    encoded = backbone.encode(visual, text, frame_prefixes=config.frame_prefix_text)
    labels = backbone.labels(targets)
    logits = backbone.target_logits(encoded, labels)
    return target_cross_entropy(logits, labels), logits


@torch.no_grad()
def frame_likelihoods(
    backbone: InstructBlip,
    tokens: Tensor,
    text: TextBatch,
    labels: Tensor,
    *,
    rows: int = 512,
) -> Tensor:
    """Log-probability of the labels [B, L] from each frame's tokens [B, T, Q, D] alone: [B, T].

    At most `rows` frames go through the language model at once.
    """
    B, T = tokens.shape[:2]
    owners = torch.arange(B, device=tokens.device).repeat_interleave(T)
    singles = tokens.flatten(0, 1)  # (B * T, Q, D)
    parts: list[Tensor] = []
    for start in range(0, B * T, rows):
        owner = owners[start : start + rows]
        encoded = backbone.encode(singles[start : start + rows], text.rows(owner))
        logits = backbone.target_logits(encoded, labels[owner])
        parts.append(label_log_probabilities(logits, labels[owner])[0])
    return torch.cat(parts).reshape(B, T)


@torch.no_grad()
def answer_frames(
    backbone: InstructBlip,
    config: VlapConfig,
    features: Tensor,
    text: TextBatch,
    *,
    mode: AnswerMode,
    num_options: Sequence[int] | None = None,
    options: Sequence[Sequence[str]] | None = None,
) -> Tensor:
    """Scores [B, O] of the options from chosen frames' features [B, K, N, C], whoever chose."""
    visual = backbone.visual_tokens(backbone.normalise(features), text)
    encoded = backbone.encode(visual, text, frame_prefixes=config.frame_prefix_text)
    if mode == "rank":
        if options is None:
            raise DataError("rank answers need the options' texts")
        return backbone.rank_scores(encoded, options, norm=config.rank_norm)
    return _letter_scores(backbone, config, encoded, num_options)


def _letter_scores(
    backbone: InstructBlip,
    config: VlapConfig,
    encoded: Encoded,
    num_options: Sequence[int] | None,
) -> Tensor:
    if config.answer == "generate":
        letters = backbone.greedy_letters(encoded).letter_logits
    else:
        letters = backbone.letter_logits(encoded)
    if not config.restrict_options:
        return letters
    if num_options is None:
        raise DataError("letter answers need the number of options of each question")
    if max(num_options) > letters.shape[1]:
        raise DataError(f"{max(num_options)} options, but letters A to E only")
    return restrict_options(letters, num_options)


def build_prompter(backbone: InstructBlip, config: VlapConfig, tokens: int) -> nn.Module:
    """The frame prompter that `config` names."""
    frames, keep = config.frames, config.keep
    if config.prompter == "visual":
        return FramePrompter(frames, keep, tokens, config.select)
    if config.prompter == "question":
        channels = backbone.ln_vision.normalized_shape[0]
        width = backbone.language_model.config.d_model
        return QuestionPrompter(frames, keep, channels, width, select=config.select)
    if config.prompter == "random_segment":
        return RandomSegment(frames, keep)
    return UniformMid(frames, keep)


def build_decoder(
    backbone: InstructBlip, config: VlapConfig, variant: DistillVariant
) -> DistillDecoder:
    """D between K * Q and T * Q tokens."""
    queries = backbone.num_queries
    return DistillDecoder(queries * config.keep, queries * config.frames, variant)


def prepare_backbone(backbone: InstructBlip, config: VlapConfig) -> None:
    """Decide what trains: T5 never (but its adapters), `ln_vision` as `config` says."""
    backbone.freeze()
    backbone.ln_vision.requires_grad_(config.train_ln_vision)
    if config.lora is not None:
        add_lora(backbone, config.lora)


def add_lora(backbone: InstructBlip, config: LoraConfig) -> None:
    """Put adapters into T5's attention in place (specs/vlap.md 5.4); needs the extra `lora`."""
    peft = require("peft", "lora")
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        bias="none",
        target_modules=list(config.targets),
    )
    peft.inject_adapter_in_model(settings, backbone.language_model)
    for name, parameter in backbone.language_model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


# --- weights -------------------------------------------------------------------------------------


def trained_state(model: VlapTeacher | VlapStudent) -> dict[str, Tensor]:
    """What a weights artifact holds: everything that is not the frozen T5 or the teacher branch.

    Names are those of `reference_names` (`qformer.*`, `ln_vision.*`, `frame_prompter.*`, ...).
    """
    return {
        name.removeprefix("backbone."): tensor
        for name, tensor in model.state_dict().items()
        if is_trained_name(name.removeprefix("backbone."))
    }


def is_trained_name(name: str) -> bool:
    """Whether a tensor belongs into a weights artifact."""
    if name.startswith("language_model."):
        return "lora_" in name
    return not name.startswith("teacher.")


def load_trained_state(
    model: VlapTeacher | VlapStudent, state: Mapping[str, Tensor], *, start: bool = False
) -> None:
    """Inverse of `trained_state`, strict about names and shapes.

    Args:
        start: `state` is a start for this student: prompter, decoder and adapters may be absent
            and keep their initial values; extras of other kinds are ignored.
    """
    own = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if is_trained_name(name.removeprefix("backbone."))
    }
    given = {_inside(name): tensor for name, tensor in state.items()}
    if start:
        optional = ("frame_prompter.", "distill_decoder.")
        given = {name: tensor for name, tensor in given.items() if name in own}
        missing_ok = {n for n in own if n.startswith(optional) or "lora_" in n}
        given = {n: own[n] for n in missing_ok} | given
    elif not any(name.startswith("distill_decoder.") for name in own):
        # D exists in training only.
        given = {n: t for n, t in given.items() if not n.startswith("distill_decoder.")}
    load_exactly(model, given, "weights", expected=set(own))


def _inside(name: str) -> str:
    """Name in a VLAP module of a name in a weights artifact."""
    outside = ("frame_prompter.", "distill_decoder.", "teacher.")
    return name if name.startswith(outside) else f"backbone.{name}"


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Named parameters that get a gradient, under the names of `trained_state`."""
    return [
        (name.removeprefix("backbone."), parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
