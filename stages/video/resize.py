"""How a decoded frame becomes the stored one: `FrameFormat` and the filters it stands for.

Both decoders scale with swscale's bilinear filter and both rotate before they scale, so that their
bytes agree (specs/sevila.md 0.7 and the note on rotated videos).
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from stages.core.config import Config

Side = Annotated[int, Field(ge=1, le=4096)]


class FrameFormat(Config):
    """Size and resize rule of stored frames; part of the frames' fingerprint."""

    kind: Literal["squash", "crop"] = "squash"
    """`squash`: straight to width × height, aspect ratio not kept (BLIP-2 family).
    `crop`: the short side to `short_side`, then a centre crop of width × height (CLIP family)."""

    width: Side = 224
    """Stored width in pixels."""

    height: Side = 224
    """Stored height in pixels."""

    short_side: Side | None = None
    """Only for `crop`: the short side in pixels before cropping; None is the larger stored side."""

    @classmethod
    def squash(cls, width: int, height: int | None = None) -> FrameFormat:
        """Straight to `width` × `height` (square when `height` is not given)."""
        return cls(kind="squash", width=width, height=width if height is None else height)

    @classmethod
    def crop(cls, size: int, short_side: int | None = None) -> FrameFormat:
        """Short side to `short_side` (or `size`), then the central `size` × `size`."""
        return cls(kind="crop", width=size, height=size, short_side=short_side)

    def scaled_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) to scale a presented frame of this size to, before any crop.

        The long side is truncated as torchvision's Resize does, and never falls below the crop.
        """
        if self.kind == "squash":
            return self.width, self.height
        short = max(self.short_side or 0, self.width, self.height)
        if width <= height:
            return short, max(short * height // width, short)
        return max(short * width // height, short), short

    def cropped(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The central height × width of scaled frames `uint8[..., H, W, 3]`."""
        top = round((frames.shape[-3] - self.height) / 2)
        left = round((frames.shape[-2] - self.width) / 2)
        return frames[..., top : top + self.height, left : left + self.width, :]
