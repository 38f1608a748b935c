"""InstructBLIP Flan-T5 without its vision tower: what VLAP stands on (specs/vlap.md 1, 7).

An adapter over `transformers` submodules: features of frames (before `ln_vision`) and a prompt go
in, losses, letter logits, option scores or text come out. `ln_vision` has eps 1e-5; the traps of
the language model are closed in `frozen_t5.py`.

Axes: B questions, F frames, N tokens a frame, C vision width, Q queries, H Q-Former width,
D language width, L text length, V vocabulary, O options.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    InstructBlipVisionConfig,
)

from stages.core.errors import DataError
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.frozen_t5 import (
    DtypePolicy,
    Encoded,
    FrozenT5,
    assert_dtype,
    assert_flan_t5_layout,
    assert_head_untied,
    language_config,
    untied_t5,
)
from stages.models.backbones.text import (
    FLAN_T5_VOCABULARIES,
    NUMBERED_FRAME_PREFIX,
    AnswerTokens,
    BackboneText,
    TextBatch,
    assert_flan_t5_prompts,
)

LN_VISION_EPS = 1e-5


@dataclass(frozen=True)
class GreedyLetters:
    """What the reference's generation saw: processed scores of two steps and its tokens."""

    scores_step0: Tensor
    scores_step1: Tensor
    tokens: Tensor
    letter_logits: Tensor


