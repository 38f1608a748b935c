"""Official files: whatever is written is read back, failures included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.benchmarks.exports import (
    OFFICIAL,
    official_suffix,
    require_official,
    write_official,
)
from stages.benchmarks.manifest import benchmark_names, load_manifest
from stages.benchmarks.prediction_files.asked import asked_of
from stages.benchmarks.prediction_files.joining import join
from stages.benchmarks.prediction_files.reading import read_predictions
from stages.benchmarks.questions import Question
from stages.benchmarks.scorers.moments import Moments
from stages.benchmarks.scorers.retrieval import Place
from stages.benchmarks.scorers.rules import Rules
from stages.core.errors import UsageError

STAR_TYPES = ("Interaction", "Sequence", "Prediction", "Feasibility")


def asked(benchmark: str, number: int) -> Question:
    """Question `number` of a split, as the benchmark's own reader makes them."""
    manifest = load_manifest(benchmark)
    options = tuple(f"option {n}" for n in range(manifest.num_options or 0))
    videos = (f"v{number}",)
    if manifest.scorer == "inter-intra":
        videos = tuple(f"v{number}-{n}" for n in range(5))
    kind = {"star": STAR_TYPES[number % 4], "egomcq": ("inter", "intra")[number % 2]}.get(benchmark)
    identity = f"{kind}_T1_{number}" if benchmark == "star" else str(100 + number)
    return Question(
        question_id=identity,
        videos=videos,
        question="what happens?",
        options=options,
        answer=number % len(options) if options else None,
        answer_text="yes" if manifest.task == "open-ended" else None,
        start=None,
        end=None,
        type=kind,
        spans=((0.0, 4.0),) if manifest.task == "moments" else (),
        split="test",
        source_row=number + 1,
        categories=("verify", "direct") if benchmark == "egotaskqa" else (),
    )


@st.composite
def predicted(draw: st.DrawFn, benchmark: str, videos: list[str]) -> Any:
    manifest = load_manifest(benchmark)
    if manifest.scorer == "moments":
        number = st.floats(0, 100, allow_nan=False)
        windows = draw(st.lists(st.tuples(number, number, number), max_size=3))
        made = tuple((low, low + size, score) for low, size, score in windows)
        return Moments(made, draw(st.none() | st.lists(number, max_size=3).map(tuple)))
    if manifest.scorer == "retrieval":
        return draw(st.permutations(videos))
    if manifest.num_options:
        return draw(st.integers(0, manifest.num_options - 1))
    return draw(st.text(min_size=1, max_size=8).filter(str.strip))


@pytest.mark.parametrize("benchmark", sorted(OFFICIAL))
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_an_official_file_gives_back_every_prediction(
    benchmark: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    questions = [asked(benchmark, n) for n in range(data.draw(st.integers(1, 5)))]
    videos = [question.video for question in questions]
    predictions = [data.draw(predicted(benchmark, videos)) for _ in questions]
    for place in data.draw(st.sets(st.integers(1, 4))):
        predictions[place : place + 1] = [None] * len(predictions[place : place + 1])
    path = tmp_path_factory.mktemp("official") / f"file{official_suffix(benchmark)}"
    write_official(path, benchmark, questions, predictions)
    manifest = load_manifest(benchmark)
    file = read_predictions(path, manifest)
    rows = join(
        [asked_of(question, manifest.scorer) for question in questions], file, manifest, Rules()
    ).rows
    assert [row.status == "failed" for row in rows] == [item is None for item in predictions]
    for row, question, prediction in zip(rows, questions, predictions, strict=True):
        if isinstance(prediction, list):
            assert row.prediction == Place(prediction.index(question.video))
        else:
            assert row.prediction == prediction


def test_every_benchmark_with_a_file_of_its_own_can_be_exported() -> None:
    assert set(benchmark_names()) - set(OFFICIAL) == {"custom", "shapes"}
    with pytest.raises(UsageError, match="custom has no official prediction file"):
        require_official("custom")


def test_lines_and_values_end_as_their_scorers_expect(tmp_path: Path) -> None:
    questions = [asked("vlep", n) for n in range(2)]
    path = tmp_path / f"a{official_suffix('vlep')}"
    write_official(path, "vlep", questions, [1, None])
    assert path.read_text() == (
        '{"example_id": 100, "pred_ans": 1}\n{"example_id": 101, "pred_ans": null}\n'
    )
    assert official_suffix("star") == ".json"
