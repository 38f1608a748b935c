"""Answer vocabularies: the most frequent answers, compared as scoring compares them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.benchmarks.captions import asked_text, caption_of
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.rows import is_correct
from stages.benchmarks.vocabulary import AnswerVocabulary, build_vocabulary, plain_answer
from stages.core.errors import DataError


def question(answer: str | None, text: str = "what?", options: tuple[str, ...] = ()) -> Question:
    return Question(
        question_id="q",
        videos=("v",),
        question=text,
        options=options,
        answer=options.index(answer) if options and answer is not None else None,
        answer_text=None if options else answer,
        start=None,
        end=None,
        type=None,
        spans=(),
        split="train",
        source_row=1,
    )


WORDS = st.sampled_from(["red", "Red ", "blue", "a dog", "DOG", "two"])


def test_the_most_frequent_answers_are_kept_and_ties_go_by_alphabet() -> None:
    asked = [question(text) for text in ("b", "c", "a", "B ", "c", "d", None)]
    vocabulary = build_vocabulary(asked, 3)
    assert vocabulary.answers == ("b", "c", "a")
    assert vocabulary.counts == (2, 2, 1)
    assert vocabulary.place(" C") == 1
    assert vocabulary.place("d") is None
    assert vocabulary.coverage(asked).as_json() == {
        "labelled": 6,
        "covered": 5,
        "percent": pytest.approx(100 * 5 / 6),
    }


def test_the_right_options_text_counts_for_multiple_choice() -> None:
    asked = [question("x", options=("x", "y")), question("y", options=("x", "y"))]
    assert build_vocabulary(asked, 9).answers == ("x", "y")


@given(st.lists(WORDS, min_size=2).filter(lambda words: len({plain_answer(w) for w in words}) > 1))
def test_a_larger_vocabulary_covers_no_less_and_the_whole_one_everything(words: list[str]) -> None:
    asked = [question(word) for word in words]
    sizes = range(2, 6)
    shares = [build_vocabulary(asked, size).coverage(asked).covered for size in sizes]
    assert shares == sorted(shares)
    assert shares[-1] == len(words)


@given(WORDS, WORDS)
def test_answers_are_the_same_exactly_where_scoring_says_so(one: str, other: str) -> None:
    assert (plain_answer(one) == plain_answer(other)) == is_correct(one, other)


def test_a_vocabulary_of_one_answer_is_refused() -> None:
    with pytest.raises(DataError, match="1 different answers"):
        build_vocabulary([question("yes"), question("YES")], 10)


def test_a_vocabulary_comes_back_from_its_file() -> None:
    vocabulary = AnswerVocabulary(("yes", "no"), (3, 1))
    assert AnswerVocabulary.from_json(vocabulary.as_json(), "f") == vocabulary
    with pytest.raises(DataError):
        AnswerVocabulary.from_json({"answers": ["yes"], "counts": []}, "f")
    with pytest.raises(DataError):
        AnswerVocabulary.from_json([1], "f")


def test_captions_are_texts_with_their_answers() -> None:
    assert caption_of(question(None, "a dog runs")) == "a dog runs"
    assert caption_of(question("red", "what color?")) == "what color? red"
    assert caption_of(question(None, "")) == ""


def test_a_question_that_every_row_has_is_not_read() -> None:
    manifest = load_manifest("msrvtt-mc")
    assert asked_text(question("x", manifest.default_question, ("x", "y")), manifest) == ""
    assert asked_text(question("x", "who?", ("x", "y")), manifest) == "who?"
