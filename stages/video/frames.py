"""What decoders give back and how they are named: `FrameBatch` and the `Decoder` face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import VideoError
from stages.video.probe import VideoInfo
from stages.video.resize import FrameFormat


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """Decoded frames of one video.

    `indices` int64[N] are frame numbers in presentation order, `times` float64[N] the seconds at
    which they are presented (see `VideoInfo`), `frames` uint8[N, H, W, 3] their RGB pixels, and
    `decoder` the name of the decoder that gave them.
    """

    indices: NDArray[np.int64]
    times: NDArray[np.float64]
    frames: NDArray[np.uint8]
    decoder: str


class Decoder(Protocol):
    """Frames by number, addressed inside the file by presentation time."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def frames(
        self,
        path: Path,
        info: VideoInfo,
        indices: Sequence[int] | NDArray[np.int64],
        frame_format: FrameFormat,
    ) -> FrameBatch:
        """Exactly the asked frames, in the asked order; repeated ones are decoded once.

        Raises:
            VideoError: any of them cannot be decoded without damage.
        """
        ...


def wanted_frames(
    path: Path, info: VideoInfo, indices: Sequence[int] | NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(asked, unique ascending, positions with `unique[positions] == asked`), range checked."""
    asked = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(asked) and (asked.min() < 0 or asked.max() >= info.num_frames):
        raise VideoError(
            f"{path}: frame {int(asked.max())} is asked for, but there are {info.num_frames}"
        )
    unique, positions = np.unique(asked, return_inverse=True)
    return asked, unique, positions.astype(np.int64)
