"""Frames chosen by how well a CLIP thinks they fit the question (SeViLA, Table 6)."""

from __future__ import annotations

import numpy as np
import torch

from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.manifest import PromptRule
from stages.benchmarks.prompts import prepared_question
from stages.benchmarks.questions import Question
from stages.core.errors import DataError
from stages.models.backbones.clip import ClipMatcher
from stages.models.selectors import stable_top_k
from stages.systems.face import Selection
from stages.systems.seen import SeenFrames


class ClipSimilarity:
    """The K frames whose CLIP embedding is nearest to the question's.

    Args:
        data: The same questions with features by a CLIP, sampled alike; only CLS is read.
        matcher: Text tower and projections.
        rule: The benchmark's wording.
    """

    rule = "clip"

    def __init__(self, data: QuestionFeatures, matcher: ClipMatcher, rule: PromptRule) -> None:
        self.data, self.matcher, self.prompt_rule = data, matcher, rule
        self.places = {item.question_id: index for index, item in enumerate(data.questions)}

    def problem(self, question: Question) -> str:
        """Why the frames of this question have no CLIP features, or an empty string."""
        return self.data.problem(self.places[question.question_id])

    @torch.no_grad()
    def select(self, seen: SeenFrames, keep: int) -> Selection:
        """See `Selector`; of equal similarities the earlier frame is kept.

        Raises:
            DataError: The two features artifacts hold different frames of a clip.
        """
        clips = [self.data.clip(self.places[item.question_id]) for item in seen.questions]
        frames = np.stack([clip.frames for clip in clips])
        if not np.array_equal(frames, seen.frames):
            raise DataError(
                f"{self.data.reader.artifact.id} holds other frames than the answerer's features",
                "extract both with the same --frames",
            )
        rows = np.stack([clip.rows for clip in clips])
        values = self.data.reader.read_cls(rows.reshape(-1)).reshape(*rows.shape, -1)
        cls = torch.from_numpy(values.astype(np.float32)).to(seen.device)
        texts = [prepared_question(item.question, self.prompt_rule) for item in seen.questions]
        scores = self.matcher.similarity(cls, texts)
        chosen = stable_top_k(scores, keep)
        return Selection(chosen.indices, scores, [bool(count) for count in chosen.ties.tolist()])
