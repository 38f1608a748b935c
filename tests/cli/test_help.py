"""`--help` as a guided path: order, panels, examples, defaults, width, and what it imports."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.benchmarks.manifest import load_manifest
from stages.recipes.recipe import load_recipe
from vqa_cli import options
from vqa_cli.catalogue import ENTRIES, EXAMPLES
from vqa_cli.main import parser, run_command

PIPELINE = (
    "demo", "doctor", "benchmarks", "prepare", "extract-frames", "extract-features",
    "train-teacher", "distill", "train-localizer", "pseudo-label", "refine-localizer",
    "train-answerer", "pretrain-videodistill", "train-videodistill", "eval", "score", "compare",
    "report",
)  # fmt: skip
HEAVY = (
    "torch", "transformers", "accelerate", "pandas", "pyarrow", "h5py", "decord", "av", "numpy",
    "scipy", "sklearn", "PIL", "jinja2", "tokenizers", "safetensors",
)  # fmt: skip
PANELS = (options.INPUTS, options.COMPUTED, options.RUN, options.OUTPUT)
NOTHING_WHEN_ABSENT = {
    "report --out",
    "run --price",
    *(
        f"ask {name}"
        for name in ("--option", "--questions", "--start", "--end", "--save", "--html")
    ),
}
LISTED_ELSEWHERE = (
    "--benchmark", "--recipe", "--split", "--backbone", "--selector-backbone", "--base", "--for",
    "--sevila-backbone",
)  # fmt: skip
ARRANGED_OTHERWISE = ("ask", "serve", "report", "demo", "doctor")
"""By what a person asks first."""


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command that does something, and its parsed form."""
    for name, command in parser().commands.items():
        inner = getattr(command, "commands", None)
        if inner is None:
            yield name, command
        else:
            yield from ((f"{name} {each}", found) for each, found in inner.items())


LEAVES = dict(leaves())


