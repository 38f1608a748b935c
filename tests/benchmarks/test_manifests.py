"""What is known about the benchmarks, and how names that are almost right are answered."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from stages.benchmarks.manifest import (
    benchmark_names,
    load_manifest,
    parse_manifest,
    split_name,
)
from stages.benchmarks.readers import LAYOUTS
from stages.core.errors import ConfigError, UsageError

MINIMAL = """
name = "kitchen"
title = "Kitchen"
task = "multiple-choice"
citation = ""
licence = ""
get = []
layouts = ["sevila-json"]
clip = "whole"
answer_default = "rank"
[splits.val]
roles = ["tune", "report"]
"""


@pytest.mark.parametrize("name", benchmark_names())
def test_every_manifest_loads_and_names_layouts_that_exist(name: str) -> None:
    manifest = load_manifest(name)
    assert manifest.name == name
    assert set(manifest.layouts) <= set(LAYOUTS)
    assert manifest.report_split in manifest.splits
    assert set(manifest.splits_for("train") + manifest.splits_for("tune"))


def test_the_five_benchmarks_are_there() -> None:
    assert {"nextqa", "star", "msrvtt-qa", "custom", "shapes"} <= set(benchmark_names())


def test_dev_means_val_and_test_public_means_test() -> None:
    for name in benchmark_names():
        manifest = load_manifest(name)
        assert split_name(manifest, "dev") == "val"
        assert split_name(manifest, "test_public") == "test"
        assert split_name(manifest, "val") == "val"


def test_counts_that_differ_from_the_published_ones_are_said() -> None:
    val = load_manifest("star").splits["val"]
    assert val.differences(7098, 914) == []
    assert val.differences(7097, 914) == ["7,097 questions where 7,098 are published"]
    assert load_manifest("custom").splits["val"].differences(3, 2) == []


def test_an_unknown_benchmark_names_the_known_ones_and_the_closest() -> None:
    with pytest.raises(UsageError) as caught:
        load_manifest("nextqu")
    assert "star" in caught.value.message
    assert caught.value.hint == "did you mean nextqa?"
    with pytest.raises(UsageError):
        load_manifest("../pyproject")


def test_an_underscore_finds_the_name_with_a_hyphen() -> None:
    with pytest.raises(UsageError) as caught:
        load_manifest("msrvtt_qa")
    assert "msrvtt-qa" in caught.value.hint


def test_an_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        split_name(load_manifest("star"), "validation")
    assert "val" in caught.value.message


def test_a_new_benchmark_is_one_toml() -> None:
    manifest = parse_manifest(MINIMAL, "kitchen.toml")
    assert manifest.report_split == "val"
    assert manifest.splits_for("tune") == ("val",)
    assert manifest.question_id == "{qid}"


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('title = "Kitchen"', 'titel = "Kitchen"', "titel"),
        ('["tune", "report"]', '["tune"]', "report"),
        ('clip = "whole"', 'clip = "half"', "clip"),
        ('clip = "whole"', 'clip = "whole"\nquestion_id = "{row}"', "question_id"),
        ('clip = "whole"', 'clip = "whole"\nmacro_types = ["A"]', "macro_types"),
        ('clip = "whole"', 'clip = "whole"\nmetrics = ["accuracy_macro"]', "macro_types"),
        ('clip = "whole"', 'clip = "whole"\naliases = {dev = "tset"}', "tset"),
        ('task = "multiple-choice"', 'task = "open-ended"\nnum_options = 4', "num_options"),
        ("[splits.val]", "[splits.val", "TOML"),
    ],
)
def test_a_wrong_manifest_is_refused_by_the_name_of_the_field(
    old: str, new: str, word: str
) -> None:
    assert old in MINIMAL
    with pytest.raises(ConfigError) as caught:
        parse_manifest(MINIMAL.replace(old, new), "kitchen.toml")
    assert "kitchen.toml" in caught.value.message
    assert word in caught.value.message


def test_the_readme_explains_every_layout_and_its_example_loads() -> None:
    readme = Path(__file__).resolve().parents[2] / "data_manifests" / "README.md"
    text = readme.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in LAYOUTS)
    example = text.split("```toml")[1].split("```")[0]
    assert parse_manifest(example, "README.md").name == tomllib.loads(example)["name"]
