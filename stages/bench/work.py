"""What speed is measured on: generated videos, questions about them, and features by row.

The videos are those of `shapes`, decoded beforehand: decoding is in no latency of the papers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from stages.artifacts.clips import ClipRows
from stages.benchmarks.questions import Question
from stages.benchmarks.shapes.generate import generate
from stages.core.errors import DataError
from stages.core.midpoints import midpoint_indices
from stages.models.backbones.vision import VisionTower

FILLER = "which of these is it that can be seen when the whole video is looked at once more and"
"""Words that make a prompt as long as a benchmark's."""


@dataclass(frozen=True)
class Work:
    """What is asked: questions, the video of each, and the frames of every video."""

    questions: list[Question]
    video_of: list[int]
    frames: Tensor
    """uint8 [videos, T, H, W, 3]."""

    @property
    def num_frames(self) -> int:
        """T."""
        return int(self.frames.shape[1])

    def thinned(self, frames: int) -> Work:
        """The same with the middle frame of each of `frames` segments."""
        kept = torch.as_tensor(midpoint_indices(0, self.num_frames, frames))
        return replace(self, frames=self.frames[:, kept])


def make_work(
    videos: int,
    questions: int,
    size: int,
    frames: int,
    filler: int = 0,
    folder: Path | None = None,
) -> Work:
    """Generated videos, and questions spread over them, those about one video together.

    Args:
        videos: How many.
        questions: How many.
        size: Side in pixels that frames are brought to.
        frames: T.
        filler: Words put before each question.
        folder: Where the videos are written and removed again; none: the temporary one.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        records = generate(Path(name), "test", videos, seed=11, workers=1)
        paths = list(dict.fromkeys(record["video"] for record in records))
        pixels = torch.stack([_decoded(Path(name) / path, size, frames) for path in paths])
    video_of = sorted(number % videos for number in range(questions))
    asked = [
        _question(number, records[number % len(records)], paths[video], filler)
        for number, video in enumerate(video_of)
    ]
    return Work(asked, video_of, pixels)


def _decoded(path: Path, size: int, count: int) -> Tensor:
    """T frames [T, size, size, 3] of a file."""
    with av.open(str(path)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    kept = np.stack([every[int(index)] for index in midpoint_indices(0, len(every), count)])
    pixels = torch.from_numpy(kept).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="nearest")
    return resized.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _question(number: int, record: Mapping[str, Any], video: str, filler: int) -> Question:
    words = FILLER.split()
    before = " ".join(words[place % len(words)] for place in range(filler))
    return Question(
        question_id=str(number),
        videos=(video,),
        question=f"{before} {record['question']}".strip(),
        options=tuple(record["options"]),
        answer=None,
        answer_text=None,
        start=None,
        end=None,
        type=None,
        spans=(),
        split="test",
        source_row=number + 1,
    )


def encode(tower: VisionTower, frames: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> features [N, P, C] on the tower's device."""
    device = next(tower.parameters()).device
    return tower.features(tower.preprocess(frames).to(device))


class RowsOfClips:
    """Tower features by row number, T rows a clip: computed from pixels, or stored.

    Args:
        tower: The vision tower.
        frames: uint8 [videos, T, H, W, 3].
        video_of: The video of each clip.
        stored: Features [videos, T, N, C]; none: computed when a clip is first read.
    """

    def __init__(
        self, tower: VisionTower, frames: Tensor, video_of: Sequence[int], stored: Any = None
    ) -> None:
        self.tower, self.frames, self.video_of = tower, frames, list(video_of)
        self.tokens, self.width = tower.spec.tokens, tower.spec.width
        self._stored = stored
        self._made: dict[int, Any] = {}

    def read(self, rows: Any) -> Any:
        """Features [len(rows), N, C]; see `FeatureRows`."""
        count = self.frames.shape[1]
        clips = rows // count
        parts = [self._clip(int(clip))[rows[clips == clip] % count] for clip in np.unique(clips)]
        return np.concatenate(parts)

    def read_cls(self, rows: Any) -> Any:
        """See `FeatureRows`; these towers keep no frame CLS apart."""
        raise DataError("this tower keeps no frame CLS apart")

    def read_pooled(self, rows: Any) -> Any:
        """See `FeatureRows`; the tokens are at hand."""
        return None

    def _clip(self, clip: int) -> Any:
        if self._stored is not None:
            return self._stored[self.video_of[clip]]
        if clip not in self._made:
            self._made[clip] = encode(self.tower, self.frames[self.video_of[clip]]).cpu().numpy()
        return self._made[clip]


def clip_rows(clip: int, frames: int) -> ClipRows:
    """The T rows of a clip."""
    places = np.arange(frames)
    return ClipRows(clip * frames + places, places, places.astype(np.float64))
