"""Answer vocabularies: open-ended questions as a choice among the train split's frequent answers.

Reads and writes nothing. Answers are compared as scoring compares them, without outer blanks and
in lower case. The paper classifies "over all answer candidates" and names no number (arXiv
2404.00973, B.2; specs/videodistill.md 6): the most frequent ones are taken, and how many questions
have their answer among them is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stages.benchmarks.questions import Question
from stages.core.errors import DataError

FEWEST = 2


@dataclass(frozen=True)
class AnswerVocabulary:
    """Answers by frequency, equally frequent ones by alphabet, and how often each occurs."""

    answers: tuple[str, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.answers)

    @cached_property
    def places(self) -> dict[str, int]:
        """Answer -> its place."""
        return {answer: place for place, answer in enumerate(self.answers)}

    def place(self, text: str | None) -> int | None:
        """The place of an answer in the annotation's spelling; none if it is not in here."""
        return None if text is None else self.places.get(plain_answer(text))

    def coverage(self, questions: Iterable[Question]) -> Coverage:
        """How many labelled questions have their answer in here."""
        texts = [question.target_text for question in questions if question.labelled]
        return Coverage(len(texts), sum(self.place(text) is not None for text in texts))

    def as_json(self) -> dict[str, Any]:
        """For a file beside the weights."""
        return {"answers": list(self.answers), "counts": list(self.counts)}

    @classmethod
    def from_json(cls, values: Any, source: str) -> AnswerVocabulary:
        """The same back.

        Raises:
            DataError: Something else is in the file.
        """
        try:
            answers, counts = tuple(values["answers"]), tuple(values["counts"])
        except (TypeError, KeyError):
            raise DataError(f"{source} holds no answer vocabulary") from None
        if len(answers) != len(counts) or not all(isinstance(text, str) for text in answers):
            raise DataError(f"{source} holds no answer vocabulary")
        return cls(answers, counts)


@dataclass(frozen=True)
class Coverage:
    """Labelled questions, and those whose answer is in the vocabulary."""

    labelled: int
    covered: int

    @property
    def percent(self) -> float:
        """Share that can be answered rightly at all; 0 where nothing is labelled."""
        return 100.0 * self.covered / self.labelled if self.labelled else 0.0

    def as_json(self) -> dict[str, float]:
        """For a manifest."""
        return {"labelled": self.labelled, "covered": self.covered, "percent": self.percent}


def plain_answer(text: str) -> str:
    """An answer as it is compared."""
    return text.strip().lower()


def build_vocabulary(questions: Sequence[Question], size: int) -> AnswerVocabulary:
    """The `size` most frequent answers of labelled questions, or all if there are fewer.

    Of multiple-choice questions the right option's text counts.

    Raises:
        DataError: Fewer than two different answers.
    """
    texts = (question.target_text for question in questions)
    counted = Counter(plain_answer(text) for text in texts if text is not None)
    chosen = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:size]
    if len(chosen) < FEWEST:
        raise DataError(
            f"{len(chosen)} different answers in the train split, at least {FEWEST} are needed",
            "are its questions labelled?",
        )
    return AnswerVocabulary(tuple(text for text, _ in chosen), tuple(n for _, n in chosen))
