"""What is asked: one question from the command line, or a file of them.

Reads: a JSONL file, one object a line: `question`, optional `options` (a list of texts) and
`question_id`. Other fields are left alone, so a file in the layout `custom` will do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.benchmarks.questions import Question
from stages.core.errors import DataError, UsageError, read_text_or_explain

SPLIT = "ask"
"""In place of a benchmark's split."""


@dataclass(frozen=True)
class Asked:
    """A question and what may be answered.

    Attributes:
        question: The text.
        options: At least two texts; none: open-ended.
        id: What the file calls it, or its number from 1.
    """

    question: str
    options: tuple[str, ...] = ()
    id: str = "1"

    def about(self, video: str, start: float | None, end: float | None) -> Question:
        """The same as every system takes it."""
        return Question(
            question_id=self.id,
            videos=(video,),
            question=self.question,
            options=self.options,
            answer=None,
            answer_text=None,
            start=start,
            end=end,
            type=None,
            spans=(),
            split=SPLIT,
            source_row=1,
        )


def asked(question: str, options: Sequence[str]) -> Asked:
    """A question from the command line.

    Raises:
        UsageError: An empty text, a single option, or the same option twice.
    """
    problem = problem_of(question, options)
    if problem:
        raise UsageError(problem, "vqa ask VIDEO QUESTION -o A -o B, or no -o to let it write")
    return Asked(question, tuple(options))


def read_questions(path: Path) -> list[Asked]:
    """The questions of a file, in its order.

    Raises:
        MissingInput: No such file.
        DataError: A line is no question; says which and why. Or there is none.
    """
    found = list(_rows(path))
    if not found:
        raise DataError(
            f"{path} holds no question", 'a line is {"question": ..., "options": [...]}'
        )
    return found


def _rows(path: Path) -> Iterator[Asked]:
    text = read_text_or_explain(path, "file of questions", "one JSON object a line")
    # Some editors begin a file with a byte order mark.
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line.strip():
            yield _row(line, f"{path}:{number}", str(number))


def _row(line: str, where: str, number: str) -> Asked:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})", "one JSON object a line") from None
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: a JSON object is expected, not a {type(record).__name__}",
            "one JSON object a line",
        )
    wrong = wrong_fields(record)
    if wrong:
        raise DataError(f"{where}: {wrong}")
    question, options = record["question"], record.get("options") or ()
    problem = problem_of(question, options)
    if problem:
        raise DataError(f"{where}: {problem}")
    name = record.get("question_id")
    return Asked(question, tuple(options), number if name in (None, "") else str(name))


def wrong_fields(record: dict[str, Any]) -> str:
    """Why `question` or `options` of a JSON object are of the wrong kind, or an empty string.

    Options that are absent or null are none; nothing else that is not a list is.
    """
    if not isinstance(record.get("question"), str):
        return "question: a text is expected"
    options = record.get("options")
    texts = isinstance(options, list) and all(isinstance(text, str) for text in options)
    if not texts and options is not None:
        return "options: a list of texts is expected, or none at all"
    return ""


def problem_of(question: str, options: Sequence[str]) -> str:
    """Why this cannot be asked, or an empty string."""
    if not question.strip():
        return "the question is empty"
    if len(options) == 1:
        return f"one option ({options[0]!r}) is no choice: two or more, or none"
    if any(not option.strip() for option in options):
        return "an option is empty"
    stripped = [option.strip() for option in options]
    twice = next((text for text in stripped if stripped.count(text) > 1), None)
    if twice is not None:
        return f"two options are the same: {twice!r}"
    if not all(_is_text(part) for part in (question, *options)):
        return "the text is not valid UTF-8"
    return ""


def _is_text(part: str) -> bool:
    try:
        part.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
