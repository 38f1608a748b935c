"""Tab: the protocol that bash, zsh and fish speak with `vqa`, and what it offers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from vqa_cli import completion, options
from vqa_cli.catalogue import ENTRIES

START = "from vqa_cli.main import main; main()"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names only: completion reads no artifact."""
    root = tmp_path_factory.mktemp("names")
    for name in (
        "weights/star-vlap-teacher-0123456789ab",
        "weights/nextqa-vlap-teacher-0123456789ab",
        "features/star-val-tiny-0123456789ab",
        "questions/star-val-0123456789ab",
        "predictions/star-val-vlap-0123456789ab",
    ):
        (root / name).mkdir(parents=True)
        (root / name / "manifest.json").write_text("{}")
    (root / "weights/half-done-0123456789ab").mkdir()
    return root


def asked(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def bash(line: str, **environment: str) -> list[str]:
    """What bash would offer after `line`, whose last word is being typed."""
    words = line.split(" ")
    done = asked(
        _VQA_COMPLETE="complete_bash",
        COMP_WORDS=line,
        COMP_CWORD=str(len(words) - 1),
        **environment,
    )
    assert done.stderr == ""
    return done.stdout.split()


# --- the protocol --------------------------------------------------------------------------------


def test_bash_completes_commands_options_and_names(workspace: Path) -> None:
    assert bash("vqa ev") == ["eval"]
    assert set(bash("vqa eval --sel")) == {"--select", "--selector", "--selector-backbone"}
    teachers = bash(f"vqa eval -b star -w {workspace} --weights ")
    assert teachers == [
        "star-vlap-teacher-0123456789ab",  # of the benchmark on the line
        "nextqa-vlap-teacher-0123456789ab",
    ]


@pytest.mark.parametrize(
    ("line", "word"),
    [("vqa eval --benchmark = st", 4), ("vqa eval --answer rank --benchmark = st", 6)],
)
def test_bash_completes_a_value_behind_an_equals_sign(line: str, word: int) -> None:
    """Bash hands `--benchmark=st` over as three words, and replaces the last."""
    done = asked(_VQA_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(word))
    assert done.stdout.split() == ["star"]


def test_bash_lists_every_value_right_behind_the_equals_sign() -> None:
    line = "vqa eval --system ="
    done = asked(_VQA_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD="3")
    assert set(done.stdout.split()) == set(options.SYSTEMS)


def test_a_tilde_in_the_workspace_is_the_home_folder(workspace: Path) -> None:
    line = f"vqa eval -w ~/{workspace.name} --questions "
    assert bash(line, HOME=str(workspace.parent)) == ["star-val-0123456789ab"]


def test_zsh_completes(workspace: Path) -> None:
    done = asked(_VQA_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="vqa eval --system v")
    assert done.stderr == ""
    assert '"vlap"' in done.stdout
    assert '"sevila"' not in done.stdout


def test_fish_completes_with_a_word_on_each_command() -> None:
    done = asked(
        _VQA_COMPLETE="complete_fish",
        _TYPER_COMPLETE_ARGS="vqa comp",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    summary = next(entry.summary for entry in ENTRIES if entry.name == "compare")
    assert done.stdout.strip() == f"compare\t{summary}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_that_a_shell_reads_calls_vqa(shell: str) -> None:
    done = asked(_VQA_COMPLETE=f"source_{shell}")
    assert done.returncode == 0
    assert "_VQA_COMPLETE" in done.stdout


def test_the_workspace_may_come_from_the_environment(workspace: Path) -> None:
    found = bash("vqa eval --questions ", VQA_WORKSPACE=str(workspace))
    assert found == ["star-val-0123456789ab"]


@pytest.mark.parametrize(
    "line",
    [
        "vqa eval -w /dev/null --weights ",
        "vqa eval --keep x --blind nonsense --weights ",
        'vqa eval -w "unclosed --weights ',
        "vqa nonsense --x ",
        "vqa eval -b nonsense --split x",
    ],
)
def test_an_unfinished_or_wrong_line_is_no_error(line: str) -> None:
    """`bash` has checked that nothing is printed beside the names."""
    assert all("rror" not in name for name in bash(line))


def test_completing_imports_nothing_heavy(workspace: Path) -> None:
    code = (
        "import atexit, sys\n"
        "heavy = ('torch', 'numpy', 'pydantic', 'pandas', 'h5py', 'rich.markdown')\n"
        "atexit.register(lambda: print([n for n in heavy if n in sys.modules], file=sys.stderr))\n"
        f"{START}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "_VQA_COMPLETE": "complete_bash",
            "COMP_WORDS": f"vqa compare -w {workspace} ",
            "COMP_CWORD": "4",
        },
    )
    assert done.stdout.split() == ["star-val-vlap-0123456789ab"]
    assert "torch" not in done.stderr
    assert "numpy" not in done.stderr
    assert "h5py" not in done.stderr
    assert "pandas" not in done.stderr


# --- what is offered -----------------------------------------------------------------------------


def context(**given: object) -> typer.Context:
    from vqa_cli.main import parser

    made: typer.Context = (
        parser("eval").commands["eval"].make_context("eval", [], resilient_parsing=True)
    )
    made.params.update(given)
    return made


def test_splits_are_those_of_the_benchmark() -> None:
    from stages.benchmarks.manifest import load_manifest

    offered = completion.splits(context(benchmark="tvqa"), "")
    assert offered == list(load_manifest("tvqa").splits)
    assert completion.splits(context(benchmark="../none"), "v") == ["val"]


def test_fixed_lists_are_those_of_the_stages() -> None:
    from stages.artifacts.store import FORMAT_VERSIONS
    from stages.benchmarks.manifest import benchmark_names
    from stages.models.backbones import catalog
    from stages.recipes.recipe import recipe_names
    from stages.systems import inputs
    from stages.systems.selectors import PLAIN_SELECTORS
    from vqa_cli.options import EVAL_SELECTS

    assert set(completion.KINDS) == set(FORMAT_VERSIONS)
    assert completion.benchmarks(context(), "") == sorted(benchmark_names())
    assert completion.recipes(context(), "") == sorted(recipe_names())
    assert set(EVAL_SELECTS) == {
        *PLAIN_SELECTORS,
        *inputs.NETWORK_SELECTORS,
        *inputs.JOINT_SELECTORS,
        *inputs.FILE_SELECTORS,
    }
    for name in completion.BACKBONES:
        assert catalog.backbone_label(name) == name


def test_only_finished_artifacts_are_offered(workspace: Path) -> None:
    offered = completion.ids_of("weights")(context(workspace=workspace), "")
    assert len(offered) == 2
    assert completion.ids_of("weights")(context(workspace=workspace / "none"), "") == []
