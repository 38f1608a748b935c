"""Sizes of a backbone's parts and what they cost: parameters and operations, from a config alone.

An operation count is 2 per multiply-add of matrix products (specs/vlap.md 9.2, specs/sevila.md 9);
norms, softmax and element-wise work are not counted. No tensor library is needed, so that plans
can be made for backbones that are not on this machine.

Axes: N tokens a frame, C vision width, Q queries, H Q-Former width, D language width, L text
length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TEXT: dict[str, Any] = {
    "model_type": "t5",
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "vocab_size": 32_128,
}
_FULL_VISION = {
    "hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39,
    "num_attention_heads": 16,
}  # fmt: skip
_FULL_QFORMER = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12,
}  # fmt: skip
_FULL_TEXT = {"d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32}
_SMALL_VISION = {
    "hidden_size": 88, "intermediate_size": 384, "num_hidden_layers": 10,
    "num_attention_heads": 4,
}  # fmt: skip
_SMALL_QFORMER = {
    "hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 4,
    "num_attention_heads": 4,
}  # fmt: skip
_SMALL_TEXT = {"d_model": 128, "d_kv": 16, "d_ff": 320, "num_layers": 6, "num_heads": 8}
_WIDTHS: dict[str, tuple[dict[str, int], dict[str, int], dict[str, int]]] = {
    "full": (_FULL_VISION, _FULL_QFORMER, _FULL_TEXT),
    "small": (_SMALL_VISION, _SMALL_QFORMER, _SMALL_TEXT),
}
SIZES = tuple(_WIDTHS)
"""`full` is ViT-g, BERT-base and Flan-T5-XL. `small` is about a sixteenth of their width and a
quarter of their depth with as many tokens, so that parts cost in much the same proportions."""

LAYOUTS = {
    "instructblip": ("InstructBlipForConditionalGeneration", "instructblip", 30_523),
    "blip-2": ("Blip2ForConditionalGeneration", "blip_2", 30_522),
}
"""Layout -> architecture, prefix of its parts' types, vocabulary of its Q-Former."""


def backbone_config(
    layout: str, size: str, qformer_vocabulary: int | None = None
) -> dict[str, Any]:
    """The composite `config.json` of a BLIP-2 family backbone in a size.

    Args:
        layout: `instructblip` or `blip-2`.
        size: One of `SIZES`.
        qformer_vocabulary: Words of the Q-Former; none: the published number.
    """
    architecture, kind, vocabulary = LAYOUTS[layout]
    vision, qformer, text = _WIDTHS[size]
    return {
        "architectures": [architecture],
        "model_type": layout,
        "num_query_tokens": 32,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "vision_config": {
            "model_type": f"{kind}_vision_model",
            "image_size": 224,
            "patch_size": 14,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            # transformers' own default of 1e-10 makes random features vanish (specs/vlap.md 7.3)
            "initializer_range": 0.02,
            "qkv_bias": True,
            **vision,
        },
        "qformer_config": {
            "model_type": f"{kind}_qformer",
            "vocab_size": qformer_vocabulary or vocabulary,
            "cross_attention_frequency": 2,
            "encoder_hidden_size": vision["hidden_size"],
            "max_position_embeddings": 512,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
            **qformer,
        },
        "text_config": {**_TEXT, "num_decoder_layers": text["num_layers"], **text},
    }


def clip_config(size: str) -> dict[str, Any]:
    """The `config.json` of a CLIP: B/16 (`full`), or a small one with as many patches."""
    full = size == "full"
    tower: dict[str, Any] = {
        "num_hidden_layers": 12 if full else 2,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "initializer_range": 0.02,
    }
    vision = {
        "model_type": "clip_vision_model", "image_size": 224, "patch_size": 16,
        "hidden_size": 768 if full else 96, "intermediate_size": 3072 if full else 384,
        "num_attention_heads": 12 if full else 4, **tower,
    }  # fmt: skip
    text = {
        "model_type": "clip_text_model", "vocab_size": 49_408, "max_position_embeddings": 77,
        "hidden_size": 512 if full else 64, "intermediate_size": 2048 if full else 256,
        "num_attention_heads": 8 if full else 4, **tower,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    projection = 512 if full else 64
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": projection,
        "logit_scale_init_value": 2.6592,
        "initializer_factor": 1.0,
        "vision_config": {**vision, "projection_dim": projection},
        "text_config": {**text, "projection_dim": projection},
    }


# --- parts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TowerSize:
    """A ViT: N tokens of C channels, MLPs of `inner`, `layers` blocks, `patch` values a patch."""

    tokens: int
    width: int
    inner: int
    layers: int
    patch: int
    norms: int = 2
    """Norms of C outside the blocks, in units of C parameters."""

    @property
    def parameters(self) -> int:
        """Weights and biases, the last norm included."""
        C, M = self.width, self.inner
        block = 4 * C * C + 2 * C * M + M + 9 * C
        return self.layers * block + C * (self.patch + self.tokens + 2 + self.norms)

    @property
    def flops(self) -> int:
        """Operations of one frame."""
        N, C = self.tokens, self.width
        block = N * (4 * C * C + 2 * C * self.inner) + 2 * N * N * C
        return 2 * (self.layers * block + (N - 1) * self.patch * C)


