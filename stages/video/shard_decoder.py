"""The videos of one shard, decoded: the half of encoding from videos that needs cores only.

Nothing here or below imports a model, so that a decode process is a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stages.core.runtime import Runtime
from stages.video.clips import SamplingConfig, VideoFrames, VideoWork, decode_videos
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat


@dataclass(frozen=True)
class ShardDecoder:
    """Decodes shard by shard.

    Attributes:
        works: Every video.
        ranges: Which of them are in each shard.
        sampling, frame_format: What is decoded.
        decoder: Name of the decoder.
        stage: Whose failures these are.
    """

    works: Sequence[VideoWork]
    ranges: Sequence[range]
    sampling: SamplingConfig
    frame_format: FrameFormat
    decoder: str
    stage: str

    @contextmanager
    def open(self, runtime: Runtime) -> Iterator[Callable[[int], list[VideoFrames]]]:
        """Start the decoders; the function takes a shard's number."""
        with DecodePool(runtime.num_workers, self.decoder) as pool:

            def decode(shard: int) -> list[VideoFrames]:
                works = [self.works[number] for number in self.ranges[shard]]
                found = decode_videos(works, self.sampling, self.frame_format, pool, self.stage)
                return list(found)

            yield decode
