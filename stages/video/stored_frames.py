"""Frames of a finished frames artifact, in the shape in which decoding gives them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from stages.artifacts.clips import FAILURES_TABLE, ClipIndex, Failure, read_table
from stages.artifacts.store import Artifact
from stages.core.errors import UsageError
from stages.video.clips import SampledClip, SamplingConfig, VideoFrames, VideoWork
from stages.video.resize import FrameFormat

FRAMES_STEM = "frames"


class StoredFrames:
    """Frames of a finished frames artifact, as decoding would give them.

    Args:
        artifact: The frames.
        sampling, frame_format, decoder: How the reader wants them to have been made.
        stage: The reader's stage, for failures.

    Raises:
        UsageError: The artifact was made with other frame counts, size or decoder.
    """

    def __init__(
        self,
        artifact: Artifact,
        sampling: SamplingConfig,
        frame_format: FrameFormat,
        decoder: dict[str, str],
        stage: str,
    ) -> None:
        wanted = {
            "sampling": sampling.as_json(),
            "format": frame_format.as_json(),
            "decoder": decoder,
        }
        for field, value in wanted.items():
            if artifact.config[field] != value:
                raise UsageError(f"{artifact.id} was made with another {field}")
        shape = (frame_format.height, frame_format.width, 3)
        self.sampling = sampling
        self.index = ClipIndex(artifact, FRAMES_STEM, shape, np.dtype(np.uint8))
        failures = read_table(artifact.path / FAILURES_TABLE).to_pylist()
        self.failures = {
            row["id"]: Failure(row["id"], stage, row["reason"], row["words"]) for row in failures
        }

    def __call__(self, works: Iterable[VideoWork]) -> Iterator[VideoFrames]:
        """One `VideoFrames` per work, in order."""
        return (self._video(work) for work in works)

    def _video(self, work: VideoWork) -> VideoFrames:
        clips: list[SampledClip] = []
        rows: dict[int, int] = {}
        for span in work.clips:
            if span.id in self.failures:
                continue
            for count, view in self.sampling.samplings():
                stored = self.index.clip(span.key, count, view)
                clips.append(SampledClip(span, count, view, stored.frames.astype(np.int64)))
                rows |= dict(zip(stored.frames.tolist(), stored.rows.tolist(), strict=True))
        wanted = sorted(rows)
        numbers = np.array([rows[frame] for frame in wanted], dtype=np.int64)
        return VideoFrames(
            work.video,
            np.array(wanted, dtype=np.int64),
            self.index.times[numbers],
            self.index.reader.read(numbers),
            clips,
            [self.failures[span.id] for span in work.clips if span.id in self.failures],
        )
