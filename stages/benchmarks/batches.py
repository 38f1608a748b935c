"""Questions together with the stored features of their clips.

Reads: questions and features artifacts. A question whose clip has no features is not dropped: it
is kept with the reason, so that evaluations can count it as failed.

Axes: B questions, T frames, N tokens, C width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.artifacts.clips import FAILURES_TABLE, ClipKey, ClipRows, ClipSpan, read_table
from stages.artifacts.features import FeatureReader
from stages.artifacts.questions import question_records
from stages.artifacts.rows import Array
from stages.artifacts.store import Artifact
from stages.benchmarks.questions import Question
from stages.benchmarks.records import from_record
from stages.core.errors import DataError
from stages.core.midpoints import subset_midpoints


def stores(features: Artifact, frames: int) -> bool:
    """Whether extraction sampled `frames` frames per clip for their own sake."""
    return frames in features.config["sampling"]["frames"]


@dataclass(frozen=True)
class QuestionBatch:
    """Features and questions that belong together.

    Attributes:
        questions: B questions.
        features: float16 or float32 [B, T, N, C], before the tower's last LayerNorm.
        frames: int [B, T], frame indices within the video.
        times: float64 [B, T], presentation times in seconds.
    """

    questions: list[Question]
    features: Array
    frames: Array
    times: Array

    def __len__(self) -> int:
        return len(self.questions)


def load_questions(artifact: Artifact) -> list[Question]:
    """All questions of a questions artifact."""
    return [from_record(record) for record in question_records(artifact)]


def clip_key(question: Question) -> ClipKey:
    """The clip that a question is about."""
    return (question.video, question.start, question.end)


def clip_keys(question: Question) -> list[ClipKey]:
    """Every clip to choose from; of a question about one video, that one."""
    if not question.clips:
        return [(video, question.start, question.end) for video in question.videos]
    return [(v, *span) for v, span in zip(question.videos, question.clips, strict=True)]


class QuestionFeatures:
    """Questions of one split with T stored frames each.

    Args:
        questions: Questions artifact.
        features: Features artifact made from it.
        frames: T; a larger stored sampling is thinned by the midpoint rule if T is not stored.

    Raises:
        DataError: Fewer frames are stored than asked for.
    """

    def __init__(self, questions: Artifact, features: Artifact, frames: int) -> None:
        self.questions = load_questions(questions)
        self.reader = FeatureReader(features)
        self.frames = frames
        self.stored_frames = self._choose_sampling(features)
        self.views = max(view for _, view in self._samplings(features))
        self._asked = Counter(key for question in self.questions for key in clip_keys(question))
        self._failures = {
            row["id"]: f"{row['reason']}: {row['words']}"
            for row in read_table(features.path / FAILURES_TABLE).to_pylist()
        }

    @property
    def tokens(self) -> int:
        """N."""
        return self.reader.tokens

    def _samplings(self, features: Artifact) -> list[tuple[int, int]]:
        sampling = features.config["sampling"]
        views = int(sampling["views"])
        return [(count, view) for count in sampling["frames"] for view in range(views + 1)]

    def _choose_sampling(self, features: Artifact) -> int:
        stored = sorted({count for count, _ in self._samplings(features)})
        if self.frames in stored:
            return self.frames
        larger = [count for count in stored if count > self.frames]
        if not larger:
            raise DataError(
                f"{features.id} stores {', '.join(map(str, stored))} frames per clip, "
                f"{self.frames} are needed",
                f"vqa extract-features --from-videos --frames {self.frames} ...",
            )
        return larger[0]

    def problem(self, index: int) -> str:
        """Why question `index` cannot be answered, or an empty string."""
        for key in clip_keys(self.questions[index]):
            if not self.reader.has(key, self.stored_frames):
                return self._failures.get(ClipSpan(0, *key).id, "no features of this clip")
        return ""

    def shares_clip(self, index: int, place: int = 0) -> bool:
        """Whether other questions of the split are about the same clip (candidate `place`)."""
        return self._asked[clip_keys(self.questions[index])[place]] > 1

    def usable(self, *, labelled: bool = False) -> list[int]:
        """Positions of the questions that have features (and an answer)."""
        return [
            index
            for index, question in enumerate(self.questions)
            if not self.problem(index) and (question.labelled or not labelled)
        ]

    def clip(self, index: int, view: int = 0, place: int = 0) -> ClipRows:
        """The T rows of question `index`, of several candidate clips those of number `place`."""
        rows = self.sampled(index, self.stored_frames, view, place)
        if self.stored_frames == self.frames:
            return rows
        kept = subset_midpoints(self.stored_frames, self.frames)
        return ClipRows(rows.rows[kept], rows.frames[kept], rows.times[kept])

    def sampled(self, index: int, frames: int, view: int = 0, place: int = 0) -> ClipRows:
        """The rows of question `index` in the stored sampling of `frames` frames.

        Raises:
            KeyError: There is no such sampling; see `stores`.
        """
        return self.reader.clip(clip_keys(self.questions[index])[place], frames, view)

    def batch(self, indices: Sequence[int], views: Sequence[int] | None = None) -> QuestionBatch:
        """Questions `indices` with their features; `views` names a random view for each."""
        chosen = views or [0] * len(indices)
        clips = [self.clip(index, view) for index, view in zip(indices, chosen, strict=True)]
        return self._read(indices, clips)

    def _read(self, indices: Sequence[int], clips: Sequence[ClipRows]) -> QuestionBatch:
        rows = np.concatenate([clip.rows for clip in clips])
        features: Any = self.reader.read(rows)
        shape = (len(indices), len(clips[0].rows), self.reader.tokens, self.reader.width)
        return QuestionBatch(
            [self.questions[index] for index in indices],
            features.reshape(shape),
            np.stack([clip.frames for clip in clips]),
            np.stack([clip.times for clip in clips]),
        )
