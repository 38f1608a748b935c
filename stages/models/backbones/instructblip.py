"""InstructBLIP Flan-T5 without its vision tower: what VLAP stands on (specs/vlap.md 1, 7).

An adapter over `transformers` submodules: features of frames (before `ln_vision`) and a prompt go
in, losses, letter logits, option scores or text come out. The traps of specs/vlap.md 7.3 are
closed here: the language model's head stays untied and its outputs unscaled, the activation is
exact GELU, `ln_vision` has eps 1e-5.

Axes: B questions, F frames, N tokens a frame, C vision width, Q queries, H Q-Former width,
D language width, L text length, V vocabulary, O options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    InstructBlipVisionConfig,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from stages.core.errors import ConfigError, DataError
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.text import AnswerTokens, BackboneText, TextBatch
from stages.models.losses import label_log_probabilities, target_cross_entropy

DtypePolicy = Literal["float32", "bfloat16", "float16"]
LN_VISION_EPS = 1e-5


@dataclass(frozen=True)
class Encoded:
    """The language encoder's output [B, L, D] and its mask [B, L]."""

    hidden: Tensor
    mask: Tensor


@dataclass(frozen=True)
class GreedyLetters:
    """What the reference's generation saw: processed scores of two steps and its tokens."""

    scores_step0: Tensor
    scores_step1: Tensor
    tokens: Tensor
    letter_logits: Tensor


