"""When the frames were shown that a selector chose from; predictions keep those of the kept only.

Reads: the index of features, no feature.   Writes nothing.
"""

from __future__ import annotations

from stages.artifacts.clips import ClipSpan
from stages.artifacts.store import Artifact
from stages.benchmarks.batches import QuestionFeatures
from stages.core.errors import DataError
from stages.reporting.ancestry import Ancestry
from stages.reporting.evaluations import Evaluation, Row

FEATURES_ROLES = {"clip": "selector_features"}
"""Selectors that scored the frames of other features than the answerer's."""


class FrameTimes:
    """Times of the frames seen, for the evaluations of one page.

    Args:
        questions: The split.
        ancestry: Where the features are.
    """

    def __init__(self, questions: Artifact, ancestry: Ancestry) -> None:
        self.questions, self.ancestry = questions, ancestry
        self.notes: list[str] = []
        self._opened: dict[tuple[str, int], QuestionFeatures | None] = {}
        self._places: dict[str, int] = {}

    def seen(self, evaluation: Evaluation, row: Row) -> list[float]:
        """Seconds of every frame that `row`'s question was answered from; empty: not known."""
        if row.get("windows") is not None:
            return list(row["times"])
        data = self._data(evaluation)
        if data is None:
            return []
        if not self._places:
            self._places = {q.question_id: at for at, q in enumerate(data.questions)}
        at = self._places[row["question_id"]]
        several = len(data.questions[at].videos) > 1
        place = row["prediction"] if several and isinstance(row["prediction"], int) else 0
        if data.problem(at):
            return []
        times: list[float] = data.clip(at, place=place).times.tolist()
        return times

    def _data(self, evaluation: Evaluation) -> QuestionFeatures | None:
        role = FEATURES_ROLES.get(evaluation.select, "features")
        record = next(
            (item for item in evaluation.artifact.manifest["inputs"] if item["role"] == role), None
        )
        if record is None:
            return None
        key = (str(record["id"]), evaluation.frames)
        if key not in self._opened:
            self._opened[key] = self._open(*key)
        return self._opened[key]

    def _open(self, features_id: str, frames: int) -> QuestionFeatures | None:
        features = self.ancestry.found.get(features_id)
        if features is None:
            why = self.ancestry.gone[features_id][1]
            self.notes.append(f"no curves of what was scored on features {features_id}: it {why}")
            return None
        try:
            return QuestionFeatures(self.questions, features, frames)
        except DataError as error:
            self.notes.append(f"no curves of what was scored on {features_id}: {error.message}")
            return None


def clip_name(video: str, start: float | None, end: float | None) -> str:
    """How a clip is called where several are compared."""
    return ClipSpan(0, video, start, end).id
