"""VLAP as a system: frame prompter × InstructBLIP, loaded from weights artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stages.artifacts.store import Artifact
from stages.artifacts.weights import backbone_of, read_weights
from stages.benchmarks.manifest import PromptRule, load_manifest
from stages.benchmarks.prompts import AnswerMode, candidates, letter_problem, prompt
from stages.benchmarks.questions import Question
from stages.core.errors import DataError, UsageError
from stages.models.backbones.catalog import backbone_fingerprint, backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.frozen_t5 import DtypePolicy
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.text import TextBatch
from stages.models.vlap import (
    VlapConfig,
    VlapStudent,
    VlapTeacher,
    answer_frames,
    load_trained_state,
)
from stages.systems.face import Answers, Selection, Selector, System
from stages.systems.seen import SeenFrames
from stages.systems.selectors import AllFrames, UniformSelector

VlapModel = VlapTeacher | VlapStudent


class VlapPrompter:
    """The selector of a trained student."""

    def __init__(self, student: VlapStudent, mode: AnswerMode, rule: PromptRule) -> None:
        self.student, self.mode, self.prompt_rule = student, mode, rule

    @property
    def rule(self) -> str:
        """See `Selector`; the ablations look at no frame before they keep it."""
        config = self.student.config
        if config.prompter in ("visual", "question"):
            return "prompter"
        return "random" if config.prompter == "random_segment" and config.eval_noise else "midpoint"

    def problem(self, question: Question) -> str:
        """None; see `Selector`."""
        return ""

    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`; the number of frames is the one that the student was trained for."""
        if keep != self.student.config.keep:
            raise UsageError(
                f"this prompter keeps {self.student.config.keep} frames, not {keep}",
                "distil another one: vqa distill --keep ...",
            )
        text = self._text(seen.questions)
        if self.student.config.prompter_reads == "pooled":
            chosen = self.student.select_pooled(seen.pooled(), text)
        else:
            chosen = self.student.select(seen.features(), text)
        return Selection(chosen.indices, chosen.frame_scores)

    def _text(self, questions: Sequence[Question]) -> TextBatch:
        backbone = self.student.backbone
        return backbone.read_text([prompt(item, self.mode, self.prompt_rule) for item in questions])


class VlapAnswerer:
    """InstructBLIP with trained Q-Former, queries, projection and `ln_vision`."""

    def __init__(
        self, backbone: InstructBlip, config: VlapConfig, mode: AnswerMode, rule: PromptRule
    ) -> None:
        self.backbone, self.config, self.mode, self.rule = backbone, config, mode, rule

    def problem(self, question: Question) -> str:
        """See `Answerer`; the rank mode has no such limit."""
        return letter_problem(question) if self.mode == "letter" else ""

    @torch.no_grad()
    def answer(self, seen: SeenFrames, indices: Tensor) -> Answers:
        """See `Answerer`; open-ended questions get generated text."""
        features, questions = seen.kept(indices), seen.questions
        text = self.backbone.read_text([prompt(item, self.mode, self.rule) for item in questions])
        if all(question.open_ended for question in questions):
            return self._generate(features, text)
        scores = answer_frames(
            self.backbone,
            self.config,
            features,
            text,
            mode=self.mode,
            num_options=[len(question.options) for question in questions],
            options=[candidates(question, self.mode) for question in questions],
        )
        rows = [
            row[: self._num_scores(question)]
            for row, question in zip(scores.tolist(), questions, strict=True)
        ]
        return Answers(rows, [row.index(max(row)) for row in rows])

    def _num_scores(self, question: Question) -> int:
        """Letters that do not exist are scored too when nothing restricts the options."""
        free = self.mode == "letter" and not self.config.restrict_options
        return len(self.backbone.answer_tokens.letters) if free else len(question.options)

    def _generate(self, features: Tensor, text: TextBatch) -> Answers:
        visual = self.backbone.visual_tokens(self.backbone.normalise(features), text)
        encoded = self.backbone.encode(visual, text, frame_prefixes=self.config.frame_prefix_text)
        texts = self.backbone.generate(encoded)
        return Answers([[] for _ in texts], list(texts))


def load_backbone(
    name: str, device: torch.device, precision: DtypePolicy, expected: str | None = None
) -> InstructBlip:
    """The backbone called `name`, checked against the fingerprint it should have.

    Raises:
        DataError: It is another one than `expected`.
    """
    folder = BackboneFolder(backbone_path(name))
    if expected is not None and backbone_fingerprint(folder) != expected:
        raise DataError(
            f"backbone {folder.path} is not the one that these weights were trained on",
            "give the right folder with --backbone",
        )
    return InstructBlip.load(folder, device, precision).to(device)


def load_vlap(
    weights: Artifact,
    device: torch.device,
    *,
    backbone: str | None = None,
    answer: AnswerMode | None = None,
    overrides: dict[str, Any] | None = None,
    benchmark: str | None = None,
) -> System:
    """The system of a VLAP weights artifact: student, K-frame start or teacher.

    Args:
        weights: Weights of role `student`, `start` or `teacher`.
        device: Where to put the model.
        backbone: Folder of the backbone, if it is not where it was.
        answer: Answer mode, if it is not the one that the weights were trained in.
        overrides: Options of `VlapConfig` that evaluation may change (`eval_noise`, ...).
        benchmark: Whose questions are asked, in the form that its published preparation gives
            them; none: the one that the weights were trained on.
    """
    made = weights.config
    config = VlapConfig.build(made["model"] | (overrides or {}), weights.id)
    precision: DtypePolicy = made["training"]["precision"]
    base = load_backbone(
        backbone or backbone_of(weights), device, precision, made["backbone_weights"]
    )
    mode: AnswerMode = answer or made["answer"]
    if made["role"] == "student":
        tokens = int(made["tokens"])
        model: VlapModel = VlapStudent(base, config, tokens=tokens, with_teacher=False)
    else:
        model = VlapTeacher(base, config)
    load_trained_state(model, read_weights(weights))
    model.to(device).eval()
    return vlap_system(model, mode, load_manifest(benchmark or made["benchmark"]).prompt)


def vlap_system(model: VlapModel, mode: AnswerMode, rule: PromptRule) -> System:
    """A network in memory as a system: a student with its prompter, a teacher on all frames.

    A K-frame start looks at the middle frames of the segments of its T frames, even where other
    K frames are stored: those segments are what it was trained and tuned on.
    """
    config, backbone = model.config, model.backbone
    selector: Selector
    if isinstance(model, VlapStudent):
        selector = VlapPrompter(model, mode, rule)
    else:
        selector = AllFrames() if config.keep == config.frames else UniformSelector()
    answerer = VlapAnswerer(backbone, config, mode, rule)
    return System("vlap", selector, answerer, config.frames, config.keep, backbone.device)
