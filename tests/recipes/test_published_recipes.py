"""Recipes of printed rows: every setting has a source, every figure is the printed one."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.manifest import load_manifest
from stages.core.errors import ConfigError
from stages.recipes.recipe import Published, Recipe, load_recipe, recipe_names

FOLDER = Path(__file__).parents[2] / "data_manifests/published"
FIGURES = [
    row
    for name in ("vlap", "sevila", "videodistill")
    for row in csv.DictReader((FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines())
]
RECIPES = {name: load_recipe(name) for name in recipe_names()}
PUBLISHED = [name for name, recipe in RECIPES.items() if recipe.published]
OWN = {
    "VLAP": ("VLAP", "base", "QFD"),
    "SeViLA": ("SeViLA", "Answerer", "pre-training", "self-refinement", "no pre-", "train "),
    "VideoDistill": ("VideoDistill", "("),
}
"""How the papers' own rows begin; the others are quoted."""
UNREADABLE = {("VideoDistill", "15")}
"""Rows of which the readable copy does not say what they are."""
APART = ("relative_change_percent", "performance_change_percent_unsigned_as_printed")
"""Derived from the accuracies beside them."""


def key(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("paper", "table", "system", "frames", "benchmark"))


def leaves(values: Mapping[str, Any], prefix: str) -> list[str]:
    found = []
    for name, value in values.items():
        whole = f"{prefix}.{name}"
        found += leaves(value, whole) if isinstance(value, dict) else [whole]
    return found


@cache
def published_name(benchmark: str) -> str:
    return load_manifest(benchmark).published_as


def benchmark_of(recipe: Recipe) -> str:
    assert recipe.benchmark is not None
    return published_name(recipe.benchmark)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_setting_has_a_source_and_no_source_is_left_over(name: str) -> None:
    recipe = RECIPES[name]
    settings = {
        leaf
        for section in set(recipe.values) - {"recipe", "step"}
        for leaf in leaves(recipe.section(section), section)
    }
    assert set(recipe.sources) == settings
    assert all(text.strip() for text in recipe.sources.values())
    for step in recipe.values["step"]:
        if "--set" in step["command"]:
            assert step.get("source"), step["command"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_figure_is_the_printed_one(name: str) -> None:
    recipe = RECIPES[name]
    for row in recipe.published:
        printed = {
            figure["split_or_category"]
            + ("" if figure["metric"] == "accuracy" else f" {figure['metric']}"): figure["value"]
            for figure in FIGURES
            if key(figure) == (row.paper, row.table, row.system, row.frames, benchmark_of(recipe))
            and row.setting in (None, figure["setting"])
        }
        assert row.figures
        for place, value in row.figures.items():
            assert float(printed[place]) == value, (row.system, place)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_row_names_the_step_that_measures_it(name: str) -> None:
    recipe = RECIPES[name]
    for row in recipe.published:
        command = recipe.steps[row.step - 1]
        assert command[0] == "eval" or "--evaluate" in command, (row.system, command)


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_unknown_is_said(name: str) -> None:
    assert RECIPES[name].unknown


def test_every_row_of_the_papers_own_systems_has_a_recipe() -> None:
    held = {
        (row.paper, row.table, row.system, row.frames, benchmark_of(recipe))
        for recipe in map(RECIPES.__getitem__, PUBLISHED)
        for row in recipe.published
    }
    wanted = {
        key(row)
        for row in FIGURES
        if row["system"].startswith(OWN[row["paper"]])
        and (row["paper"], row["table"]) not in UNREADABLE
        # VLAP quotes SeViLA's rows, and SeViLA's baselines are its own networks
        and row["metric"] not in APART
    }
    assert not wanted - held
    assert len(wanted) > 100


def test_weights_that_a_step_names_are_made_by_a_step_before_it_or_another_recipe() -> None:
    made = {
        step[step.index("--name") + 1]
        for name in recipe_names()
        for step in RECIPES[name].steps
        if step[0].startswith(("train-", "refine-", "pretrain-", "distill")) and "--name" in step
    }
    for name in PUBLISHED:
        for step in RECIPES[name].steps:
            for option in ("--weights", "--selector", "--teacher"):
                if option in step:
                    assert step[step.index(option) + 1] in made | {"none"}, (name, step)


def test_features_that_a_step_reads_are_made_by_a_step_before_it() -> None:
    for name in PUBLISHED:
        made: set[str] = set()
        for step in RECIPES[name].steps:
            read = {step[n + 1] for n, part in enumerate(step) if part == "--features"}
            assert read <= made, (name, step)
            if step[0] == "extract-features" and "--name" in step:
                made.add(step[step.index("--name") + 1])


def test_a_row_that_says_too_little_is_refused() -> None:
    row = {"paper": "VLAP", "table": "1", "system": "VLAP", "step": 1}
    assert Published.build({**row, "figures": {"val": 1.0}}).frames == ""
    with pytest.raises(ConfigError, match="figures"):
        Published.build(row)
    recipe = Recipe("mine", {"recipe": {"published": [row]}})
    with pytest.raises(ConfigError, match="mine, published 1"):
        _ = recipe.published
    with pytest.raises(ConfigError, match="unknown"):
        _ = Recipe("mine", {"recipe": {"unknown": "everything"}}).unknown
