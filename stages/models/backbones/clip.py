"""CLIP: the vision tower that VideoDistill reads, its text tower, and their common space.

A folder in CLIPModel layout (clip-vit-base-patch16, or any other) gives three parts:
    ClipTower    frames -> patches before the last LayerNorm, frame CLS after it; frozen
    ClipText     texts -> word states and one sentence state; can be trained
    ClipMatcher  frame CLS and texts -> cosines in the projected space (SeViLA's Table 6)
Each reads its own tensors of the composite folder by name and fails if one is missing, where the
library warns and goes on with random values. The towers are called one by one: the outputs of
transformers' whole `CLIPModel` hold projections in the place of pooled states.

Axes: N frames, P patches a frame, C channels of vision, B texts, M tokens, D channels of text,
E dimensions of the common space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPTextModel,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from stages.core.errors import ConfigError, DataError
from stages.models.backbones.catalog import CLIP_LAYOUT
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.text import encode_texts, ids_of, load_tokenizer
from stages.models.backbones.vision import (
    EncodedFrames,
    Precision,
    VisionSpec,
    assert_residual_exact,
    assert_weights_live,
    autocast_in,
    frame_statistics,
    normalise_frames,
    round_weights,
)

LEGACY_EOS = 2
"""`eos_token_id` that old CLIP configs carry by mistake; texts are then read at the largest id."""


class ClipTower(nn.Module):
    """CLIP's ViT, frozen and in eval mode, in the precisions of `VisionTower`.

    Patches are `last_hidden_state[:, 1:]`, before the last LayerNorm; the frame CLS is
    `pooler_output`, after it (specs/videodistill.md 1). The paper says "CLS token" only.
    """

    def __init__(self, model: nn.Module, spec: VisionSpec, precision: Precision) -> None:
        super().__init__()
        self.model: Any = model
        self.spec = spec
        self.precision = precision
        assert_weights_live(model)
        round_weights(model, precision)
        assert_residual_exact(model)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(
        cls,
        folder: BackboneFolder,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> ClipTower:
        """Read only the vision tower of a composite folder.

        Raises:
            DataError: Not in CLIPModel layout, or the weights do not fit.
        """
        if precision not in get_args(Precision):
            raise ConfigError(f"precision {precision!r} is not one of {get_args(Precision)}")
        config = clip_config(folder.config, str(folder.path))
        with torch.device("meta"):
            model = CLIPVisionModel(config.vision_config)
        folder.load_into(model, "vision_model.", dtype=torch.float32, device=device)
        count_positions(model.embeddings, device)
        preprocessor = folder.read_json("preprocessor_config.json", optional=True)
        return cls(model, clip_spec(config, preprocessor), precision)

    def train(self, mode: bool = True) -> ClipTower:
        """Stay in eval mode whatever the surrounding model does."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> EncodedFrames:
        """Pixels [N, 3, H, W] -> patches [N, P, C] and CLS [N, C], float32."""
        size = self.spec.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise DataError(
                f"pixels of shape {tuple(pixels.shape)}, expected (N, 3, {size}, {size})"
            )
        with autocast_in(self.precision, pixels.device):
            output = self.model(pixel_values=pixels.float())
        return EncodedFrames(output.last_hidden_state[:, 1:].float(), output.pooler_output.float())

    def preprocess(self, frames: Tensor | np.ndarray) -> Tensor:
        """Frames uint8 [N, H, W, 3] -> pixels float32 [N, 3, H, W], scaled and normalised."""
        return normalise_frames(torch.as_tensor(frames), self.spec.mean, self.spec.std)