class InstructBlip(nn.Module):
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
        super().__init__()
        if dtype_policy not in get_args(DtypePolicy):
            raise ConfigError(f"dtype {dtype_policy!r} is not one of {get_args(DtypePolicy)}")
        vision = InstructBlipVisionConfig(**config.get("vision_config", {}))
        qformer = qformer_config(config)
        language = language_config(config)
        self.config = config
        self.dtype_policy = dtype_policy
        self._text = text
        self._answer_tokens = text.answer_tokens if text else answer_tokens
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
            DataError: a tensor is missing, unexpected or of another shape, or the head is tied.
        """
        if folder.config.get("model_type") != "instructblip":
            raise DataError(
                f"{folder.path}: model_type {folder.config.get('model_type')!r} is no InstructBLIP",
                "VLAP needs the InstructBLIP layout (its Q-Former reads the question)",
            )
        text = BackboneText.load(folder)
        with torch.device("meta"):
            model = cls(folder.config, dtype_policy=dtype_policy, text=text)
        model._read_weights(folder, device)
        assert_head_untied(model.language_model)
        return model.freeze()

    def _read_weights(self, folder: BackboneFolder, device: torch.device | str) -> None:
        exact = torch.float32
        half = torch.float32 if self.dtype_policy == "float32" else torch.bfloat16
        folder.load_into(self.ln_vision, "vision_model.post_layernorm.", dtype=exact, device=device)
        folder.load_into(self.qformer, "qformer.", dtype=exact, device=device)
        folder.load_into(
            self.language_projection, "language_projection.", dtype=exact, device=device
        )
        folder.load_into(self.language_model, "language_model.", dtype=half, device=device)
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

    @property
    def text(self) -> BackboneText:
        """The tokenizers, or `ConfigError` for a model that was built without a folder."""
        if self._text is None:
            raise ConfigError("this model was built from a config and has no tokenizers")
        return self._text

    @property
    def answer_tokens(self) -> AnswerTokens:
        """Ids of the answer's tokens."""
        if self._answer_tokens is None:
            raise ConfigError("this model was built without answer tokens")
        return self._answer_tokens

    def read_text(self, prompts: Sequence[str]) -> TextBatch:
        """Prompts as ids on this model's device; cut as in training or as in evaluation."""
        return self.text.encode(prompts, training=self.training).to(self.device)

    def labels(self, targets: Sequence[str] | Tensor) -> Tensor:
        """Target strings (or ready labels) as labels [B, L] on this model's device."""
        if isinstance(targets, Tensor):
            return targets.to(self.device)
        return self.text.encode_targets(targets).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the queries are."""
        return self.query_tokens.device

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

    def decoder_logits(self, encoded: Encoded, decoder_ids: Tensor) -> Tensor:
        """One decoder pass: logits [B, L, V] after each of `decoder_ids` [B, L]."""
        with self.language_precision():
            return self.language_model.lm_head(self._decode(encoded, decoder_ids))

    def target_logits(self, encoded: Encoded, labels: Tensor) -> Tensor:
        """Logits [B, L, V] at the positions of `labels`, with the labels as forced input."""
        return self.decoder_logits(encoded, self.language_model._shift_right(labels))

    def target_loss(self, encoded: Encoded, targets: Sequence[str] | Tensor) -> Tensor:
        """Mean cross entropy over all label tokens, `</s>` included (specs/vlap.md 1.3)."""
        labels = self.labels(targets)
        return target_cross_entropy(self.target_logits(encoded, labels), labels)

    def letter_loss(self, encoded: Encoded, answers: Sequence[int] | Tensor) -> Tensor:
        """`target_loss` of `Option X </s>` for 0-based answers, from the answer tokens."""
        tokens = self.answer_tokens
        rows = [[tokens.option, tokens.letters[int(i)], tokens.eos] for i in answers]
        return self.target_loss(encoded, torch.tensor(rows, device=self.device))

    def letter_logits(self, encoded: Encoded) -> Tensor:
        """Logits of all letters [B, 5] after the forced prefix [start, Option], in float32.

        One decoder pass and five rows of the head; equal to the second step of greedy generation
        whenever that begins with `Option` (specs/vlap.md 4).
        """
        tokens = self.answer_tokens
        prefix = torch.tensor([[self._start_id, tokens.option]], device=self.device)
        with self.language_precision():
            hidden = self._decode(encoded, prefix.expand(len(encoded.hidden), -1))[:, 1]
        rows = self.language_model.lm_head.weight[list(tokens.letters)].float()
        with torch.autocast(hidden.device.type, enabled=False):
            return hidden.float() @ rows.T

    def rank_scores(
        self,
        encoded: Encoded,
        options: Sequence[Sequence[str]],
        *,
        norm: Literal["sum", "mean"] = "sum",
    ) -> Tensor:
        """Log-probability of each option's text with `</s>`, [B, O]; missing options are -inf."""
        if len(options) != len(encoded.hidden):
            raise DataError(f"{len(options)} lists of options for {len(encoded.hidden)} questions")
        counts = [len(row) for row in options]
        owners = torch.tensor([b for b, n in enumerate(counts) for _ in range(n)])
        columns = torch.tensor([o for n in counts for o in range(n)])
        labels = self.labels([option for row in options for option in row])
        owners, columns = owners.to(self.device), columns.to(self.device)
        repeated = Encoded(encoded.hidden[owners], encoded.mask[owners])
        total, length = label_log_probabilities(self.target_logits(repeated, labels), labels)
        scores = total.new_full((len(options), max(counts)), -torch.inf)
        scores[owners, columns] = total / length if norm == "mean" else total
        return scores

    @torch.no_grad()
    def generate(self, encoded: Encoded, *, max_new_tokens: int = 32) -> list[str]:
        """Greedy text answers for open-ended questions."""
        with self.language_precision():
            ids = self.language_model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded.hidden),
                attention_mask=encoded.mask,
                max_new_tokens=max_new_tokens,
                num_beams=1,
                do_sample=False,
            )
        return self.text.decode(ids)

    @torch.no_grad()
    def greedy_letters(self, encoded: Encoded, *, penalty: float = 1.5) -> GreedyLetters:
        """The reference's reading: letters at the second step after a free greedy first token.

        Scores are after its repetition penalty, which touches the start token and the first
        generated one (specs/vlap.md 4 and 11.4).
        """
        ids = torch.full((len(encoded.hidden), 1), self._start_id, device=self.device)
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

    def language_precision(self) -> AbstractContextManager[Any]:
        """Autocast of T5."""
        if self.dtype_policy == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    # --- private -----------------------------------------------------------------------------

    @property
    def _start_id(self) -> int:
        start = self.language_model.config.decoder_start_token_id
        return int(self.language_model.config.pad_token_id if start is None else start)

    def _decode(self, encoded: Encoded, decoder_ids: Tensor) -> Tensor:
        hidden = self.language_model.decoder(
            input_ids=decoder_ids,
            encoder_hidden_states=encoded.hidden,
            encoder_attention_mask=encoded.mask,
            use_cache=False,
        ).last_hidden_state
        if self.language_model.config.scale_decoder_outputs:
            hidden = hidden * self.language_model.model_dim**-0.5
        return hidden

    def _with_prefixes(self, visual: Tensor) -> Tensor:
        B, tokens, D = visual.shape
        frames = visual.reshape(B, tokens // self.num_queries, self.num_queries, D)
        parts: list[Tensor] = []
        for i in range(frames.shape[1]):
            ids = torch.tensor(self.text.plain_ids(f"Frame {i + 1}: "), device=self.device)
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


def restrict_options(scores: Tensor, num_options: Sequence[int]) -> Tensor:
    """Scores [B, O] with options that a question does not have set to -inf."""
    limits = torch.tensor(list(num_options), device=scores.device)[:, None]
    columns = torch.arange(scores.shape[1], device=scores.device)
    return scores.masked_fill(columns >= limits, -torch.inf)


@contextmanager
def module_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Run `module` in train or eval mode for a moment."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)


# --- configurations and the tied head ------------------------------------------------------------


def qformer_config(config: dict[str, Any]) -> Any:
    """The Q-Former's config, reading images as wide as the vision tower's."""
    values = dict(config.get("qformer_config", {}))
    vision = InstructBlipVisionConfig(**config.get("vision_config", {}))
    return InstructBlipQFormerConfig(**(values | {"encoder_hidden_size": vision.hidden_size}))


def language_config(config: dict[str, Any]) -> Any:
    """T5's config with exact GELU and unscaled outputs unless the file says otherwise.

    transformers 5 forces `tie_word_embeddings` to True and derives the scaling from the value it
    found in the input (specs/vlap.md 7.3, traps 1 and 2).
    """
    values = dict(config.get("text_config", {}))
    kind = values.pop("model_type", "t5")
    if kind != "t5":
        raise DataError(f"language model of type {kind!r}; vqa reads the Flan-T5 variants only")
    scaled = bool(values.get("scale_decoder_outputs", False))
    activation = values.get("dense_act_fn", "gelu")
    language = T5Config(**(values | {"tie_word_embeddings": False}))
    language.scale_decoder_outputs = scaled
    language.dense_act_fn = activation
    language.tie_word_embeddings = True  # the three embedding names do share one tensor
    if language.decoder_start_token_id is None:
        language.decoder_start_token_id = language.pad_token_id
    return language


def untied_t5(config: Any) -> Any:
    """A T5 whose head is a tensor of its own, and stays so."""
    model = T5ForConditionalGeneration(config)
    head = torch.empty_like(model.shared.weight)
    nn.init.normal_(head, std=config.d_model**-0.5)
    model.lm_head.weight = nn.Parameter(head)
    # From here on a later tie_weights() must not undo this.
    for part in (model, model.encoder, model.decoder):
        part.config.tie_word_embeddings = False
    return model


def assert_head_untied(model: Any) -> None:
    """Raise `DataError` if the head is the embedding, or has become a copy of it."""
    head, embedding = model.lm_head.weight, model.shared.weight
    same = head is embedding or (
        head.device.type != "meta" and head.data_ptr() == embedding.data_ptr()
    )
    if same or (head.device.type != "meta" and torch.equal(head, embedding)):
        raise DataError(
            "the language model's head is tied to its embeddings; Flan-T5's is not",
            "the file holds one tensor under both names, or a tie_weights() ran after loading",
        )