class InstructBlip(FrozenT5):
    """`ln_vision`, Q-Former, queries and projection (trainable) before a frozen T5.

    Precision policies (specs/vlap.md 7.4); trainable weights are float32 in all of them:
    `float32` is exact; `bfloat16` runs everything under bfloat16 autocast over a bfloat16 T5;
    `float16` is the reference's: Q-Former side under float16 autocast in training and float32 in
    evaluation, T5 as in `bfloat16`. Letter logits are computed in float32 always.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        dtype_policy: DtypePolicy = "float32",
        text: BackboneText | None = None,
        answer_tokens: AnswerTokens | None = None,
    ) -> None:
        super().__init__(config, dtype_policy, text, answer_tokens)
        vision = InstructBlipVisionConfig(**config.get("vision_config", {}))
        qformer = qformer_config(config)
        language = language_config(config)
        self.ln_vision = nn.LayerNorm(vision.hidden_size, eps=LN_VISION_EPS)
        self.query_tokens = nn.Parameter(
            torch.zeros(1, config.get("num_query_tokens", 32), qformer.hidden_size)
        )
        nn.init.normal_(self.query_tokens, std=qformer.initializer_range)
        self.qformer = InstructBlipQFormerModel(qformer)
        self.language_projection = nn.Linear(qformer.hidden_size, language.d_model)
        self.language_model = untied_t5(language)

    # --- construction ------------------------------------------------------------------------

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        *,
        answer_tokens: AnswerTokens | None = None,
        dtype_policy: DtypePolicy = "float32",
    ) -> InstructBlip:
        """Random weights in the sizes of a composite `config.json`; no tokenizers."""
        return cls(config, dtype_policy=dtype_policy, answer_tokens=answer_tokens).freeze()

    @classmethod
    def load(
        cls,
        folder: BackboneFolder,
        device: torch.device | str = "cpu",
        dtype_policy: DtypePolicy = "float32",
    ) -> InstructBlip:
        """Weights and tokenizers of a folder; its vision tower is not read.

        Raises:
            DataError: a tensor is missing, unexpected or of another shape, the head is tied, or
                the activation is not exact GELU.
        """
        if folder.config.get("model_type") != "instructblip":
            raise DataError(
                f"{folder.path}: model_type {folder.config.get('model_type')!r} is no InstructBLIP",
                "VLAP needs the InstructBLIP layout (its Q-Former reads the question)",
            )
        text = BackboneText.load(folder)
        with torch.device("meta"):
            model = cls(folder.config, dtype_policy=dtype_policy, text=text)
        assert_flan_t5_layout(model.language_model, str(folder.path))
        model._read_weights(folder, device)
        assert_head_untied(model.language_model)
        for module in (model.ln_vision, model.qformer, model.language_projection):
            assert_dtype(module, torch.float32, "the Q-Former's side")
        assert_dtype(model.language_model, model._language_dtype, "the language model")
        return model.freeze()

    def _read_weights(self, folder: BackboneFolder, device: torch.device | str) -> None:
        exact = torch.float32
        folder.load_into(self.ln_vision, "vision_model.post_layernorm.", dtype=exact, device=device)
        folder.load_into(self.qformer, "qformer.", dtype=exact, device=device)
        folder.load_into(
            self.language_projection, "language_projection.", dtype=exact, device=device
        )
        folder.load_into(
            self.language_model, "language_model.", dtype=self._language_dtype, device=device
        )
        queries = folder.tensors(["query_tokens"], dtype=exact, device=device)["query_tokens"]
        if queries.shape != self.query_tokens.shape:
            raise DataError(
                f"{folder.path}: query_tokens has shape {tuple(queries.shape)}, "
                f"expected {tuple(self.query_tokens.shape)}"
            )
        self.query_tokens = nn.Parameter(queries)
        embeddings = self.qformer.embeddings  # its position counter is not stored in files
        embeddings.position_ids = torch.arange(
            embeddings.position_ids.shape[-1], device=device
        ).expand(1, -1)

    def freeze(self) -> InstructBlip:
        """T5 gets no gradient; its dropout still follows train mode, as in the reference."""
        self.language_model.requires_grad_(False)
        return self

    # --- text --------------------------------------------------------------------------------

    def read_text(self, prompts: Sequence[str]) -> TextBatch:
        """Prompts as ids on this model's device; cut as in training or as in evaluation."""
        return self.text.encode(prompts, training=self.training).to(self.device)

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.query_tokens.shape[1]

    def word_embeddings(self, text: TextBatch) -> Tensor:
        """T5's word embeddings of the prompt, [B, L, D] in float32."""
        return self.language_model.shared(text.t5_ids).float()

    # --- seeing ------------------------------------------------------------------------------

    def normalise(self, features: Tensor) -> Tensor:
        """Stored features [..., N, C] -> after `ln_vision`, float32."""
        return self.ln_vision(features.float())

    def query_outputs(self, frames: Tensor, text: TextBatch) -> Tensor:
        """Frames after `ln_vision` [B, F, N, C] -> Q-Former outputs [B, F, Q, H]."""
        with self.vision_precision():
            return run_qformer(self.qformer, self.query_tokens, frames, text)

    def visual_tokens(self, frames: Tensor, text: TextBatch) -> Tensor:
        """Frames after `ln_vision` [B, F, N, C] -> tokens for T5 [B, F * Q, D], in time order."""
        return self.project(self.query_outputs(frames, text))

    def project(self, outputs: Tensor) -> Tensor:
        """Q-Former outputs [B, F, Q, H] -> [B, F * Q, D]."""
        with self.vision_precision():
            return self.language_projection(outputs).flatten(1, 2)

    # --- reading and answering ---------------------------------------------------------------

    def encode(self, visual: Tensor, text: TextBatch, *, frame_prefixes: bool = False) -> Encoded:
        """Visual tokens [B, F * Q, D] and the prompt through T5's encoder.

        `frame_prefixes` writes `Frame i: ` (i from 1) before each frame's tokens, an option of
        the reference's tree that VLAP itself does not use.
        """
        if frame_prefixes:
            visual = self._with_prefixes(visual)
        with self.language_precision():
            words = self.language_model.shared(text.t5_ids)
            embeds = torch.cat([visual.float(), words.float()], dim=1)
            seen = torch.ones(visual.shape[:2], dtype=text.t5_mask.dtype, device=visual.device)
            mask = torch.cat([seen, text.t5_mask], dim=1)
            output = self.language_model.encoder(inputs_embeds=embeds, attention_mask=mask)
        return Encoded(output.last_hidden_state, mask)

    def letter_logits(self, encoded: Encoded) -> Tensor:
        """Logits of all letters [B, 5] after the forced prefix [start, Option], in float32.

        One decoder pass and five rows of the head; equal to the second step of greedy generation
        whenever that begins with `Option` (specs/vlap.md 4).
        """
        tokens = self.answer_tokens
        prefix = torch.tensor([[self._start_id, tokens.option]], device=self.device)
        with self.language_precision():
            hidden = self._decode(encoded, prefix.expand(len(encoded.hidden), -1))[:, 1]
        return self.head_logits(hidden, tokens.letters, exact=True)

    @torch.no_grad()
    def greedy_letters(self, encoded: Encoded, *, penalty: float = 1.5) -> GreedyLetters:
        """The reference's reading: letters at the second step after a free greedy first token.

        Scores are after its repetition penalty, which touches the start token and the first
        generated one (specs/vlap.md 4 and 11.4).
        """
        ids = self._start_ids(len(encoded))
        scores: list[Tensor] = []
        for _ in range(2):
            logits = self.decoder_logits(encoded, ids)[:, -1].float()
            scores.append(penalise_repetition(logits, ids, penalty))
            ids = torch.cat([ids, scores[-1].argmax(dim=-1, keepdim=True)], dim=1)
        letters = scores[1][:, list(self.answer_tokens.letters)]
        return GreedyLetters(scores[0], scores[1], ids, letters)

    # --- precision ---------------------------------------------------------------------------

    def vision_precision(self) -> AbstractContextManager[Any]:
        """Autocast of Q-Former, projection and prompter."""
        if self.dtype_policy == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        if self.dtype_policy == "float16" and self.training:
            return torch.autocast(self.device.type, dtype=torch.float16)
        return nullcontext()

    # --- private -----------------------------------------------------------------------------

    def _with_prefixes(self, visual: Tensor) -> Tensor:
        if self.language_model.config.vocab_size in FLAN_T5_VOCABULARIES:
            assert_flan_t5_prompts(self.text.t5)  # VLAP's own prompts do not end in a space
        B, tokens, D = visual.shape
        frames = visual.reshape(B, tokens // self.num_queries, self.num_queries, D)
        parts: list[Tensor] = []
        for i in range(frames.shape[1]):
            name = NUMBERED_FRAME_PREFIX.format(number=i + 1)
            ids = torch.tensor(self.text.plain_ids(name), device=self.device)
            words = self.language_model.shared(ids).float()
            parts += [words.expand(B, *words.shape), frames[:, i].float()]
        return torch.cat(parts, dim=1)


def run_qformer(
    qformer: nn.Module, query_tokens: Tensor, frames: Tensor, text: TextBatch
) -> Tensor:
    """All frames of all questions in one Q-Former call: [B, F, N, C] -> [B, F, Q, H].

    Frames do not see each other, so this equals a loop over frames; the prompt is repeated.
    """
    B, frame_count, N, C = frames.shape
    ids = text.qformer_ids.repeat_interleave(frame_count, dim=0)
    words = text.qformer_mask.repeat_interleave(frame_count, dim=0)
    queries = query_tokens.expand(B * frame_count, -1, -1)
    seen = torch.ones(queries.shape[:2], dtype=words.dtype, device=words.device)
    output = qformer(
        input_ids=ids,
        attention_mask=torch.cat([seen, words], dim=1),
        query_embeds=queries,
        encoder_hidden_states=frames.reshape(B * frame_count, N, C),
    )
    outputs = output.last_hidden_state[:, : queries.shape[1]]
    return outputs.reshape(B, frame_count, *outputs.shape[1:])


def penalise_repetition(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Positive logits of ids already there are divided by `penalty`, negative ones multiplied."""
    seen = logits.gather(1, ids)
    punished = torch.where(seen > 0, seen / penalty, seen * penalty)
    return logits.scatter(1, ids, punished)


def qformer_config(config: dict[str, Any]) -> Any:
    """The Q-Former's config, reading images as wide as the vision tower's."""
    values = dict(config.get("qformer_config", {}))
    vision = InstructBlipVisionConfig(**config.get("vision_config", {}))
    return InstructBlipQFormerConfig(**(values | {"encoder_hidden_size": vision.hidden_size}))