@dataclass(frozen=True)
class QformerSize:
    """A Q-Former: Q queries of H channels that look at N tokens of C in every `cross`-th layer."""

    queries: int
    width: int
    inner: int
    layers: int
    cross: int
    sees: int
    vocabulary: int
    """0: it reads no text."""
    projects_to: int
    positions: int = 512
    heads: int = 12

    @property
    def parameters(self) -> int:
        """Weights and biases of the Q-Former, the queries and the projection."""
        H, M = self.width, self.inner
        feed = 2 * H * M + M + 3 * H
        looks = 2 * (H * H + H) + 2 * (self.sees * H + H) + 2 * H
        block = 4 * (H * H + H) + 2 * H + feed * (2 if self.vocabulary else 1)
        words = (self.vocabulary + self.positions) * H if self.vocabulary else 0
        layers = self.layers * block + self._crossings * looks
        outside = self.queries * H + H * self.projects_to + self.projects_to
        return layers + words + 2 * H + outside

    def flops(self, tokens: int, text: int = 0) -> int:
        """Operations of one frame of `tokens` tokens with `text` words, projection included."""
        Q, H, M = self.queries, self.width, self.inner
        words = text if self.vocabulary else 0
        S = Q + words
        own = S * 4 * H * H + 2 * S * S * H + S * 2 * H * M
        looks = 2 * Q * H * H + 2 * tokens * self.sees * H + 2 * Q * tokens * H
        return 2 * (self.layers * own + self._crossings * looks + Q * H * self.projects_to)

    @property
    def _crossings(self) -> int:
        return -(-self.layers // self.cross)


@dataclass(frozen=True)
class LanguageSize:
    """A gated T5 with an untied head: D channels, attention of `attends`, MLPs of `inner`."""

    width: int
    attends: int
    inner: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    heads: int = 32

    @property
    def parameters(self) -> int:
        """Encoder, decoder, embeddings and head."""
        D, attention, feed = self.width, 4 * self.width * self.attends, 3 * self.width * self.inner
        encoder = self.encoder_layers * (attention + feed + 2 * D)
        decoder = self.decoder_layers * (2 * attention + feed + 3 * D)
        return encoder + decoder + 2 * self.vocabulary * D + 2 * 32 * self.heads + 2 * D

    def encoder_flops(self, length: int) -> int:
        """Operations of the encoder on one row of `length`."""
        D, A = self.width, self.attends
        return (
            2
            * self.encoder_layers
            * (length * (4 * D * A + 3 * D * self.inner) + 2 * length * length * A)
        )

    def decoder_flops(self, length: int, steps: int) -> int:
        """Operations of `steps` decoder tokens after an encoder row of `length`, head included.

        Keys and values of the encoder's output are made once.
        """
        D, A, layers = self.width, self.attends, self.decoder_layers
        token = layers * (6 * D * A + 3 * D * self.inner) + self.vocabulary * D
        return 2 * (layers * 2 * length * D * A + steps * token)


@dataclass(frozen=True)
class BackboneSize:
    """All parts of a BLIP-2 family backbone."""

    tower: TowerSize
    qformer: QformerSize
    language: LanguageSize

    @property
    def published(self) -> bool:
        """Whether it is at least as large as what the papers use; goals are set for that."""
        return self.tower.flops >= TowerSize(257, 1408, 6144, 39, 588).flops


def tower_size(config: Mapping[str, Any]) -> TowerSize:
    """The vision tower of a `config.json`; absent values are transformers' own defaults."""
    clip = config.get("model_type") == "clip"
    default = _CLIP_VISION if clip else {**_FULL_VISION, "image_size": 224, "patch_size": 14}
    vision = default | dict(config.get("vision_config") or {})
    side, patch = int(vision["image_size"]), int(vision["patch_size"])
    return TowerSize(
        tokens=(side // patch) ** 2 + 1,
        width=int(vision["hidden_size"]),
        inner=int(vision["intermediate_size"]),
        layers=int(vision["num_hidden_layers"]),
        patch=3 * patch * patch,
        # CLIP has a norm before its blocks too, and no bias in the patch layer
        norms=3 if clip else 2,
    )


_CLIP_VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "image_size": 224,
    "patch_size": 32,
}  # fmt: skip
_T5 = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, **_TEXT}


def backbone_size(config: Mapping[str, Any]) -> BackboneSize:
    """Every part of a BLIP-2 family `config.json`."""
    tower = tower_size(config)
    layout = str(config.get("model_type"))
    values = {**_FULL_QFORMER, "cross_attention_frequency": 2, "vocab_size": 30_522}
    values |= dict(config.get("qformer_config") or {})
    text = _T5 | dict(config.get("text_config") or {})
    reads = layout == "instructblip"
    return BackboneSize(
        tower,
        QformerSize(
            queries=int(config.get("num_query_tokens", 32)),
            width=int(values["hidden_size"]),
            inner=int(values["intermediate_size"]),
            layers=int(values["num_hidden_layers"]),
            cross=int(values["cross_attention_frequency"]),
            sees=tower.width,
            vocabulary=int(values["vocab_size"]) if reads else 0,
            projects_to=int(text["d_model"]),
            positions=int(values.get("max_position_embeddings", 512)),
            heads=int(values["num_attention_heads"]),
        ),
        LanguageSize(
            width=int(text["d_model"]),
            attends=int(text["num_heads"]) * int(text["d_kv"]),
            inner=int(text["d_ff"]),
            encoder_layers=int(text["num_layers"]),
            decoder_layers=int(text.get("num_decoder_layers") or text["num_layers"]),
            vocabulary=int(text["vocab_size"]),
            heads=int(text["num_heads"]),
        ),
    )
