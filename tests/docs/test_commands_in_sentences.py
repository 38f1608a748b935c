"""Every command line and option that a page names in a sentence or a table can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.manifest import load_manifest
from stages.models.videodistill_config import VideoDistillConfig
from stages.models.vlap import VlapConfig
from stages.recipes.recipe import load_recipe
from vqa_cli.settings import parse_value
from vqa_cli.sweep import combinations

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    page
    for page in [
        "README.md",
        *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/*.md")),
    ]
    if page != "docs/commands.md"  # made from the options themselves
]
COMMAND = re.compile(r"`(vqa [a-z][^`]*)`")
CHECKPOINT = re.compile(r"`((?:import|inspect|export) [^`]*)`")
OPTION = re.compile(r"`(--[a-z][^`]*)`")
SYNOPSIS = re.compile(r"\[|\||\.\.\.|[a-z] [A-Z]{3,}\b")
"""What is no line to type: options in brackets, alternatives, names of values."""
PLACEHOLDERS = {
    "--benchmark": "msrvtt-qa", "--split": "test", "--keep": "4", "--frames": "32",
    "--for": "tiny", "--backbone": "tiny", "--as": "sevila", "--to": "vila", "--base": "FOLDER",
}  # fmt: skip
STAND_INS = {"B": "msrvtt-qa", "K": "4", "N": "32", "T": "32"}
OTHER_PROGRAMS = {"--check", "--dist", "--nproc_per_node"}
"""Options of our tools, of pytest and of torchrun."""


def named(page: str, pattern: re.Pattern[str]) -> list[str]:
    """What `pattern` finds outside code blocks, each once; table cells escape their bars."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return list(dict.fromkeys(found.replace("\\|", "|") for found in pattern.findall(text)))


def named_commands() -> list[Any]:
    found = [(page, line) for page in PAGES for line in named(page, COMMAND)]
    page = "docs/checkpoints.md"
    found += [(page, f"vqa checkpoint {line}") for line in named(page, CHECKPOINT)]
    return [pytest.param(line, id=f"{page}: {line}") for page, line in found]


def completed(command: Any, words: list[str]) -> list[str]:
    """The line with what it leaves out: options that a page said before, numbers, any benchmark."""
    words = [STAND_INS.get(word, word) for word in words if word != "..."]
    for parameter in command.params:
        if parameter.required and parameter.param_type_name == "option":
            option = next(text for text in parameter.opts if text.startswith("--"))
            if not set(parameter.opts) & set(words):
                words += [option, PLACEHOLDERS.get(option, "FILE")]
    return words


@pytest.mark.parametrize("line", named_commands())
def test_a_named_command_can_be_typed(pages: Any, line: str) -> None:
    words = shlex.split(line)
    command, rest = pages.command_of(words)
    if command is None:  # a group, or `vqa COMMAND`
        return
    if SYNOPSIS.search(line) or all(word.startswith("--") for word in rest):
        known = {text for parameter in command.params for text in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", shlex.join(rest))) <= known | {"--help"}
        return
    values = pages.parse(completed(command, words))
    if values.get("benchmark") and isinstance(values.get("split"), str):
        manifest = load_manifest(values["benchmark"])
        assert values["split"] in (*manifest.splits, *manifest.aliases)
    if values.get("recipe"):
        recipe = load_recipe(values["recipe"])
        assert recipe.section(words[1]) or recipe.steps
    if values.get("sweep"):
        assert len(combinations(values["sweep"])) > 1


@pytest.mark.parametrize("page", PAGES)
def test_a_named_option_belongs_to_some_command(pages: Any, page: str) -> None:
    known = pages.all_options() | OTHER_PROGRAMS
    for line in named(page, OPTION):
        assert set(re.findall(r"--[a-z_-]+", line)) <= known, line


def test_a_command_that_does_not_exist_is_noticed(pages: Any) -> None:
    for line, said in (
        ("vqa eval --benchmark star --no-such-option", "No such option"),
        ("vqa eval --benchmark star --blind nothing", "--blind"),
        ("vqa evaluate --benchmark star", "evaluate"),
    ):
        with pytest.raises(Exception, match=said):
            pages.parse(shlex.split(line))


def test_every_option_of_the_paper_that_is_open_is_one_of_the_network() -> None:
    """The last column of the page's table; what lies elsewhere says so."""
    text = (ROOT / "docs/videodistill.md").read_text(encoding="utf-8")
    rows = _rows(text.split("## What the paper leaves open")[1])
    assert len(rows) > 10
    for row in rows:
        last = row.rstrip(" |").rpartition("| ")[2]
        if "decided with" not in last and "not below" not in last:
            assert set(re.findall(r"`([a-z_]+)`", last)) <= set(VideoDistillConfig.model_fields)


def test_every_difference_of_vlap_is_an_option_of_the_network() -> None:
    text = (ROOT / "docs/vlap.md").read_text(encoding="utf-8")
    rows = _rows(text.split("## Where it differs")[1].split("\n## ")[0])
    assert len(rows) > 8
    for row in rows:
        last = row.rstrip(" |").rpartition("| ")[2]
        if "beside" not in last:
            assert set(re.findall(r"`([a-z_]+)`", last)) <= set(VlapConfig.model_fields), row


def _rows(text: str) -> list[str]:
    return [row for row in text.splitlines() if row.startswith("| ")][1:]


@pytest.mark.parametrize(
    ("page", "config"),
    [("docs/videodistill.md", VideoDistillConfig), ("docs/vlap.md", VlapConfig)],
    ids=["videodistill", "vlap"],
)
def test_a_named_setting_of_the_network_is_accepted(page: str, config: Any) -> None:
    pattern = re.compile(r"model\.([a-z_]+)=('\{[^']*\}'|[^` ]+)")
    settings = list(pattern.findall((ROOT / page).read_text(encoding="utf-8")))
    assert settings
    for name, values in settings:
        parts = [values.strip("'")] if values.startswith("'") else values.rstrip('"').split(",")
        for value in parts:
            config.build({"frames": 100, "keep": 4, name: parse_value(value)})


def test_every_module_and_result_that_a_page_names_is_there() -> None:
    pattern = re.compile(r"`((?:stages|vqa_cli|tools|tests|benchmarks|data_manifests)/[\w./-]+)`")
    for page in PAGES:
        for name in named(page, pattern):
            if "NAME" in name:
                continue
            found = (ROOT / name).exists() or (ROOT / "stages" / name).exists()
            assert found, f"{page}: {name}"


def test_every_link_of_the_readme_leads_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert len(links) > 20
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_page_is_in_the_site_s_navigation() -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^(?:.*<)?([\w/-]+)>?$", index, flags=re.MULTILINE))
    pages = {path.stem for path in ROOT.glob("docs/*.md")} - {"index"}
    assert pages <= listed
