"""The picture of a sweep: what is drawn where, and that no text can leave its element."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.errors import UsageError
from stages.report_page.curve import Measured, sweep_curve

SVG = "{http://www.w3.org/2000/svg}"


def measured(**accuracy_of_keep: float) -> list[Measured]:
    return [
        Measured({"keep": int(name[1:])}, {"accuracy": value})
        for name, value in accuracy_of_keep.items()
    ]


def heights(svg: str) -> list[float]:
    line = ElementTree.fromstring(svg).find(f".//{SVG}polyline")
    assert line is not None
    return [float(point.split(",")[1]) for point in line.attrib["points"].split()]


@given(st.lists(st.floats(0, 100), min_size=2, max_size=6))
@settings(deadline=None)
def test_a_higher_accuracy_is_drawn_higher_and_inside_the_picture(values: list[float]) -> None:
    rows = [Measured({"keep": 2**i}, {"accuracy": value}) for i, value in enumerate(values)]
    drawn = heights(sweep_curve(rows, "shapes"))
    assert all(40 <= height <= 340 for height in drawn)
    order = sorted(range(len(values)), key=values.__getitem__)
    assert all(drawn[a] >= drawn[b] for a, b in itertools.pairwise(order))


def test_seeds_are_averaged_and_each_is_a_point() -> None:
    rows = [
        Measured({"keep": keep, "seed": seed}, {"accuracy": 50.0 + keep + seed})
        for keep in (1, 4)
        for seed in (0, 2)
    ]
    svg = sweep_curve(rows, "shapes")
    root = ElementTree.fromstring(svg)
    labels = [item.text for item in root.iter(f"{SVG}title")]
    assert labels == ["shapes", "1: 52.0", "4: 55.0"]
    assert len(root.findall(f".//{SVG}circle[@r='3']")) == 4


def test_another_swept_setting_gives_a_line_of_its_own_with_its_name() -> None:
    rows = [
        Measured({"keep": keep, "select": name}, {"accuracy": 50.0, "ci95": [40.0, 60.0]})
        for keep in (1, 4)
        for name in ("uniform", "oracle")
    ]
    root = ElementTree.fromstring(sweep_curve(rows, "shapes"))
    assert len(root.findall(f".//{SVG}polyline")) == 2
    texts = [item.text for item in root.iter(f"{SVG}text")]
    assert {"select uniform", "select oracle"} <= set(texts)


def test_markup_in_a_title_is_shown_as_text() -> None:
    svg = sweep_curve(measured(k1=10.0, k2=20.0), "<script>alert(1)</script>")
    root = ElementTree.fromstring(svg)
    assert root.find(f".//{SVG}script") is None
    assert "<script>" in {item.text[:8] for item in root.iter(f"{SVG}text") if item.text}


def test_a_sweep_without_two_numbers_has_no_curve() -> None:
    with pytest.raises(UsageError) as caught:
        sweep_curve([Measured({"select": "uniform"}, {"accuracy": 1.0})], "shapes")
    assert "two numbers" in caught.value.message
