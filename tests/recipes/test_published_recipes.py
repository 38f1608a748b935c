"""Recipes of printed rows: every setting has a source, every figure is the printed one."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
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
WITHOUT = "no large-scale pre-training"
"""How a printed row says that its network saw no captions."""
PRE_TRAINED = re.compile(r"pre-?train(ing|ed)")


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


def said_of(row: Published, recipe: Recipe) -> set[str]:
    """What the recipe and the printed row say of the network behind a figure."""
    whole = (row.paper, row.table, row.system, row.frames, benchmark_of(recipe))
    settings = {
        figure["setting"]
        for figure in FIGURES
        if key(figure) == whole and row.setting in (None, figure["setting"])
    }
    return {row.note, *settings}


def option(step: list[str], name: str) -> str | None:
    return step[step.index(name) + 1] if name in step else None


def from_captions() -> set[str]:
    """Weights of a pre-training, and those trained from them, in whichever recipe."""
    steps = [step for name in recipe_names() for step in RECIPES[name].steps]
    made = {option(step, "--name") for step in steps if step[0].startswith("pretrain-")}
    trained = {
        option(step, "--name")
        for step in steps
        if step[0] == "train-videodistill" and option(step, "--init") in made
    }
    return {name for name in made | trained if name is not None}


def saw_captions(step: list[str], weights: set[str]) -> bool:
    """Whether the network that a step measures was pre-trained: an `eval` or a sweep."""
    return option(step, "--weights" if step[0] == "eval" else "--init") in weights


VIDEODISTILL_ROWS = [
    pytest.param(name, row, id=f"{name}-{row.table}-{row.system}")
    for name in PUBLISHED
    for row in RECIPES[name].published
    if row.paper == "VideoDistill"
]


@pytest.mark.parametrize(("name", "row"), VIDEODISTILL_ROWS)
def test_a_row_after_pre_training_is_measured_after_it_and_no_other(
    name: str, row: Published
) -> None:
    recipe = RECIPES[name]
    said = " ".join(said_of(row, recipe))
    after = saw_captions(recipe.steps[row.step - 1], from_captions())
    # neither EgoMCQ nor MSRVTT-MC has a train split: there is nothing to train from scratch on
    untrained = not any(step[0].startswith("train-") for step in recipe.steps)
    assert after == (PRE_TRAINED.search(said.replace(WITHOUT, "")) is not None or untrained)
    assert not (after and WITHOUT in said)


def test_rows_with_and_without_captions_are_told_apart() -> None:
    captions = from_captions()
    assert {"captions-videodistill", "msrvtt-qa-videodistill-pretrained"} <= captions
    assert "msrvtt-qa-videodistill" not in captions
    steps = {
        (name, row.table, row.system): RECIPES[name].steps[row.step - 1]
        for name in PUBLISHED
        for row in RECIPES[name].published
    }
    for name, table in (("videodistill-msrvtt-qa", "5"), ("videodistill-msvd-qa", "6")):
        assert saw_captions(steps[name, table, "VideoDistill"], captions)
        assert not saw_captions(steps[name, table, "VideoDistill-dagger"], captions)


def test_one_network_does_not_stand_beside_two_figures_of_a_table() -> None:
    """A sweep measures several; and what has no train split is measured once."""
    for name in PUBLISHED:
        recipe = RECIPES[name]
        rows = [
            (row.table, row.step)
            for row in recipe.published
            if "--sweep" not in recipe.steps[row.step - 1]
        ]
        if any(step[0].startswith("train-") for step in recipe.steps):
            assert len(rows) == len(set(rows)), name


@pytest.mark.parametrize("name", ["videodistill-msvd-qa", "videodistill-retrieval"])
def test_a_plan_names_the_pre_training_that_is_missing(
    name: str, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    plan = vqa("run", name, "--dry-run", "-w", tmp_path).json
    missing = {item["what"]: item["hint"] for item in plan["missing"]}
    assert missing["weights captions-videodistill"] == "vqa run videodistill-pretrain"


@pytest.mark.parametrize("kind", ["atp", "topk"])
def test_selectors_before_a_zero_shot_answerer_are_trained_alone(kind: str) -> None:
    steps = RECIPES["sevila-nextqa-selectors"].steps
    (training,) = [
        step for step in steps if step[0] == "train-answerer" and option(step, "--select") == kind
    ]
    assert "--freeze-answerer" in training


def test_all_evaluations_of_a_recipe_with_settings_for_them_take_them() -> None:
    for name in PUBLISHED:
        for step in RECIPES[name].steps:
            if step[0] == "eval" and (RECIPES[name].section("eval") or name.startswith("sevila")):
                assert option(step, "--recipe") == name, (name, step)


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
            inits = () if step[0] == "distill" else ("--init",)
            for named in ("--weights", "--selector", "--teacher", *inits):
                if named in step:
                    assert option(step, named) in made | {"none"}, (name, step)


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
