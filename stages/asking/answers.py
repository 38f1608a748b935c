"""What was answered to one question, and the frames that it was answered from.

Reads and writes nothing. `as_json` is the object of docs/ask.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stages.asking.questions import Asked
from stages.core.probabilities import softmax


@dataclass(frozen=True)
class SeenFrame:
    """One frame that the selector chose from.

    Attributes:
        frame: Number within the video.
        time: Presentation time in seconds.
        score: What the selector thought of it; none: it does not score.
        kept: Whether the answer was read from it.
    """

    frame: int
    time: float
    score: float | None
    kept: bool


@dataclass(frozen=True)
class Answered:
    """One question's answer.

    Attributes:
        asked: The question.
        choice: Index of the best option; none: open-ended, or not answered.
        text: The option's or the written text; empty where it was not answered.
        scores: One per option, as the system gives them.
        frames: Those seen, each once, ascending in time.
        rule: By what frames were kept, such as `localizer`.
        tied: Whether the choice of frames hung on the rule for ties; none: not known.
        seconds: Wall time of selecting and answering.
        problem: Why there is no answer; empty where there is one.
    """

    asked: Asked
    choice: int | None
    text: str
    scores: tuple[float, ...]
    frames: tuple[SeenFrame, ...]
    rule: str
    tied: bool | None
    seconds: float
    problem: str = ""

    @property
    def probabilities(self) -> list[float]:
        """Softmax of the scores: how the options share one, not how sure a calibrated model is."""
        return softmax(self.scores)

    @property
    def kept(self) -> list[SeenFrame]:
        """The keyframes, each once, ascending in time."""
        return [frame for frame in self.frames if frame.kept]

    def as_json(self) -> dict[str, Any]:
        """One element of `answers`."""
        rows = zip(self.asked.options, self.scores, self.probabilities, strict=False)
        return {
            "id": self.asked.id,
            "question": self.asked.question,
            "answer": self.choice,
            "text": self.text,
            "options": [
                {"text": text, "score": score, "probability": share} for text, score, share in rows
            ],
            "keyframes": [_frame_json(frame) for frame in self.kept],
            "frames": [_frame_json(frame) | {"kept": frame.kept} for frame in self.frames],
            "rule": self.rule,
            "tied": self.tied,
            "seconds": round(self.seconds, 3),
            "problem": self.problem,
        }


def unanswered(asked: Asked, problem: str) -> Answered:
    """A question that the system cannot be asked."""
    return Answered(asked, None, "", (), (), "", None, 0.0, problem)


def clock(seconds: float, digits: int = 2) -> str:
    """`1:03.25`, or with hours `1:01:03.25`."""
    units = round(max(seconds, 0.0) * 10**digits)
    whole, part = divmod(units, 10**digits)
    minutes, second = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    front = f"{hours}:{minutes:02d}" if hours else str(minutes)
    return f"{front}:{second:02d}" + (f".{part:0{digits}d}" if digits else "")


def _frame_json(frame: SeenFrame) -> dict[str, Any]:
    return {"frame": frame.frame, "time": round(frame.time, 6), "score": frame.score}
