"""The frozen vision tower of a BLIP-2 family backbone: uint8 frames in, patch features out.

Features are taken **before** the tower's last LayerNorm, because VLAP trains that norm
(specs/vlap.md 0.9); they are what the features artifact stores. CLIP's tower is in `clip`; what
both share (`EncodedFrames`, pixels, crops, precisions) is here.

Axes: N frames, H x W pixels, P tokens a frame (patches and CLS), C channels.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Blip2VisionConfig,
    Blip2VisionModel,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
)

from stages.core.errors import ConfigError, DataError
from stages.models.backbones.folder import BackboneFolder, explained_config

Precision = Literal["float32", "bfloat16", "float16"]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CROP_SCALE = (0.5, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
LEAST_WEIGHT = 1e-6
"""A layer whose values are all smaller is not a trained one, nor a usable random one."""
LOOKED_AT = 4096
"""Values of each layer that are looked at."""
_TOWERS: dict[str, tuple[type, type]] = {
    "instructblip": (InstructBlipVisionConfig, InstructBlipVisionModel),
    "blip-2": (Blip2VisionConfig, Blip2VisionModel),
}


@dataclass(frozen=True)
class VisionSpec:
    """What frames a tower takes and what features it gives."""

    image_size: int
    tokens: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["squash", "crop"] = "squash"
    """`squash`: frames go straight to image_size x image_size; the aspect ratio is not kept.
    `crop`: the tower sees a crop of a larger square frame, see `catalog.frame_rule`."""
    cls_width: int = 0
    """Channels of the frame CLS that is stored apart; 0: CLS is the first of the tokens."""


@dataclass(frozen=True)
class EncodedFrames:
    """What a tower says of N frames: `tokens` float32 [N, P, C], and `cls` float32 [N, C] if it
    keeps the frame CLS apart."""

    tokens: Tensor
    cls: Tensor | None = None


class VisionTower(nn.Module):
    """EVA-style ViT, frozen and in eval mode, with the reference's precision policies.

    Precisions (specs/vlap.md 7.4): `float32` is exact. `float16` is the reference's: weights of
    linear layers and of the patch convolution are rounded to half and run under autocast, while
    embeddings, norms and the residual stream stay float32. `bfloat16` is the same with bfloat16.
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
    ) -> VisionTower:
        """Read only the vision tower of a composite folder (specs/vlap.md 7.3, trap 9)."""
        if precision not in get_args(Precision):
            raise ConfigError(f"precision {precision!r} is not one of {get_args(Precision)}")
        config = vision_config(folder.config, str(folder.path))
        with torch.device("meta"):
            model = _TOWERS[folder.config["model_type"]][1](config)
        folder.load_into(model, "vision_model.", dtype=torch.float32, device=device)
        preprocessor = folder.read_json("preprocessor_config.json", optional=True)
        return cls(model, vision_spec(config, preprocessor), precision)

    def train(self, mode: bool = True) -> VisionTower:
        """Stay in eval mode whatever the surrounding model does."""
        return super().train(False)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] -> features [N, P, C] in float32, before the last LayerNorm."""
        size = self.spec.image_size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise DataError(
                f"pixels of shape {tuple(pixels.shape)}, expected (N, 3, {size}, {size})"
            )
        with autocast_in(self.precision, pixels.device):
            embedded = self.model.embeddings(pixels.float())
            encoded = self.model.encoder(inputs_embeds=embedded).last_hidden_state
        return encoded.float()

    def encode(self, pixels: Tensor) -> EncodedFrames:
        """`features`, with CLS as the first token."""
        return EncodedFrames(self.features(pixels))

    def preprocess(self, frames: Tensor | np.ndarray) -> Tensor:
        """Frames uint8 [N, H, W, 3] -> pixels float32 [N, 3, H, W], scaled and normalised."""
        return normalise_frames(torch.as_tensor(frames), self.spec.mean, self.spec.std)


def vision_config(config: dict[str, Any], where: str) -> Any:
    """The transformers vision config of a composite `config.json`."""
    kind = config.get("model_type")
    if kind not in _TOWERS:
        raise DataError(
            f"{where}: model_type {kind!r} has no vision tower that vqa reads",
            f"known: {', '.join(sorted(_TOWERS))}",
        )
    with explained_config(f"{where}/config.json"):
        return _TOWERS[kind][0](**config.get("vision_config", {}))


def vision_spec(config: Any, preprocessor: dict[str, Any] | None = None) -> VisionSpec:
    """Sizes from the vision config; mean and std from `preprocessor_config.json` where given."""
    mean, std = frame_statistics(preprocessor or {})
    tokens = (config.image_size // config.patch_size) ** 2 + 1
    return VisionSpec(config.image_size, tokens, config.hidden_size, mean, std)


def frame_statistics(
    preprocessor: dict[str, Any],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std of the channels by `preprocessor_config.json`; CLIP's where it has none."""
    mean = tuple(float(v) for v in preprocessor.get("image_mean", CLIP_MEAN))
    std = tuple(float(v) for v in preprocessor.get("image_std", CLIP_STD))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise DataError(f"preprocessor_config.json: image_mean {mean}, image_std {std}")
    return mean, std


