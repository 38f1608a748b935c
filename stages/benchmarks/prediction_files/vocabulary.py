"""Answer indices of open-ended systems back into words.

HQGA and TranSTR write `{id: {"prediction": 17, "answer": 4}}` with indices into a vocabulary that
is not in the file. Joined with the annotations, the `answer` column itself says which word each
index is; the one index that stands for many different words is the class of unknown answers.
`specs/benchmarks.md` 7.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.benchmarks.annotation_files import open_text
from stages.benchmarks.prediction_files.asked import Asked
from stages.benchmarks.prediction_files.given import Given
from stages.core.errors import DataError

OUTSIDE = "<outside the vocabulary>"
"""What a prediction of the unknown class reads as; no answer is called so."""
NEVER_AN_ANSWER = "<a word that is no answer here>"
"""What an index reads as whose word is not known: it is no right answer of this split."""
MIN_AGREEMENT = 0.5
"""Share of the file's own answers that a vocabulary has to reproduce."""


@dataclass(frozen=True, slots=True)
class IndexWords:
    """Which word each index stands for."""

    words: Mapping[int, str]
    unknown: int | None
    """The index of all answers outside the vocabulary."""
    note: str
    """How it was found out, for the terminal."""

    def word(self, index: int) -> str:
        """The word of a predicted index."""
        if index == self.unknown:
            return OUTSIDE
        return self.words.get(index, NEVER_AN_ANSWER)


def words_from_answers(given: Sequence[Given], answers: Mapping[str, str]) -> IndexWords:
    """Learn the words from the file's own `answer` indices and the annotations' answers.

    Args:
        given: The file's records.
        answers: Question id to the annotations' answer.

    Raises:
        DataError: There are no such indices, or several of them stand for many words, so that the
            file and the annotations do not belong together.
    """
    texts: dict[int, Counter[str]] = {}
    for item in given:
        answer = answers.get(item.question_id)
        if isinstance(item.truth, int) and answer is not None:
            texts.setdefault(item.truth, Counter())[_plain(answer)] += 1
    if not texts:
        raise DataError(
            "the predictions are indices into a vocabulary that the file does not hold",
            "give it with --vocabulary FILE (a list of words, or an object {word: index})",
        )
    several = {index: words for index, words in texts.items() if len(words) > 1}
    if len(several) > 1:
        shown = "; ".join(
            f"{index} is {', '.join(repr(word) for word in list(words)[:3])}"
            for index, words in sorted(several.items())[:3]
        )
        raise DataError(
            f"{len(several)} answer indices of the file stand for several words each: {shown}",
            "are these the annotations that the predictions were made for?",
        )
    unknown = next(iter(several), -1 if -1 in texts else None)
    outside = 0 if unknown is None else texts[unknown].total()
    words = {index: next(iter(found)) for index, found in texts.items() if index != unknown}
    return IndexWords(words, unknown, _note(unknown, outside))


def _note(unknown: int | None, count: int) -> str:
    if unknown is None:
        return "prediction indices were decoded through the file's own answers; none is unknown"
    base = {-1: "0-based, ", 0: "1-based, "}.get(unknown, "")
    return (
        "prediction indices were decoded through the file's own answers: "
        f"{base}{unknown} is the unknown class ({count} answers outside the vocabulary)"
    )


def words_from_vocabulary(path: Path, given: Sequence[Given], asked: Sequence[Asked]) -> IndexWords:
    """Read a vocabulary file and find out whether its indices begin at 0 or at 1.

    The base is the one under which the file's own answers, or if it has none its predictions,
    agree best with the annotations.

    Raises:
        DataError: Not a vocabulary, or it does not fit the file.
    """
    listed = read_vocabulary(path)
    if isinstance(listed, dict):
        words = {index: word for word, index in listed.items()}
        return IndexWords(
            words, _unknown(given, words), f"vocabulary: {len(words)} words of {path.name}"
        )
    answers = {item.question_id: item.answer for item in asked if isinstance(item.answer, str)}
    bases = {base: dict(enumerate(map(_plain, listed), base)) for base in (0, 1)}
    agreement = {base: _agreement(given, answers, words) for base, words in bases.items()}
    base = max(agreement, key=lambda item: agreement[item])
    has_truth = any(item.truth is not None for item in given)
    if has_truth and agreement[base] < MIN_AGREEMENT:
        raise DataError(
            f"{path} does not fit: it gives {100 * agreement[base]:.1f} % of the answers that the "
            "prediction file has by index",
            "is it the vocabulary that the predictions were made with?",
        )
    note = f"vocabulary: {len(listed)} words of {path.name}, indices from {base}"
    return IndexWords(bases[base], base - 1, note)


def _agreement(
    given: Sequence[Given], answers: Mapping[str, str], words: Mapping[int, str]
) -> float:
    pairs = []
    for item in given:
        index = item.value if item.truth is None else item.truth
        if isinstance(index, int) and item.question_id in answers:
            pairs.append(words.get(index) == _plain(answers[item.question_id]))
    return sum(pairs) / max(1, len(pairs))


def _unknown(given: Sequence[Given], words: Mapping[int, str]) -> int | None:
    """The answer index that has no word."""
    without = {item.truth for item in given if isinstance(item.truth, int)} - words.keys()
    return next(iter(without)) if len(without) == 1 else None


def read_vocabulary(path: Path) -> list[str] | dict[str, int]:
    """A JSON list of words, a JSON object {word: index}, or one word a line."""
    with open_text(path) as text:
        content = text.read()
    value: Any = content.split()
    if content.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"vocabulary {path} is not JSON: {error}") from None
    if isinstance(value, dict) and value and all(_is_index(item) for item in value.values()):
        return {_plain(word): index for word, index in value.items()}
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        return value
    raise DataError(f"vocabulary {path} is neither a list of words nor an object {{word: index}}")


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _plain(text: str) -> str:
    return text.strip().lower()
