"""BLIP-2 Flan-T5 without its vision tower: what SeViLA stands on (specs/sevila.md 1, 2.2, 8).

An adapter over `transformers` submodules. The Q-Former reads no text, so a frame's tokens are the
same for every question and may be kept; T5 then reads rows of

    [prefix 1][tokens of frame 1] ... [prefix K][tokens of frame K][prompt and `</s>`]

Stored features are the tower's, before its last LayerNorm.

Axes: B questions, F frames, N tokens a frame, C vision width, Q queries, H Q-Former width,
R rows of T5, P prefix length, L text length, D language width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    DynamicCache,
    EncoderDecoderCache,
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
    AnswerTokens,
    BackboneText,
    FramePrefixes,
    PromptIds,
    assert_flan_t5_prompts,
)
from stages.models.selectors import first_argmax

LN_VISION_EPS = 1e-5
Attention = Literal["sdpa", "eager"]
Part = Literal["answerer", "localizer", "uniform"]
"""Who makes tokens; `uniform` is the answerer where no localizer chose the frames."""


@dataclass(frozen=True)
class LetterSteps:
    """Two greedy steps: first tokens [R] with their logits [R, V], letter logits [R, 5]."""

    first_token: Tensor
    first_logits: Tensor
    letters: Tensor


class VisualSide(nn.Module):
    """`ln_vision`, queries, Q-Former and projection: a frame's features become tokens for T5."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        qformer = qformer_config(config)
        self.ln_vision = nn.LayerNorm(qformer.encoder_hidden_size, eps=LN_VISION_EPS)
        self.query_tokens = nn.Parameter(
            torch.zeros(1, config.get("num_query_tokens", 32), qformer.hidden_size)
        )
        nn.init.normal_(self.query_tokens, std=qformer.initializer_range)
        self.qformer = Blip2QFormerModel(qformer)
        width = language_config(config).d_model
        self.language_projection = nn.Linear(qformer.hidden_size, width)

    def query_outputs(self, features: Tensor) -> Tensor:
        """Features [B, F, N, C] -> Q-Former outputs [B, F, Q, H], all frames in one call."""
        frames = self.ln_vision(features.float()).flatten(0, 1)  # (B * F, N, C)
        queries = self.query_tokens.expand(len(frames), -1, -1)
        output = self.qformer(query_embeds=queries, encoder_hidden_states=frames)
        return output.last_hidden_state.unflatten(0, features.shape[:2])

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, F, N, C] -> tokens [B, F, Q, D]."""
        if features.ndim != 4:
            raise DataError(f"features of shape {tuple(features.shape)}, expected [B, F, N, C]")
        return self.language_projection(self.query_outputs(features))


class Blip2(FrozenT5):
    """One trainable side (`answerer`) before a frozen T5.

    Precision policies (specs/sevila.md 8, #9-12); trained weights are float32 in all of them.
    `float32` is exact. `float16` is the reference's: in training both sides run under float16
    autocast; in evaluation a localizer's side and the uniform baseline's run in float32 and the
    answerer's under bfloat16 autocast, so that T5's residual stream is float32 in the former and
    bfloat16 in the latter. `bfloat16` is the same with bfloat16 in training, which needs no loss
    scaling.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        dtype_policy: DtypePolicy = "float32",
        attention: Attention = "sdpa",
        text: BackboneText | None = None,
        answer_tokens: AnswerTokens | None = None,
    ) -> None:
        super().__init__(config, dtype_policy, text, answer_tokens)
        self.answerer = VisualSide(config)
        self.language_model = untied_t5(language_config(config))
        for part in (self.answerer.qformer, self.language_model):
            part.set_attn_implementation(attention)

    # --- construction ------------------------------------------------------------------------

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        *,
        dtype_policy: DtypePolicy = "float32",
        attention: Attention = "sdpa",
        text: BackboneText | None = None,
        answer_tokens: AnswerTokens | None = None,
    ) -> Blip2:
        """Random weights in the sizes of a composite `config.json`."""
        return cls(
            config,
            dtype_policy=dtype_policy,
            attention=attention,
            text=text,
            answer_tokens=answer_tokens,
        ).freeze()

    @classmethod
    def load(
        cls,
        folder: BackboneFolder,
        device: torch.device | str = "cpu",
        dtype_policy: DtypePolicy = "float32",
        attention: Attention = "sdpa",
    ) -> Blip2:
        """Weights and tokenizer of a folder; its vision tower is not read.

        `eager` attention is the reference's arithmetic; `sdpa` is faster and rounds otherwise in
        the half policies.

        Raises:
            DataError: A tensor is missing, unexpected or of another shape, the head is tied, the
                activation is not exact GELU, or a Flan-T5 vocabulary comes with another tokenizer.
        """
        if folder.config.get("model_type") != "blip-2":
            raise DataError(
                f"{folder.path}: model_type {folder.config.get('model_type')!r} is no BLIP-2",
                "SeViLA needs the BLIP-2 layout (its Q-Former reads no text)",
            )
        text = BackboneText.load(folder)
        with torch.device("meta"):
            model = cls(folder.config, dtype_policy=dtype_policy, attention=attention, text=text)
        assert_flan_t5_layout(model.language_model, str(folder.path))
        if model.language_model.config.vocab_size in FLAN_T5_VOCABULARIES:
            assert_flan_t5_prompts(text.t5)
        model._read_weights(folder, device)
        assert_head_untied(model.language_model)
        assert_dtype(model.answerer, torch.float32, "the Q-Former's side")
        assert_dtype(model.language_model, model._language_dtype, "the language model")
        return model.freeze()

    def _read_weights(self, folder: BackboneFolder, device: torch.device | str) -> None:
        exact, side = torch.float32, self.answerer
        for module, prefix, dtype in (
            (side.ln_vision, "vision_model.post_layernorm.", exact),
            (side.qformer, "qformer.", exact),
            (side.language_projection, "language_projection.", exact),
            (self.language_model, "language_model.", self._language_dtype),
        ):
            folder.load_into(module, prefix, dtype=dtype, device=device)
        queries = folder.tensors(["query_tokens"], dtype=exact, device=device)["query_tokens"]
        if queries.shape != side.query_tokens.shape:
            raise DataError(
                f"{folder.path}: query_tokens has shape {tuple(queries.shape)}, "
                f"expected {tuple(side.query_tokens.shape)}"
            )
        side.query_tokens = nn.Parameter(queries)

    def freeze(self) -> Blip2:
        """T5 gets no gradient; its dropout still follows train mode, as in the reference."""
        self.language_model.requires_grad_(False)
        return self

    # --- seeing ------------------------------------------------------------------------------

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.answerer.query_tokens.shape[1]

    def read_prompts(self, prompts: Sequence[str] | PromptIds) -> PromptIds:
        """Prompts (or ready ids) on this model's device, cut on the right to 77 ids."""
        ids = prompts if isinstance(prompts, PromptIds) else self.text.encode_plain(prompts)
        return ids.to(self.device)

    def frame_tokens(self, side: VisualSide, features: Tensor, part: Part) -> Tensor:
        """Features [B, F, N, C] -> tokens [B, F, Q, D] in the precision of `part`."""
        with self.visual_precision(part):
            return side(features)

    def visual_precision(self, part: Part) -> AbstractContextManager[Any]:
        """Autocast of a side."""
        if self.dtype_policy == "float32":
            return nullcontext()
        if self.training:
            return torch.autocast(self.device.type, dtype=getattr(torch, self.dtype_policy))
        if part == "answerer":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    # --- reading and answering ---------------------------------------------------------------

    def encode(self, tokens: Tensor, text: PromptIds, prefixes: FramePrefixes) -> Encoded:
        """Rows of frames' tokens [R, F, Q, D], one prompt each, through T5's encoder."""
        with self.language_precision():
            embeds, mask = self.encoder_input(tokens, text, prefixes)
            output = self.language_model.encoder(inputs_embeds=embeds, attention_mask=mask)
        return Encoded(output.last_hidden_state, mask)

    def encoder_input(
        self, tokens: Tensor, text: PromptIds, prefixes: FramePrefixes
    ) -> tuple[Tensor, Tensor]:
        """What the encoder reads, [R, F * (P + Q) + L, D], and its mask.

        The result has the type that its parts promote to: float32 or float16 tokens beside
        bfloat16 words give float32, as in the reference.
        """
        R, F, Q, _ = tokens.shape
        if len(prefixes) != F or len(text) != R:
            raise DataError(
                f"{R} rows of {F} frames, but {len(text)} prompts and {len(prefixes)} prefixes"
            )
        words = self.language_model.shared
        # Said in so many words, because autocast on a CPU refuses two half types in one `cat`.
        dtype = torch.promote_types(tokens.dtype, words.weight.dtype)
        named = words(prefixes.ids).to(dtype).expand(R, -1, -1, -1)
        frames = torch.cat([named, tokens.to(dtype)], dim=2).flatten(1, 2)
        seen = torch.cat([prefixes.mask, prefixes.mask.new_ones(F, Q)], dim=1).flatten()
        mask = torch.cat([seen.expand(R, -1), text.mask], dim=1)
        return torch.cat([frames, words(text.ids).to(dtype)], dim=1), mask

    @torch.no_grad()
    def first_logits(
        self, encoded: Encoded, tokens: Sequence[int], *, exact: bool = False
    ) -> Tensor:
        """Logits of some tokens at the first decoder step, float32 [R, len(tokens)]."""
        with self.language_precision():
            hidden = self._decode(encoded, self._start_ids(len(encoded)))[:, 0]
        return self.head_logits(hidden, tokens, exact=exact)

    @torch.no_grad()
    def greedy_letters(self, encoded: Encoded) -> LetterSteps:
        """Letters at the second step after a free first token (specs/sevila.md 3.1, 6).

        The first token may be `</s>`; letters are then read after it, as in the reference. Ties
        go to the lower id.
        """
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with self.language_precision():
            hidden = self._decode(encoded, self._start_ids(len(encoded)), cache)[:, 0]
            logits = self.language_model.lm_head(hidden)
            first = first_argmax(logits)
            hidden = self._decode(encoded, first[:, None], cache)[:, 0]
        letters = self.head_logits(hidden, self.answer_tokens.letters, exact=False)
        return LetterSteps(first, logits.float(), letters)

    @torch.no_grad()
    def forced_letters(self, encoded: Encoded) -> Tensor:
        """Letters [R, 5] after the forced prefix [start, Option], in one decoder pass."""
        prefix = torch.tensor([[self._start_id, self.answer_tokens.option]], device=self.device)
        with self.language_precision():
            hidden = self._decode(encoded, prefix.expand(len(encoded), -1))[:, 1]
        return self.head_logits(hidden, self.answer_tokens.letters, exact=False)


def qformer_config(config: dict[str, Any]) -> Any:
    """The Q-Former's config, reading images as wide as the vision tower's and no text."""
    values = dict(config.get("qformer_config", {}))
    vision = Blip2VisionConfig(**config.get("vision_config", {}))
    fixed = {"encoder_hidden_size": vision.hidden_size, "use_qformer_text_input": False}
    return Blip2QFormerConfig(**(values | fixed))