def normalise_frames(frames: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W]: /255, minus mean, over std."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise DataError(f"frames must be uint8 (N, H, W, 3), not {frames.dtype} {frames.shape}")
    pixels = frames.permute(0, 3, 1, 2).float() / 255
    centre = torch.tensor(mean, device=pixels.device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels - centre) / spread


def crop_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height, width of a random crop: area 0.5-1, aspect 3/4-4/3 (specs/vlap.md 1.5).

    Ten draws; if none fits in the frame, the largest centred box with an allowed aspect.
    """
    area = height * width
    for _ in range(10):
        target = area * rng.uniform(*CROP_SCALE)
        aspect = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            return int(top), int(left), h, w
    aspect = min(max(width / height, CROP_RATIO[0]), CROP_RATIO[1])
    w = min(width, round(height * aspect))
    h = min(height, round(width / aspect))
    return (height - h) // 2, (width - w) // 2, h, w


def training_crop(
    frames: Tensor | np.ndarray,
    rng: np.random.Generator,
    *,
    size: int | None = None,
    wrap: bool = False,
) -> Tensor:
    """One random resized crop for a whole clip: uint8 [N, H, W, 3] -> uint8 [N, size, size, 3].

    Bicubic, no flip. Overshoot is clamped and values rounded; `wrap=True` lets them wrap around
    as the reference's plain cast does (specs/vlap.md 1.5, 8). `size` defaults to the height.
    """
    clip = torch.as_tensor(frames)
    side = size or clip.shape[1]
    top, left, height, width = crop_box(clip.shape[1], clip.shape[2], rng)
    box = clip[:, top : top + height, left : left + width].permute(0, 3, 1, 2).float()
    resized = F.interpolate(box, (side, side), mode="bicubic", align_corners=False)
    resized = resized.to(torch.int64) % 256 if wrap else resized.round().clamp(0, 255)
    return resized.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def fixed_size_crop(
    frames: Tensor | np.ndarray, size: int, rng: np.random.Generator | None = None
) -> Tensor:
    """uint8 [N, H, W, 3] -> [N, size, size, 3]: one place for all frames, random or the centre."""
    clip = torch.as_tensor(frames)
    down, right = clip.shape[1] - size, clip.shape[2] - size
    if min(down, right) < 0:
        raise DataError(f"frames of {tuple(clip.shape[1:3])} are smaller than the crop of {size}")
    top, left = (down // 2, right // 2) if rng is None else _random_corner(down, right, rng)
    return clip[:, top : top + size, left : left + size].contiguous()


def _random_corner(down: int, right: int, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(0, down + 1)), int(rng.integers(0, right + 1))


def autocast_in(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Arithmetic of a forward pass; float32 is left alone."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def round_weights(model: nn.Module, precision: Precision) -> None:
    """Round the weights of linear layers and of the patch convolution to `precision`."""
    if precision == "float32":
        return
    half = getattr(torch, precision)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.to(half)
        elif isinstance(module, nn.Conv2d):
            # Its dtype decides the dtype of the embeddings, hence of the residual stream, in
            # transformers: keep float32 and round only the values.
            module.to(half).to(torch.float32)


def assert_weights_live(model: nn.Module) -> None:
    """Raise `DataError` if a layer of a tower holds nothing but zeros, or values that are none.

    transformers draws random towers of this family with a spread of 1e-10: their features are 0
    in half precision, and any comparison of them passes (specs/vlap.md 7.3, trap 8). A spread of
    values of each layer is looked at, not all of them.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.is_meta:
            values = module.weight.detach().flatten()
            largest = float(values[:: max(1, len(values) // LOOKED_AT)].abs().max())
            if not LEAST_WEIGHT < largest < math.inf:
                raise DataError(
                    f"the vision tower's {name}.weight is degenerate (largest value {largest:g})",
                    "is the file whole? random towers need initializer_range 0.02 in vision_config",
                )


def assert_residual_exact(model: Any) -> None:
    """Raise `DataError` unless what decides the residual stream's precision is float32.

    transformers casts CLS and positions to the patch convolution's dtype, so a tower that was cast
    as a whole keeps half precision all the way (specs/sevila.md 7.3).
    """
    decisive = {
        name: value
        for name, value in model.embeddings.named_parameters()
        if value.dtype != torch.float32
    }
    if decisive:
        found = ", ".join(f"{name} {value.dtype}" for name, value in decisive.items())
        raise DataError(
            f"the vision tower's embeddings must stay float32, but: {found}",
            "choose a precision instead of casting the tower",
        )
