"""The half of a BLIP-2 family backbone that reads and answers: a frozen Flan-T5.

What InstructBLIP and BLIP-2 share: a language model whose traps are closed (specs/vlap.md 7.3,
specs/sevila.md 7.3: the head stays untied and unscaled, the activation is exact GELU), the answer's
tokens, forced losses, option scores and generation.

Axes: R rows, L text length, D language width, V vocabulary, O options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EncoderDecoderCache, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

from stages.core.errors import ConfigError, DataError
from stages.models.backbones.folder import summarise
from stages.models.backbones.text import AnswerTokens, BackboneText
from stages.models.losses import label_log_probabilities, target_cross_entropy

DtypePolicy = Literal["float32", "bfloat16", "float16"]
_T5 = "is text_config of config.json the one that the weights were published with?"


@dataclass(frozen=True)
class Encoded:
    """The language encoder's output [R, L, D] and its mask [R, L]."""

    hidden: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.hidden)

    def rows(self, index: Tensor) -> Encoded:
        """The rows at `index`, which may repeat."""
        return Encoded(self.hidden[index], self.mask[index])


class FrozenT5(nn.Module):
    """A backbone around a frozen T5; a child sets `language_model` and what sees the frames.

    `float32` computes exactly; in `bfloat16` and `float16` T5 has bfloat16 weights and runs under
    bfloat16 autocast, as in the references.
    """

    language_model: Any

    def __init__(
        self,
        config: dict[str, Any],
        dtype_policy: DtypePolicy,
        text: BackboneText | None,
        answer_tokens: AnswerTokens | None,
    ) -> None:
        super().__init__()
        if dtype_policy not in get_args(DtypePolicy):
            raise ConfigError(f"dtype {dtype_policy!r} is not one of {get_args(DtypePolicy)}")
        self.config = config
        self.dtype_policy = dtype_policy
        self._text = text
        self._answer_tokens = answer_tokens or (text.answer_tokens if text else None)

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

    def labels(self, targets: Sequence[str] | Tensor) -> Tensor:
        """Target strings (or ready labels) as labels [R, L] on this model's device."""
        if isinstance(targets, Tensor):
            return targets.to(self.device)
        return self.text.encode_targets(targets).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.language_model.shared.weight.device
        return device

    # --- answering ---------------------------------------------------------------------------

    def decoder_logits(self, encoded: Encoded, decoder_ids: Tensor) -> Tensor:
        """One decoder pass: logits [R, L, V] after each of `decoder_ids` [R, L]."""
        with self.language_precision():
            return self.language_model.lm_head(self._decode(encoded, decoder_ids))

    def target_logits(self, encoded: Encoded, labels: Tensor) -> Tensor:
        """Logits [R, L, V] at the positions of `labels`, with the labels as forced input."""
        return self.decoder_logits(encoded, self.language_model._shift_right(labels))

    def target_loss(self, encoded: Encoded, targets: Sequence[str] | Tensor) -> Tensor:
        """Mean cross entropy over all label tokens, `</s>` included (specs/vlap.md 1.3)."""
        labels = self.labels(targets)
        return target_cross_entropy(self.target_logits(encoded, labels), labels)

    def letter_loss(self, encoded: Encoded, answers: Sequence[int] | Tensor) -> Tensor:
        """`target_loss` of `Option X </s>` for 0-based answers, from the answer tokens."""
        return self.target_loss(encoded, self.letter_labels(answers))

    def letter_labels(self, answers: Sequence[int] | Tensor) -> Tensor:
        """Labels of `Option X </s>` for 0-based answers, [R, 3]."""
        tokens = self.answer_tokens
        rows = [[tokens.option, tokens.letters[int(i)], tokens.eos] for i in answers]
        return torch.tensor(rows, device=self.device)

    def rank_scores(
        self,
        encoded: Encoded,
        options: Sequence[Sequence[str]],
        *,
        norm: Literal["sum", "mean"] = "sum",
    ) -> Tensor:
        """Log-probability of each option's text with `</s>`, [R, O]; missing options are -inf."""
        if len(options) != len(encoded.hidden):
            raise DataError(f"{len(options)} lists of options for {len(encoded.hidden)} questions")
        counts = [len(row) for row in options]
        owners = torch.tensor([b for b, n in enumerate(counts) for _ in range(n)])
        columns = torch.tensor([o for n in counts for o in range(n)])
        labels = self.labels([option for row in options for option in row])
        owners, columns = owners.to(self.device), columns.to(self.device)
        logits = self.target_logits(encoded.rows(owners), labels)
        total, length = label_log_probabilities(logits, labels)
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

    def head_logits(self, hidden: Tensor, tokens: Sequence[int], *, exact: bool) -> Tensor:
        """Logits of some vocabulary rows, [..., D] -> float32 [..., len(tokens)].

        `exact` multiplies in float32; otherwise in the head's precision, which in the half
        policies rounds logits to bfloat16 as the references do.
        """
        rows = self.language_model.lm_head.weight[list(tokens)]
        if exact:
            with torch.autocast(hidden.device.type, enabled=False):
                return hidden.float() @ rows.float().T
        with self.language_precision():
            return F.linear(hidden, rows).float()

    def language_precision(self) -> AbstractContextManager[Any]:
        """Autocast of T5."""
        if self.dtype_policy == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    # --- for the children --------------------------------------------------------------------

    @property
    def _language_dtype(self) -> torch.dtype:
        return torch.float32 if self.dtype_policy == "float32" else torch.bfloat16

    @property
    def _start_id(self) -> int:
        start = self.language_model.config.decoder_start_token_id
        return int(self.language_model.config.pad_token_id if start is None else start)

    def _start_ids(self, rows: int) -> Tensor:
        return torch.full((rows, 1), self._start_id, device=self.device)

    def _decode(
        self, encoded: Encoded, decoder_ids: Tensor, cache: EncoderDecoderCache | None = None
    ) -> Tensor:
        """Decoder states [R, L, D]; what later steps need is kept in `cache`, if there is one."""
        hidden = self.language_model.decoder(
            input_ids=decoder_ids,
            encoder_hidden_states=encoded.hidden,
            encoder_attention_mask=encoded.mask,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state
        if self.language_model.config.scale_decoder_outputs:
            hidden = hidden * self.language_model.model_dim**-0.5
        return hidden


def restrict_options(scores: Tensor, num_options: Sequence[int]) -> Tensor:
    """Scores [R, O] with options that a question does not have set to -inf."""
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


# --- the configuration and the tied head ---------------------------------------------------------


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


def assert_flan_t5_layout(model: Any, where: str) -> None:
    """Raise `DataError` unless T5 is gated with exact GELU and unscaled (specs/sevila.md 8 #8).

    The built activations are tried as well: what a layer took from its config is what counts.
    """
    wanted = {"dense_act_fn": "gelu", "is_gated_act": True, "scale_decoder_outputs": False}
    for part in (model, model.encoder, model.decoder):
        found = {name: getattr(part.config, name, None) for name in wanted}
        if found != wanted:
            raise DataError(f"{where}: the language model has {found}, BLIP-2's has {wanted}", _T5)
    points = torch.linspace(-3, 3, 61)
    for name, module in model.named_modules():
        if isinstance(module, T5DenseGatedActDense) and not torch.allclose(
            module.act(points), F.gelu(points), rtol=0, atol=1e-6
        ):
            raise DataError(f"{where}: the activation of {name} is not exact GELU", _T5)


def assert_dtype(module: nn.Module, dtype: torch.dtype, what: str) -> None:
    """Raise `DataError` unless every floating tensor of `module` has `dtype`.

    transformers keeps some tensors in float32 when it loads float16 (T5's `wo`, the Q-Former) and
    casts all of them for bfloat16 (specs/vlap.md 7.3, specs/sevila.md 7.3); here neither happens.
    """
    named = [*module.named_parameters(), *module.named_buffers()]
    other = [f"{name} {value.dtype}" for name, value in named if _is_other(value, dtype)]
    if other:
        raise DataError(
            f"{what} must be {dtype} throughout, but: {summarise(other)}",
            "load a backbone through vqa; do not cast or replace its parts afterwards",
        )


def _is_other(value: Tensor, dtype: torch.dtype) -> bool:
    return value.is_floating_point() and value.dtype != dtype


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