# --- text ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextIds:
    """Texts as ids [B, M] and mask (1 text, 0 padding on the right), start and end included."""

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return self.ids.shape[0]

    def to(self, device: torch.device | str) -> TextIds:
        """The same batch on `device`."""
        return TextIds(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class TextStates:
    """What the text tower says: `words` [B, M, D] and `sentence` [B, D], after its last norm."""

    words: Tensor
    sentence: Tensor


class ClipText(nn.Module):
    """CLIP's causal text tower, its projection and its tokenizer.

    Starts in eval mode and trainable. `tower` and `projection` hold the tensors `text_model.` and
    `text_projection.` of the folder.
    """

    def __init__(
        self, tower: nn.Module, projection: nn.Linear, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__()
        self.tower: Any = tower
        self.projection = projection
        self.tokenizer = tokenizer
        self.eval()

    @classmethod
    def load(cls, folder: BackboneFolder, device: torch.device | str = "cpu") -> ClipText:
        """Read the text tower, in float32, and the tokenizer.

        Raises:
            DataError: The weights do not fit, or tokenizer and config disagree on the end token.
        """
        config = clip_config(folder.config, str(folder.path))
        with torch.device("meta"):
            tower = CLIPTextModel(config.text_config)
            projection = nn.Linear(
                config.text_config.hidden_size, config.projection_dim, bias=False
            )
        folder.load_into(tower, "text_model.", dtype=torch.float32, device=device)
        folder.load_into(projection, "text_projection.", dtype=torch.float32, device=device)
        count_positions(tower.embeddings, device)
        return cls(tower, projection, clip_tokenizer(folder, config.text_config))

    @property
    def width(self) -> int:
        """D."""
        return int(self.tower.config.hidden_size)

    @property
    def max_tokens(self) -> int:
        """Largest M, start and end included (77)."""
        return int(self.tower.config.max_position_embeddings)

    def encode(self, texts: Sequence[str]) -> TextIds:
        """Texts as ids; longer ones lose their end, never the end token."""
        return TextIds(*encode_texts(self.tokenizer, texts, self.max_tokens))

    def forward(self, texts: TextIds) -> TextStates:
        """Word states and the state at the end token; gradients flow."""
        output = self.tower(input_ids=texts.ids, attention_mask=texts.mask)
        return TextStates(output.last_hidden_state, output.pooler_output)

    def project(self, sentence: Tensor) -> Tensor:
        """Sentence states [..., D] in the common space [..., E], not normalised."""
        projected: Tensor = self.projection(sentence)
        return projected


def clip_tokenizer(folder: BackboneFolder, text_config: Any) -> PreTrainedTokenizerFast:
    """The folder's tokenizer, padded with its end token, which the text tower looks for.

    Raises:
        DataError: It ends texts with another token than the config's, or, where the config has
            the mistaken id 2 and texts are read at the largest id, that is not the end token.
    """
    tokenizer = load_tokenizer(folder.path, pad=0)
    end = ids_of(tokenizer, "")[-1:]
    wanted = text_config.eos_token_id
    if wanted == LEGACY_EOS:
        wanted = len(tokenizer) - 1
    if end != [wanted]:
        raise DataError(
            f"{folder.path}: the tokenizer ends texts with {end}, the text tower looks for "
            f"{wanted}",
            "is tokenizer.json the one that these weights were trained with?",
        )
    tokenizer.eos_token = tokenizer.pad_token = tokenizer.convert_ids_to_tokens(wanted)
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if len(tokenizer) > text_config.vocab_size:
        raise DataError(
            f"{folder.path}: the tokenizer has {len(tokenizer)} pieces, "
            f"the text tower {text_config.vocab_size}"
        )
    return tokenizer


# --- the common space ----------------------------------------------------------------------------


class ClipMatcher(nn.Module):
    """How well texts fit frames, from the stored frame CLS: frozen, no patch is needed.

    Args:
        text: Text tower with projection.
        visual_projection: From the frame CLS to the common space.
    """

    def __init__(self, text: ClipText, visual_projection: nn.Linear) -> None:
        super().__init__()
        self.text = text
        self.visual_projection = visual_projection
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def load(cls, folder: BackboneFolder, device: torch.device | str = "cpu") -> ClipMatcher:
        """Read text tower and both projections; the vision tower is not needed."""
        config = clip_config(folder.config, str(folder.path))
        with torch.device("meta"):
            projection = nn.Linear(
                config.vision_config.hidden_size, config.projection_dim, bias=False
            )
        folder.load_into(projection, "visual_projection.", dtype=torch.float32, device=device)
        return cls(ClipText.load(folder, device), projection)

    @torch.no_grad()
    def project_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts in the common space [B, E]."""
        device = self.visual_projection.weight.device
        return self.text.project(self.text(self.text.encode(texts).to(device)).sentence)

    @torch.no_grad()
    def project_cls(self, cls: Tensor) -> Tensor:
        """Stored frame CLS [..., C] in the common space [..., E]."""
        projected: Tensor = self.visual_projection(cls.float())
        return projected

    @torch.no_grad()
    def similarity(self, cls: Tensor, texts: Sequence[str]) -> Tensor:
        """Frame CLS [B, T, C] of B clips and one text for each -> cosines [B, T]."""
        frames, sentences = self.project_cls(cls), self.project_texts(texts)
        return clip_similarity(frames, sentences[:, None])


def clip_similarity(frames: Tensor, texts: Tensor) -> Tensor:
    """Cosine of projected frame CLS and projected texts over the last axis; others broadcast."""
    return F.cosine_similarity(frames.float(), texts.float(), dim=-1)


# --- layout --------------------------------------------------------------------------------------


def clip_config(config: dict[str, Any], where: str) -> Any:
    """The transformers `CLIPConfig` of a `config.json`, older keys merged as the library does.

    Raises:
        DataError: Another layout, or values that make no network.
    """
    kind = config.get("model_type")
    if kind != CLIP_LAYOUT:
        raise DataError(f"{where}: model_type {kind!r} is not in CLIPModel layout")
    values = {key: value for key, value in config.items() if key != "model_type"}
    try:
        made = CLIPConfig(**values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise DataError(f"{where}: config.json describes no CLIP ({error})") from None
    for name in ("image_size", "patch_size"):
        if not isinstance(getattr(made.vision_config, name), int):
            raise DataError(f"{where}: vision_config.{name} must be one whole number")
    return made


def clip_spec(config: Any, preprocessor: dict[str, Any] | None = None) -> VisionSpec:
    """Sizes from a `CLIPConfig`; mean and std from `preprocessor_config.json` where given."""
    vision = config.vision_config
    mean, std = frame_statistics(preprocessor or {})
    tokens = (vision.image_size // vision.patch_size) ** 2
    return VisionSpec(
        vision.image_size, tokens, vision.hidden_size, mean, std, "crop", vision.hidden_size
    )


def count_positions(embeddings: Any, device: torch.device | str) -> None:
    """Fill the position counter, which no file holds, after loading from the meta device."""
    count = embeddings.position_embedding.num_embeddings
    embeddings.position_ids = torch.arange(count, device=device).expand(1, -1)
