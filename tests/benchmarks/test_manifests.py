"""What is known about the benchmarks, and how names that are almost right are answered."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path

import pytest

from stages.benchmarks.layouts import LAYOUTS
from stages.benchmarks.layouts.keys import KEY_LAYOUTS
from stages.benchmarks.manifest import (
    benchmark_names,
    load_manifest,
    parse_manifest,
    split_name,
)
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
    assert set(manifest.keys) <= set(KEY_LAYOUTS)
    assert manifest.get
    assert manifest.licence
    assert manifest.videos.where


def test_every_benchmark_of_the_contract_is_there() -> None:
    names = """nextqa star how2qa tvqa vlep qvhighlights msrvtt-qa msvd-qa agqa egotaskqa egomcq
        msrvtt-mc msrvtt-retrieval didemo shapes custom"""
    assert benchmark_names() == sorted(names.split())


def test_every_layout_is_accepted_by_a_benchmark() -> None:
    accepted = {layout for name in benchmark_names() for layout in load_manifest(name).layouts}
    assert accepted == set(LAYOUTS)


SIZES = {"How2QA (official csv)": "how2qa-csv", "TVQA+": "tvqa-plus-json"}
SIZE_NAMES = {
    **{"NExT-QA": "nextqa", "STAR": "star", "TVQA": "tvqa", "TVQA+": "tvqa", "VLEP": "vlep"},
    **{"How2QA (official csv)": "how2qa", "How2QA (VALUE jsonl)": "how2qa", "MSVD-QA": "msvd-qa"},
    **{"QVHighlights": "qvhighlights", "MSRVTT-QA": "msrvtt-qa", "MSRVTT-MC": "msrvtt-mc"},
    **{"AGQA v2 balanced": "agqa", "MSR-VTT 1k-A": "msrvtt-retrieval"},
    **{"DiDeMo (paragraph retrieval)": "didemo"},
}


def test_expected_counts_are_the_recorded_ones(shared: Path) -> None:
    compared = 0
    with (shared / "data/split_sizes.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["benchmark"] not in SIZE_NAMES or row["split"].startswith("test (VALUE"):
                continue
            manifest = load_manifest(SIZE_NAMES[row["benchmark"]])
            split = manifest.splits[split_name(manifest, row["split"].replace(" ", "-"))]
            layout = SIZES.get(row["benchmark"], "")
            counts = split.by_layout.get(layout, split) if layout else split
            for field in ("questions", "videos"):
                if row[field] and getattr(counts, field) is not None:
                    assert getattr(counts, field) == int(row[field]), row
                    compared += 1
    assert compared > 45


def test_headline_metrics_are_the_contracts() -> None:
    assert load_manifest("star").metrics[0] == "accuracy_macro"
    assert load_manifest("egomcq").metrics == ("inter", "intra")
    assert load_manifest("didemo").metrics == load_manifest("msrvtt-retrieval").metrics
    assert "mAP@0.75" in load_manifest("qvhighlights").metrics


def test_dev_means_val_and_test_public_means_test() -> None:
    for name in benchmark_names():
        manifest = load_manifest(name)
        if "val" in manifest.splits:
            assert split_name(manifest, "dev") == "val"
            assert split_name(manifest, "val") == "val"
        wanted = "test" if "test" in manifest.splits else "val"
        assert split_name(manifest, "test_public") == wanted


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
        ('clip = "whole"', 'clip = "whole"\nquestion_id = "{line}"', "question_id"),
        ('clip = "whole"', 'clip = "whole"\nmacro_types = ["A"]', "macro_types"),
        ('clip = "whole"', 'clip = "whole"\nmetrics = ["accuracy_macro"]', "macro_types"),
        ('clip = "whole"', 'clip = "whole"\naliases = {dev = "tset"}', "tset"),
        ('task = "multiple-choice"', 'task = "open-ended"\nnum_options = 4', "num_options"),
        ("[splits.val]", "[splits.val", "TOML"),
        ('clip = "whole"', 'clip = "whole"\nreleases = {open-json = "x"}', "open-json"),
        ('clip = "whole"', 'clip = "whole"\ndialects = {open-json = {}}', "open-json"),
        ("[splits.val]", "[splits.val]\nby_layout.open-json = {}", "open-json"),
        ('clip = "whole"', 'clip = "whole"\nvideos.pattern = "("', "videos.pattern"),
        ('clip = "whole"', 'clip = "whole"\nvideos.template = "{chunk}"', "videos.template"),
        ('clip = "whole"', 'clip = "whole"\nvideos.also = [{pattern = "a", to = "\\\\1"}]', "fit"),
        ('clip = "whole"', 'clip = "whole"\nprompt.question = "{q}"', "prompt.question"),
        ('clip = "whole"', 'clip = "whole"\ndialects.sevila-json.id_pattern = "(?P<x>.)"', "'x'"),
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


def test_counts_belong_to_the_release_that_the_layout_holds() -> None:
    val = load_manifest("how2qa").splits["val"]
    assert val.differences(3115, 3058, "how2qa-jsonl") == []
    assert val.differences(2852, 1166, "how2qa-csv") == []
    assert len(val.differences(2852, 1166, "how2qa-jsonl")) == 2


def test_an_unknown_video_rule_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        load_manifest("egomcq").video_rule("egovl")
    assert "egovlp" in caught.value.hint
    assert load_manifest("egomcq").video_rule("lavila").chunk_seconds == 300
