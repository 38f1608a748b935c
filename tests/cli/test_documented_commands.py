"""Every command line that the pages of the systems name can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from stages.benchmarks.manifest import load_manifest
from stages.models.videodistill_config import VideoDistillConfig
from stages.recipes.recipe import load_recipe
from vqa_cli.main import app
from vqa_cli.settings import parse_value
from vqa_cli.sweep import combinations

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("sevila.md", "videodistill.md")
COMMAND = re.compile(r"`(vqa [a-z][^`]*)`")
OPTION = re.compile(r"`(--[a-z][^`]*)`")


def lines(page: str, pattern: re.Pattern[str]) -> list[str]:
    found = pattern.findall((DOCS / page).read_text(encoding="utf-8"))
    return list(dict.fromkeys(text.replace("\\|", "|") for text in found))


def commands() -> Iterator[Any]:
    for page in PAGES:
        for line in lines(page, COMMAND):
            yield pytest.param(line, id=f"{page}: {line}")


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """The command of a line, and its options' values by their names.

    `B` is any benchmark; a page that shows a part of a line leaves out what was said before.
    """
    words = shlex.split(line)[1:]
    words = ["msrvtt-qa" if word == "B" else word for word in words]
    root: Any = typer.main.get_command(app)
    command = root.commands[words[0]]
    given = words[1:]
    takes = {text for parameter in command.params for text in parameter.opts}
    for option, value in (("--benchmark", "msrvtt-qa"), ("--annotations", "FILE")):
        if option in takes and option not in given and words[0] != "report":
            given += [option, value]
    context = command.make_context(words[0], list(given))
    return words[0], dict(context.params)


@pytest.mark.parametrize("line", commands())
def test_a_documented_command_can_be_typed(line: str) -> None:
    name, values = parsed(line)
    benchmark = values.get("benchmark")
    if benchmark is not None:
        manifest = load_manifest(benchmark)
        splits = values.get("split")
        for split in [splits] if isinstance(splits, str) else splits or []:
            assert split in manifest.splits or split in manifest.aliases
    if values.get("recipe"):
        recipe = load_recipe(values["recipe"])
        assert recipe.section(name) or recipe.steps
    if values.get("sweep"):
        assert len(combinations(values["sweep"])) > 1


@pytest.mark.parametrize("page", PAGES)
def test_a_documented_option_belongs_to_some_command(page: str) -> None:
    root: Any = typer.main.get_command(app)
    known = {
        text
        for command in root.commands.values()
        for parameter in command.params
        for text in parameter.opts
    }
    for line in lines(page, OPTION):
        assert {word for word in shlex.split(line) if word.startswith("--")} <= known, line


def test_a_command_that_does_not_exist_is_noticed() -> None:
    for line, said in (
        ("vqa eval --benchmark star --no-such-option", "No such option"),
        ("vqa eval --benchmark star --blind nothing", "--blind"),
        ("vqa evaluate --benchmark star", "evaluate"),
    ):
        with pytest.raises(Exception, match=said):
            parsed(line)


def test_every_option_of_the_paper_that_is_open_is_one_of_the_network() -> None:
    """The last column of the page's table; what lies elsewhere says so."""
    text = (DOCS / "videodistill.md").read_text(encoding="utf-8")
    table = text.split("## What the paper leaves open")[1]
    rows = [row for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        last = row.rstrip(" |").rpartition("| ")[2]
        if "decided with" not in last and "not below" not in last:
            assert set(re.findall(r"`([a-z_]+)`", last)) <= set(VideoDistillConfig.model_fields)


def test_a_documented_setting_of_the_network_is_accepted() -> None:
    pattern = re.compile(r"model\.([a-z_]+)=([^` ]+)")
    text = (DOCS / "videodistill.md").read_text(encoding="utf-8")
    named = [pair for pair in pattern.findall(text) if pair[0].islower()]
    assert named
    for name, values in named:
        for value in values.rstrip('"').split(","):
            VideoDistillConfig.build({"frames": 100, "keep": 16, name: parse_value(value)})
