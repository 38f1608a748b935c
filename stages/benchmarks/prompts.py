"""The exact strings that go into and are expected out of the language models.

Reads and writes nothing. `letter` is the papers' mode: a lettered list and the target `Option X`
(specs/vlap.md 1.4). `rank` has no lettered list; each option's own text is scored as the answer,
which also serves open-ended questions (the candidates are then a vocabulary that the caller has).
How a benchmark's published preparation words the prompt and what it appends to questions and
options is data in its manifest (`PromptRule`), not code.
"""

from __future__ import annotations

from string import ascii_uppercase
from typing import Literal

from stages.benchmarks.manifest import PromptRule
from stages.benchmarks.questions import Question
from stages.core.errors import UsageError

AnswerMode = Literal["letter", "rank"]

OPTION = "Option {letter}: {text}"
LETTER_TARGET = "Option {letter}"
LETTERS = "ABCDE"
"""The letters that answers are read as; the reference has five."""


def prepared_question(question: str, rule: PromptRule) -> str:
    """The question with the benchmark's ending, such as NExT-QA's `?`."""
    return _with_suffix(question, rule.question_suffix, rule)


def prepared_options(options: tuple[str, ...], rule: PromptRule) -> tuple[str, ...]:
    """The options with the benchmark's ending, such as NExT-QA's `.`."""
    return tuple(_with_suffix(option, rule.option_suffix, rule) for option in options)


def _with_suffix(text: str, suffix: str, rule: PromptRule) -> str:
    if rule.suffix == "when-missing" and text.rstrip().endswith(suffix):
        return text
    return text + suffix


def letter_prompt(question: Question, rule: PromptRule) -> str:
    """`Question: q Option A: a0 Option B: a1 ... Considering ... from the options.`

    VLEP's preparation has neither the word `Question` nor the closing sentence.

    Raises:
        UsageError: the question is open-ended.
    """
    if question.open_ended:
        raise UsageError(
            f"question {question.question_id} has no options to letter", "use --answer rank"
        )
    options = prepared_options(question.options, rule)
    parts = [rank_prompt(question, rule)]
    parts += [
        OPTION.format(letter=letter, text=text)
        for letter, text in zip(ascii_uppercase, options, strict=False)
    ]
    return " ".join([*parts, rule.instruction] if rule.instruction else parts)


def letter_problem(question: Question) -> str:
    """Why `question` cannot be answered by a letter, or an empty string."""
    if question.open_ended:
        return "no options to letter: it needs the answer mode rank"
    if len(question.options) > len(LETTERS):
        return (
            f"{len(question.options)} options, but letters A to {LETTERS[-1]} only: "
            "it needs the answer mode rank"
        )
    return ""


def rank_prompt(question: Question, rule: PromptRule) -> str:
    """`Question: q`, with the question prepared as for the letter prompt."""
    return rule.question.format(question=prepared_question(question.question, rule))


def prompt(question: Question, mode: AnswerMode, rule: PromptRule) -> str:
    """The input text of `question` in answer mode `mode`."""
    return letter_prompt(question, rule) if mode == "letter" else rank_prompt(question, rule)


def letter_target(index: int) -> str:
    """`Option A` for 0, `Option B` for 1, ..."""
    return LETTER_TARGET.format(letter=ascii_uppercase[index])


def candidates(question: Question, mode: AnswerMode) -> tuple[str, ...]:
    """What the model may answer, one text per option; empty for open-ended questions.

    In `rank` mode options are taken as the annotation gives them, without the ending that the
    letter prompt's list needs, and without outer blanks.
    """
    if mode == "letter":
        return tuple(letter_target(index) for index in range(len(question.options)))
    return tuple(option.strip() for option in question.options)


def target(question: Question, mode: AnswerMode) -> str | None:
    """The text that the model is trained to write; none for an unlabelled question."""
    if question.answer is not None:
        return candidates(question, mode)[question.answer]
    return question.answer_text.strip() if question.answer_text is not None else None
