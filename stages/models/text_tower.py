"""CLIP's text tower as VideoDistill trains it: ids in, word and sentence vectors out.

Reads `text_model.*` of a CLIP folder in Hugging Face layout. Parameters are called by
transformers' names below `model.`, whichever way its version nests them.

Axes: R rows, M tokens (at most 77 for CLIP), W the tower's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from stages.core.errors import DataError
from stages.models.backbones.folder import BackboneFolder


@dataclass(frozen=True)
class TokenIds:
    """Sentences as ids [R, M] with begin and end tokens, and their mask (1 text, 0 padding).

    Padding is on the right, so the end token is the last one of the mask.
    """

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    def rows(self, index: Tensor) -> TokenIds:
        """The sentences at `index`, which may repeat."""
        return TokenIds(self.ids[index], self.mask[index])

    def to(self, device: torch.device | str) -> TokenIds:
        """The same sentences on `device`."""
        return TokenIds(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class TowerText:
    """t_word [R, M, W] after the last norm, and t_cls [R, W], the end token's row of it."""

    words: Tensor
    sentence: Tensor


class TextTower(nn.Module):
    """transformers' `CLIPTextModel`, trained, with an embedding for masked words."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = getattr(model, "text_model", model)
        config = model.config
        self.width: int = config.hidden_size
        self.vocabulary: int = config.vocab_size
        self.max_tokens: int = config.max_position_embeddings
        self.mask_embedding = nn.Parameter(torch.empty(self.width).normal_(std=0.02))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TextTower:
        """A randomly initialised tower from a `text_config`."""
        return cls(CLIPTextModel(CLIPTextConfig(**config)))

    @classmethod
    def load(cls, folder: BackboneFolder, device: torch.device | str = "cpu") -> TextTower:
        """The trained tower of a CLIP folder, in float32."""
        config = folder.config.get("text_config")
        if not isinstance(config, dict):
            raise DataError(f"{folder.path}: config.json has no text_config, as CLIP's has")
        with torch.device("meta"):
            model: Any = CLIPTextModel(CLIPTextConfig(**config))
        inner = getattr(model, "text_model", model)
        folder.load_into(inner, "text_model.", dtype=torch.float32, device=device)
        positions = torch.arange(model.config.max_position_embeddings, device=device)
        inner.embeddings.position_ids = positions[None]  # a buffer that no file holds
        return cls(model).to(device)

    def forward(self, tokens: TokenIds, masked: Tensor | None = None) -> TowerText:
        """Encode sentences; positions where `masked` [R, M] holds show the mask embedding.

        The tower is causal and padding is on the right, so padding needs no mask of its own: no
        word looks at it.
        """
        ids = tokens.ids
        if ids.shape[1] > self.max_tokens:
            raise DataError(
                f"a text of {ids.shape[1]} tokens, but the text tower has {self.max_tokens} "
                "positions",
                "cut the text when it is tokenised",
            )
        embedded = self.model.embeddings.token_embedding(ids)
        if masked is not None:
            shown = self.mask_embedding.to(embedded.dtype)
            embedded = torch.where(masked[..., None], shown, embedded)
        hidden = self.model.embeddings(inputs_embeds=embedded)
        # Given as values, not as a flag: every attention implementation honours it.
        causal = torch.full(
            (ids.shape[1],) * 2, torch.finfo(hidden.dtype).min, device=ids.device,
            dtype=hidden.dtype,
        ).triu(1)  # fmt: skip
        encoded = self.model.encoder(inputs_embeds=hidden, attention_mask=causal[None, None])
        words = self.model.final_layer_norm(encoded.last_hidden_state)
        rows = torch.arange(len(ids), device=ids.device)
        return TowerText(words, words[rows, tokens.mask.sum(dim=1) - 1])
