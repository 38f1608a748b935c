"""What the localizer is asked, space by space; the reference's own strings are in tests/parity."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.manifest import PromptRule, load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.sevila_prompts import localizer_form, localizer_prompt, moment_labels

ABOUT = (
    "Does the information within the frame provide the necessary details to accurately answer "
    "the given question?"
)


def make(text: str, *options: str) -> Question:
    answer = 0 if options else None
    return Question("q", ("v",), text, options, answer, None, None, None, None, (), "val", 1)


def test_options_stand_in_brackets_without_letters() -> None:
    question = make("who sings", "a robot", "a stone")
    assert localizer_prompt(question, PromptRule()) == (
        f"Question: who sings Options: (a robot a stone ) {ABOUT}"
    )
    nextqa = load_manifest("nextqa").prompt
    assert localizer_prompt(question, nextqa) == (
        f"Question: who sings? Options: (a robot. a stone. ) {ABOUT}"
    )


def test_an_open_ended_question_has_no_list() -> None:
    assert localizer_prompt(make("who digs?"), PromptRule()) == f"Question: who digs? {ABOUT}"


def test_the_next_event_is_asked_for_after_the_answerers_prompt() -> None:
    rule = PromptRule(question="{question}", instruction="")
    question = make("What comes next?", "He sits.", "He runs.")
    assert localizer_prompt(question, rule, "event") == (
        "What comes next? Option A: He sits. Option B: He runs. Does the information within the "
        "frame provide the necessary details to predict next event?"
    )


@pytest.mark.parametrize(
    ("query", "written"), [("a dog", "a dog."), ("a dog.", "a dog."), ("a dog?", "a dog?.")]
)
def test_a_moments_description_ends_in_a_full_stop(query: str, written: str) -> None:
    assert localizer_prompt(make(query), PromptRule(), "moments") == (
        f"Question: {written} Option A: yes. Option B: no. {ABOUT}"
    )


def test_the_manifest_says_how_to_ask() -> None:
    forms = {name: localizer_form(load_manifest(name)) for name in ("nextqa", "star", "shapes")}
    assert set(forms.values()) == {"question"}


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 100), max_size=8),
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=4),
)
def test_a_frame_is_a_yes_if_any_span_holds_it_ends_included(
    times: list[float], pairs: list[tuple[int, int]]
) -> None:
    spans = [(float(start), float(start + length)) for start, length in pairs]
    labels = moment_labels(times, spans)
    assert len(labels) == len(times)
    for time, label in zip(times, labels, strict=True):
        assert label == bool([1 for start, end in spans if start <= time <= end])
    ends = [end for _, end in spans] + [start for start, _ in spans]
    assert all(moment_labels(ends, spans))
