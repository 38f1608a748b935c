"""The published figures: complete, validated, in the order of print, and beside our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from stages.benchmarks.manifest import benchmark_names, load_manifest
from stages.benchmarks.published import (
    Figure,
    doubts_about,
    figures_of,
    load_figures,
    load_sources,
    parse_figures,
    split_and_column,
    tables,
    under_published_heads,
    where_printed,
)
from stages.core.errors import ConfigError

HEADER = "paper,table,system,frames,benchmark,split_or_category,metric,value,setting"
LINE = "Paper,1,System,32->4,Kitchen,val/All,accuracy,62.0,fine-tuned"


def published_names() -> Iterator[str]:
    for name in benchmark_names():
        if load_manifest(name).published_as:
            yield name


def test_every_figure_belongs_to_a_known_benchmark_and_paper() -> None:
    figures = load_figures()
    assert Counter(figure.paper for figure in figures) == {
        "VLAP": 151, "SeViLA": 386, "VideoDistill": 536,
    }  # fmt: skip
    known = {load_manifest(name).published_as for name in benchmark_names()} - {""}
    assert {figure.benchmark for figure in figures} == known


def test_what_a_figure_is_kept_as() -> None:
    (figure,) = parse_figures(f"{HEADER}\n{LINE}\n", "file.csv")
    row = figure.as_row()
    assert (row["value"], row["printed"], row["frames"]) == (62.0, "62.0", "32->4")
    assert (row["paper"], row["table"], row["setting"]) == ("Paper", "1", "fine-tuned")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{HEADER}\n{LINE.replace('62.0', 'high')}\n", "line 2.*not a number"),
        (f"{HEADER}\n{LINE.replace('62.0', 'nan')}\n", "line 2.*not a number"),
        (f"{HEADER}\n{LINE}\n{LINE}\n", "line 3: the same figure a second time"),
        (f"{HEADER}\n{LINE.replace('Kitchen', '')}\n", "line 2: benchmark"),
        (f"{HEADER.replace('setting', 'note')}\n{LINE}\n", "line 2"),
    ],
)
def test_a_wrong_file_names_the_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_figures(text, "file.csv")


@pytest.mark.parametrize("name", published_names())
def test_tables_hold_every_figure_once(name: str) -> None:
    figures = figures_of(load_manifest(name).published_as)
    shown = tables(figures)
    cells = sum(len(row.values) for table in shown for row in table.rows)
    assert cells == len(figures)
    for table in shown:
        assert table.rows
        assert all(set(row.values) <= set(table.columns) for row in table.rows)
        assert table.title.startswith(f"{table.paper}, table {table.table}")


def test_rows_stand_as_printed_and_columns_as_in_the_fullest_row() -> None:
    table = next(item for item in tables(figures_of("STAR")) if item.paper == "VLAP")
    types = ("Interaction", "Sequence", "Prediction", "Feasibility")
    assert table.columns == (*types, "Avg", "ms a video")
    assert [row.system for row in table.rows][-3:] == ["VLAP", "SeViLA", "VLAP"]
    assert table.rows[-1].values["Avg"] == "67.1"
    assert table.rows[-1].frames == "4"


@pytest.mark.parametrize(
    ("category", "metric", "expected"),
    [
        ("val/Average", "accuracy", ("val", "Average")),
        ("normal(direct) test/Scope/world", "accuracy", ("normal(direct) test", "world")),
        ("val", "inference_ms_per_video", ("val", "ms a video")),
        ("text-to-video test", "recall_R@1", ("text-to-video test", "R@1")),
        ("test", "R1@0.5", ("test", "R1@0.5")),
        ("Inter-video (looks swapped)", "accuracy", ("", "Inter-video")),
    ],
)
def test_splits_and_heads(category: str, metric: str, expected: tuple[str, str]) -> None:
    values = dict(zip(HEADER.split(","), LINE.split(","), strict=True))
    figure = Figure.build(values | {"split_or_category": category, "metric": metric})
    assert split_and_column(figure) == expected


def test_doubts_stand_by_the_figures_they_are_about() -> None:
    egomcq = doubts_about(figures_of("EgoMCQ"))
    assert [where_printed(doubt) for doubt in egomcq] == ["VideoDistill, table 7"]
    assert "swapped" in egomcq[0].text
    assert any("MIST" in doubt.text for doubt in doubts_about(figures_of("STAR")))
    assert doubts_about([]) == []
    egotaskqa = [where_printed(doubt) for doubt in doubts_about(figures_of("EgoTaskQA"))]
    assert "VideoDistill, tables 3, 11 and 12" in egotaskqa
    figures = load_figures()
    for doubt in load_sources().doubts:
        assert any(doubt.concerns(figure) for figure in figures), doubt.text


# --- our own figures under the same heads --------------------------------------------------------


def test_star_compares_the_unweighted_mean() -> None:
    metrics = {
        "accuracy": 60.0, "accuracy_macro": 61.0, "ci95": [58.0, 62.0],
        "by_type": {"Interaction": 1.0, "Sequence": 2.0, "Prediction": 3.0, "Feasibility": 4.0},
    }  # fmt: skip
    assert under_published_heads("STAR", metrics, "accuracy_macro") == {
        "Interaction": 1.0, "Sequence": 2.0, "Prediction": 3.0, "Feasibility": 4.0, "Avg": 61.0,
    }  # fmt: skip


def test_nextqa_compares_pooled_groups() -> None:
    metrics = {"accuracy": 60.0, "by_type": {"CW": 9.0}, "by_group": {"C": 1.0, "T": 2.0, "D": 3.0}}
    assert under_published_heads("NExT-QA", metrics, "accuracy") == {
        "Temporal": 2.0, "Causal": 1.0, "Description": 3.0, "Average": 60.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("published_as", "metrics", "expected"),
    [
        ("EgoMCQ", {"inter": 90.0, "intra": 50.0}, {"Inter-video": 90.0, "Intra-video": 50.0}),
        ("MSR-VTT 1k-A", {"R@1": 1.0, "R@5": 2.0, "MedR": 9.0}, {"R@1": 1.0, "R@5": 2.0}),
        ("QVHighlights", {"R1@0.5": 1.0, "mAP": 3.0, "mAP@0.5": 4.0}, {"R1@0.5": 1.0, "mAP": 3.0}),
        (
            "AGQA v2",
            {"accuracy": 50.0, "by_type": {"Duration comparison": 2.0, "binary": 3.0}},
            {"Duration comparison": 2.0, "All": 50.0},
        ),
        ("EgoTaskQA", {"accuracy": 5.0, "by_type": {"world": 1.0}}, {"world": 1.0, "all": 5.0}),
        ("VLEP", {}, {}),
    ],
)
def test_ours_stand_under_the_head_that_means_the_same(
    published_as: str, metrics: dict[str, float], expected: dict[str, float]
) -> None:
    assert under_published_heads(published_as, metrics, "accuracy") == expected


@pytest.mark.parametrize("name", published_names())
def test_every_benchmark_has_a_place_for_its_headline(name: str) -> None:
    """Whatever a paper prints of a benchmark, our headline figures stand beside some of it."""
    manifest = load_manifest(name)
    metrics = dict.fromkeys(manifest.metrics, 1.0)
    metrics |= {"by_group": dict.fromkeys(manifest.groups, 1.0)}  # type: ignore[dict-item]
    assert under_published_heads(manifest.published_as, metrics, manifest.metrics[0])
