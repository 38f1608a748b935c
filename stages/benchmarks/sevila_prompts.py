"""SeViLA's localizer prompts and labels, from questions (specs/sevila.md 2.1, 4.3).

Reads and writes nothing. The answerer's prompt is `prompts.letter_prompt` (or `rank_prompt`): both
systems were given the same strings. The localizer is asked about one frame at a time and answers
`yes` or `no`; single spaces and the space before the closing bracket are the published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from stages.benchmarks.manifest import BenchmarkManifest, PromptRule
from stages.benchmarks.prompts import letter_prompt, prepared_options, rank_prompt
from stages.benchmarks.questions import Question

LocalizerForm = Literal["question", "event", "moments"]
"""How the localizer is asked: about a question, about what happens next, about a description."""

DETAILS = "Does the information within the frame provide the necessary details to"
ABOUT_QUESTION = f"{DETAILS} accurately answer the given question?"
ABOUT_EVENT = f"{DETAILS} predict next event?"
OPTIONS = "Options: ({options})"
MOMENT = "Question: {query} Option A: yes. Option B: no."


def localizer_form(manifest: BenchmarkManifest) -> LocalizerForm:
    """How the localizer is asked about this benchmark's questions.

    `event` is VLEP's form, the one preparation whose answerer prompt ends without an instruction.
    """
    if manifest.task == "moments":
        return "moments"
    return "question" if manifest.prompt.instruction else "event"


def localizer_prompt(question: Question, rule: PromptRule, form: LocalizerForm = "question") -> str:
    """What the localizer reads beside a frame.

    Args:
        question: With or without options; an open-ended question is asked without a list.
        rule: The benchmark's wording, as for the answerer.
        form: From `localizer_form`.
    """
    if form == "moments":
        return f"{MOMENT.format(query=_sentence(question.question))} {ABOUT_QUESTION}"
    if form == "event":
        return f"{letter_prompt(question, rule)} {ABOUT_EVENT}"
    parts = [rank_prompt(question, rule)]
    if not question.open_ended:
        listed = "".join(f"{option} " for option in prepared_options(question.options, rule))
        parts.append(OPTIONS.format(options=listed))
    return " ".join([*parts, ABOUT_QUESTION])


def moment_labels(times: Sequence[float], spans: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each frame's time in seconds lies in one of `spans`, both ends included.

    Without spans (an unlabelled split) every frame is a no.
    """
    return [any(low <= time <= high for low, high in spans) for time in times]


def _sentence(query: str) -> str:
    """The description with a full stop; any other ending gets one as well."""
    return query if query.endswith(".") else f"{query}."
