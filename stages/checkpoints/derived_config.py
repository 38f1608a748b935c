"""The `config.json` of a BLIP-2 folder whose parts come from a Flan-T5 folder and foreign files.

Sizes are read off the tensors. What no tensor says follows the published networks: vision heads of
88 channels, Q-Former heads of 64, at most 39 vision layers (LAVIS drops EVA's last), and exact GELU
in T5, which BLIP-2 sets where Flan-T5 has the approximation (specs/sevila.md 0.6, 1.2 - 1.4).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from stages.checkpoints.assembly import Source
from stages.core.errors import DataError, MissingInput

VISION_HEAD, QFORMER_HEAD = 88, 64
MOST_VISION_LAYERS = 39
BLIP2_T5 = {"dense_act_fn": "gelu", "tie_word_embeddings": False}
_LAYER = re.compile(r"\.(?:layers|layer)\.(\d+)\.")
VISION_STEM = "vision_model.encoder.layers"


def blip2_config(t5: dict[str, Any], sources: Sequence[Source]) -> dict[str, Any]:
    """The composite configuration of these files around a T5 of configuration `t5`.

    Raises:
        MissingInput: No file has the vision tower, or none the Q-Former.
        DataError: Sizes are none of the published family's.
    """
    sizes = _Sizes(sources)
    return {
        "model_type": "blip-2",
        "architectures": ["Blip2ForConditionalGeneration"],
        "num_query_tokens": sizes.of("query_tokens")[1],
        "vision_config": _vision(sizes),
        "qformer_config": _qformer(sizes),
        "text_config": {"decoder_start_token_id": t5.get("pad_token_id", 0)} | t5 | BLIP2_T5,
        "tie_word_embeddings": False,
    }


class _Sizes:
    """Shapes of all files' tensors under our names."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources

    def find(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, if a file has it."""
        for source in reversed(self.sources):
            if name in source.names.ours:
                return source.shape(name)
        return None

    def of(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor that must be there."""
        shape = self.find(name)
        if shape is None:
            part = "vision tower" if name.startswith("vision_model.") else "Q-Former"
            raise MissingInput(
                f"no file has the {part} ({name})",
                "with a T5 folder as --base give vision=FILE and a file with the Q-Former",
            )
        return shape

    def layers(self, stem: str, tail: str = "") -> list[int]:
        """Numbers of the layers below `stem` that have a tensor ending in `tail`."""
        return sorted(
            {
                int(found.group(1))
                for source in self.sources
                for name in source.names.ours
                if name.startswith(stem) and name.endswith(tail)
                if (found := _LAYER.search(name))
            }
        )


def _vision(sizes: _Sizes) -> dict[str, Any]:
    _, tokens, width = sizes.of("vision_model.embeddings.position_embedding")
    patch = sizes.of("vision_model.embeddings.patch_embedding.weight")[-1]
    return {
        "model_type": "blip_2_vision_model",
        "hidden_size": width,
        "intermediate_size": sizes.of(f"{VISION_STEM}.0.mlp.fc1.weight")[0],
        "num_hidden_layers": min(len(sizes.layers(VISION_STEM)), MOST_VISION_LAYERS),
        "num_attention_heads": _heads(width, VISION_HEAD, "vision tower"),
        "image_size": patch * math.isqrt(tokens - 1),
        "patch_size": patch,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
    }


def _qformer(sizes: _Sizes) -> dict[str, Any]:
    width = sizes.of("query_tokens")[-1]
    crossing = sizes.layers("qformer.encoder.layer.", "crossattention.attention.key.weight")
    return {
        "model_type": "blip_2_qformer",
        "hidden_size": width,
        "num_hidden_layers": len(sizes.layers("qformer.encoder.layer.")),
        "num_attention_heads": _heads(width, QFORMER_HEAD, "Q-Former"),
        "intermediate_size": sizes.of("qformer.encoder.layer.0.intermediate_query.dense.weight")[0],
        "encoder_hidden_size": sizes.of(
            "qformer.encoder.layer.0.crossattention.attention.key.weight"
        )[1],
        "cross_attention_frequency": crossing[1] - crossing[0] if len(crossing) > 1 else 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "use_qformer_text_input": False,
    }


def _heads(width: int, channels: int, part: str) -> int:
    if width % channels:
        raise DataError(
            f"the {part} is {width} wide, no multiple of the published {channels} channels a head",
            "give as --base a folder whose config.json says the number of heads",
        )
    return width // channels