def helped(capsys: pytest.CaptureFixture[str], command: str = "") -> str:
    assert run_command([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


# --- the guided path -----------------------------------------------------------------------------


def test_vqa_alone_shows_the_guide_with_every_command_in_pipeline_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command([]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"│ {entry.name} ") for entry in ENTRIES]
    assert places == sorted(places)
    assert tuple(entry.name for entry in ENTRIES)[: len(PIPELINE)] == PIPELINE
    panels = list(dict.fromkeys(entry.panel for entry in ENTRIES))
    assert [shown.index(f"─ {panel} ─") for panel in panels] == sorted(
        shown.index(f"─ {panel} ─") for panel in panels
    )
    assert "vqa demo" in shown.rpartition("╯")[2]


@pytest.mark.parametrize("group", [entry.name for entry in ENTRIES if entry.is_group])
def test_a_group_alone_shows_its_commands(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([group]) == 0
    shown = capsys.readouterr().out
    for name in LEAVES:
        if name.startswith(f"{group} "):
            assert name.partition(" ")[2] in shown


def test_every_summary_fits_one_line_of_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = helped(capsys)
    for entry in ENTRIES:
        assert entry.summary in shown


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_help_keeps_to_the_width_of_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in ("", "eval", "artifacts verify"):
        assert max(map(len, helped(capsys, command).splitlines())) <= columns


# --- examples ------------------------------------------------------------------------------------


def test_every_command_has_one_example_and_every_example_a_command() -> None:
    assert set(EXAMPLES) == set(LEAVES)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_an_example_can_be_typed_and_stands_in_the_help(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed by the real parser, and its benchmark and recipe exist."""
    line = EXAMPLES[name]
    words = shlex.split(line)
    assert words[: 1 + len(name.split())] == ["vqa", *name.split()]
    context = LEAVES[name].make_context(name, words[1 + len(name.split()) :])
    benchmark = context.params.get("benchmark")
    recipe = context.params.get("recipe")
    if benchmark:
        load_manifest(benchmark)
    if recipe:
        load_recipe(recipe)
    monkeypatch.setenv("COLUMNS", "200")
    assert f"Example: {line}" in helped(capsys, name)


# --- options -------------------------------------------------------------------------------------


def test_every_option_shows_its_default() -> None:
    """As typer's own, or in brackets in the help; flags are off."""
    missing = [
        f"{name} {parameter.opts[0]}"
        for name, command in LEAVES.items()
        for parameter in command.params
        if parameter.param_type_name == "option"
        and not (parameter.is_flag or parameter.required)
        and parameter.default in (None, (), [])
        and not re.search(r"\[[^\]]+\]", parameter.help)
        and f"{name} {parameter.opts[0]}" not in NOTHING_WHEN_ABSENT
    ]
    assert not missing


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_long_lists_of_options_are_grouped(name: str) -> None:
    """What nearly every call needs comes first, ungrouped; then inputs, choices, run, output."""
    options_of = [item for item in LEAVES[name].params if item.param_type_name == "option"]
    panels = [item.rich_help_panel for item in options_of if item.opts[0] != "--help"]
    if name in ARRANGED_OTHERWISE:
        assert len(set(panels)) > 1
        return
    assert panels.count(None) <= 6
    grouped = [panel for panel in dict.fromkeys(panels) if panel in PANELS]
    assert grouped == sorted(grouped, key=PANELS.index)


def test_the_help_of_an_option_names_every_word_that_tab_offers(tmp_path: Path) -> None:
    """Names of benchmarks, recipes and backbones, and what a workspace holds, have their own."""
    unnamed = []
    for name, command in LEAVES.items():
        context = command.make_context(name, ["-w", str(tmp_path)], resilient_parsing=True)
        for parameter in command.params:
            if parameter.param_type_name != "option" or parameter.opts[0] in LISTED_ELSEWHERE:
                continue
            offered = [item.value for item in parameter.shell_complete(context, "")]
            unnamed += [
                f"{name} {parameter.opts[0]} {word}"
                for word in offered
                if not re.search(rf"\b{re.escape(word)}\b", parameter.help)
            ]
    assert not unnamed


@pytest.mark.parametrize(("option", "metavar"), [("--seeds", "N"), ("--videos", "N")])
def test_numbers_of_the_demo_are_shown_as_such(option: str, metavar: str) -> None:
    found = next(item for item in LEAVES["demo"].params if option in item.opts)
    assert found.metavar == metavar


@pytest.mark.parametrize("option", ["--frames", "--views", "--seed"])
def test_what_only_decoding_takes_says_so(option: str) -> None:
    found = next(item for item in LEAVES["extract-features"].params if option in item.opts)
    assert found.help.startswith("With --from-videos: ")


def test_help_of_a_command_is_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words, asked in ((["help", "ask"], "ask"), (["help", "bench", "decode"], "bench decode")):
        assert run_command(words) == 0
        assert capsys.readouterr().out == helped(capsys, asked)
    assert run_command(["help"]) == 0
    assert capsys.readouterr().out == helped(capsys)
    assert run_command(["help", "nonsense"]) == 2


# --- what it costs -------------------------------------------------------------------------------


def test_no_help_imports_anything_heavy() -> None:
    """Every command in a process of its own would take half a minute; they share one, in which
    nothing of the list may ever appear."""
    lines = [[], ["--help"], *([*name.split(), "--help"] for name in LEAVES)]
    code = (
        "import contextlib, io, json, sys\n"
        "from vqa_cli.main import run_command\n"
        "found = {}\n"
        f"for line in {lines!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        assert run_command(line) == 0, line\n"
        f"    found[' '.join(line)] = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(json.dumps({line: names for line, names in found.items() if names}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {}


def test_the_guide_reads_no_command(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from vqa_cli.main import run_command\n"
        "assert run_command(['--help']) == 0\n"
        "print([name for name in sys.modules if name.startswith('vqa_cli.')], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    read = set(re.findall(r"vqa_cli\.(\w+)", done.stderr))
    assert not read & {entry.module for entry in ENTRIES}


@pytest.mark.slow
def test_help_takes_little_more_than_an_empty_app_of_the_same_size() -> None:
    script = Path(__file__).parents[2] / "benchmarks/help_time.py"
    line = [sys.executable, str(script), "--rounds", "7", "--command", "", "--command", "eval"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=dict(os.environ))
    for row in json.loads(done.stdout)["rows"].values():
        assert row["ratio_processor_seconds"] <= 1.3
