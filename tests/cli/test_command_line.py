"""The command line by itself: help, speed, errors, and where settings come from."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from stages import distill
from stages.artifacts.features import StoredDtype
from stages.benchmarks.prompts import AnswerMode
from stages.core.errors import UsageError
from stages.models.videodistill_config import TABLE_4
from stages.models.vlap import PrompterName, VlapConfig
from stages.systems.blind import Blind
from stages.training.videodistill import TrainedTask
from stages.training.vlap import VlapStageConfig
from vqa_cli import options
from vqa_cli.command_line import after_interrupt
from vqa_cli.console import Console
from vqa_cli.main import app, run_command
from vqa_cli.settings import settings

HEAVY = ("torch", "transformers", "accelerate", "h5py", "pyarrow", "pandas", "av", "decord")
HELP_SECONDS = 1.0


def commands() -> Iterator[list[str]]:
    """Every command, groups' own ones included."""
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        yield [name]
        for inner in getattr(command, "commands", {}):
            yield [name, inner]


COMMANDS = [pytest.param(command, id=" ".join(command)) for command in commands()]
NAMED_COMMAND = re.compile(r"\bvqa ((?:artifacts )?[a-z]+(?:-[a-z]+)*)((?: --?[a-z-]+)*)")
PROSE = {"reads", "only", "itself"}
"""Words that follow `vqa` in sentences about the tool."""
REPOSITORY = Path(__file__).parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vqa_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


# --- help ----------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    """Time on the processor, so that a busy machine does not fail the test."""
    code = (
        "import sys, time\n"
        "from vqa_cli.main import run_command\n"
        "assert run_command(['--help']) == 0\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(heavy, time.process_time(), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, seconds = done.stderr.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < HELP_SECONDS


def test_the_help_of_no_command_imports_anything_heavy() -> None:
    code = (
        "import sys\n"
        "from vqa_cli.main import run_command\n"
        f"for command in {[param.values[0] for param in COMMANDS]!r}:\n"
        "    assert run_command([*command, '--help']) == 0, command\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_every_option(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Usage:" in printed
    shown = "".join(printed.replace("│", " ").split())
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    assert found.help or found.callback.__doc__
    for parameter in found.params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{' '.join(command)} {parameter.opts}"
            for default in re.findall(r"\[[^\]]+\]", parameter.help):
                # Rich takes some words in brackets for its own markup and prints nothing.
                assert "".join(default.split()) in shown, (command, default)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_common_options(command: list[str]) -> None:
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    if getattr(found, "commands", None):
        return
    options = {text for parameter in found.params for text in parameter.opts}
    assert {"--json", "--quiet", "--debug", "--workspace"} <= options


def test_the_readme_names_every_command() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    missing = [
        name for name in {command[0] for command in commands()} if f"vqa {name}" not in readme
    ]
    assert not sorted(missing)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["nonsense"], 2, "nonsense"),
        (["eval"], 2, "--benchmark"),
        (["eval", "-b", "shapes", "--nonsense"], 2, "--nonsense"),
        (["distill", "-b", "shapes", "--keep", "two"], 2, "--keep"),
        (["distill", "-b", "shapes", "--keep", "0"], 2, "--keep"),
        (["eval", "-b", "no-such-benchmark"], 2, "no-such-benchmark"),
        (["train-teacher", "-b", "shapes"], 4, "shapes"),
        (["distill", "-b", "shapes", "--keep", "2"], 4, "shapes"),
        (["eval", "-b", "shapes"], 4, "shapes"),
        (["extract-features", "-b", "shapes", "--backbone", "tiny"], 4, "shapes"),
        (["train-teacher", "-b", "shapes", "--recipe", "none"], 2, "none"),
        (["train-teacher", "-b", "shapes", "--recipe", "none.toml"], 4, "none.toml"),
        (["run", "none"], 2, "none"),
        (["eval", "-b", "shapes", "--blind", "foo"], 2, "--blind"),
        (["eval", "-b", "shapes", "--answer", "foo"], 2, "--answer"),
        (["eval", "-b", "shapes", "--role", "foo"], 2, "--role"),
        (["eval", "-b", "shapes", "--rank-norm", "foo"], 2, "--rank-norm"),
        (["eval", "-b", "shapes", "--seed", "-1"], 2, "--seed"),
        (["train-teacher", "-b", "shapes", "--answer", "foo"], 2, "--answer"),
        (["distill", "-b", "shapes", "--keep", "2", "--prompter", "foo"], 2, "--prompter"),
        (["distill", "-b", "shapes", "--keep", "2", "--init", "foo"], 2, "--init"),
        (["extract-frames", "-b", "shapes", "--for", "tiny", "--frames", "0"], 2, "--frames"),
        (
            ["extract-features", "-b", "shapes", "--backbone", "tiny", "--dtype", "foo"],
            2,
            "--dtype",
        ),
        (["artifacts", "show", "nothing"], 4, "nothing"),
    ],
)
def test_errors_are_one_json_object_with_code_message_and_hint(
    arguments: list[str], code: int, named: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    takes_workspace = ["--workspace", str(tmp_path)] if arguments != ["nonsense"] else []
    assert run_command([*arguments, *takes_workspace, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert set(error) == {"code", "message", "hint"}
    assert error["code"] == code
    assert named in error["message"]
    assert error["hint"]


def test_errors_go_to_stderr_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["eval", "-b", "shapes", "-w", str(tmp_path)]) == 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error:" in printed.err
    assert "hint: vqa prepare" in printed.err
    assert "Traceback" not in printed.err


def test_a_traceback_is_shown_with_debug_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["eval", "-b", "shapes", "-w", str(tmp_path), "--debug"]) == 4
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_told_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("stages.artifacts.inspect.workspace_status", broken)
    assert run_command(["status", "-w", str(tmp_path), "--json"]) == 70
    assert (
        "internal error: RuntimeError: a bug"
        in json.loads(capsys.readouterr().out)["error"]["message"]
    )


def test_a_bug_in_a_step_stops_a_run(
    tmp_path: Path, vqa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 1 would mean that the step's artifact is complete."""

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("stages.artifacts.inspect.workspace_status", broken)
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[[step]]\ncommand = ['status']\n[[step]]\ncommand = ['benchmarks']\n")
    outcome = vqa("run", recipe, "-w", tmp_path)
    assert outcome.code == 70
    assert "a bug" in outcome.json["error"]["message"]


def test_an_interrupt_ends_with_130_and_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.artifacts.inspect.workspace_status", interrupted)
    assert run_command(["status", "-w", str(tmp_path), "--json"]) == 130
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == 130
    assert "run the same command again" in error["hint"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("eval -b star", "finished shards are kept"),
        ("train-teacher -b star", "goes on"),
        ("run vlap-star", "finished steps are kept"),
        ("compare a b", "nothing was written"),
        ("artifacts verify --repair", "never used"),
    ],
)
def test_an_interrupt_says_what_is_kept_of_this_command(words: str, told: str) -> None:
    assert told in after_interrupt(words.split())


def test_run_without_a_name_lists_the_recipes(vqa: Callable[..., Any]) -> None:
    from stages.recipes.recipe import recipe_names

    listed = vqa("run").json["recipes"]
    assert [item["recipe"] for item in listed] == recipe_names()
    assert all(item["title"] for item in listed)


def test_an_ambiguous_input_ends_with_2_and_the_list(
    trained_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    workspace = trained_world.copy(tmp_path)
    quick = ("-w", workspace, "--set", "training.epochs=1", "--set", "training.batch_size=12")
    again = vqa("distill", "-b", "shapes", "--keep", 2, *quick, "--seed", 8)
    assert again.code == 0
    outcome = vqa("eval", "-b", "shapes", "-w", workspace)
    assert outcome.code == 2
    assert again.json["artifact"]["id"] in outcome.json["error"]["message"]
    assert outcome.json["error"]["message"].count("shapes-vlap-student-") == 2
    chosen = ("--weights", again.json["artifact"]["id"])
    assert vqa("eval", "-b", "shapes", "-w", workspace, *chosen).code == 0


def test_the_words_that_options_know_are_those_of_the_stages() -> None:
    known = {
        options.ANSWERS: AnswerMode,
        options.BLIND: Blind,
        options.DTYPES: StoredDtype,
        options.PROMPTERS: PrompterName,
        options.RANK_NORMS: VlapConfig.model_fields["rank_norm"].annotation,
        options.ROLES: VlapStageConfig.model_fields["role"].annotation,
        options.VIDEODISTILL_TASKS: TrainedTask,
    }
    for words, named in known.items():
        assert set(words) == set(get_args(named))
    assert set(options.INITS) == set(distill.INITS)
    assert set(options.VIDEODISTILL_VARIANTS) == set(TABLE_4)


# --- hints ---------------------------------------------------------------------------------------


def all_options() -> dict[str, set[str]]:
    """Command to its options."""
    found: dict[str, set[str]] = {}
    for words in commands():
        command: Any = typer.main.get_command(app)
        for name in words:
            command = command.commands[name]
        found[" ".join(words)] = {text for item in command.params for text in item.opts}
    return found


def printed_texts() -> Iterator[tuple[str, str]]:
    """Every string of the source that is no docstring, with where it is."""
    for path in [*(REPOSITORY / "stages").rglob("*.py"), *(REPOSITORY / "vqa_cli").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bare = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and id(node) not in bare:
                yield f"{path.name}:{node.lineno}", str(node.value)


def test_every_option_that_a_message_names_exists() -> None:
    known = {"--help", "--version", "--install-completion"}.union(*all_options().values())
    named = {
        (place, option)
        for place, text in printed_texts()
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)
    }
    assert len(named) > 50
    assert not {(place, option) for place, option in named if option not in known}


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("extract-frames", {"--questions"}),
        ("extract-features", {"--questions", "--frames-from"}),
        ("train-teacher", {"--questions", "--features"}),
        ("distill", {"--questions", "--features", "--teacher", "--weights"}),
        ("eval", {"--questions", "--features", "--weights"}),
    ],
)
def test_a_command_can_settle_every_ambiguity_that_it_can_meet(
    command: str, needed: set[str]
) -> None:
    assert needed <= all_options()[command]


def test_every_command_that_a_message_names_exists() -> None:
    """Also that the options in one piece with it are its own."""
    known = all_options()
    named = [
        (place, *match) for place, text in printed_texts() for match in NAMED_COMMAND.findall(text)
    ]
    commanded = [item for item in named if item[1] not in PROSE]
    assert len(commanded) > 20
    for place, command, given in commanded:
        assert command in known, (place, command)
        assert set(given.split()) <= known[command] | {"--help", "--"}, (place, command, given)


def test_the_module_is_the_command(tmp_path: Path) -> None:
    """One real process: exit code, one JSON object on stdout, nothing else."""
    done = run("eval", "-b", "shapes", "--json", VQA_WORKSPACE=str(tmp_path))
    assert done.returncode == 4
    assert str(tmp_path) in json.loads(done.stdout)["error"]["message"]


# --- settings ------------------------------------------------------------------------------------


def recipe(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_flags_stand_over_the_recipe_and_set_over_flags(tmp_path: Path) -> None:
    path = recipe(tmp_path, "[distill]\nkeep = 1\nframes = 8\n[distill.training]\nseed = 1\n")
    flags: dict[str, Any] = {"keep": 2, "frames": None, "training.seed": 2}
    assert settings("distill", recipe=path) == {"keep": 1, "frames": 8, "training": {"seed": 1}}
    found = settings("distill", recipe=path, **flags)
    assert found == {"keep": 2, "frames": 8, "training": {"seed": 2}}
    overrides = ["keep=4", "training.seed=3"]
    found = settings("distill", recipe=path, overrides=overrides, **flags)
    assert found == {"keep": 4, "frames": 8, "training": {"seed": 3}}


def test_the_precedence_reaches_the_artifact(
    tiny_world: Any, vqa: Callable[..., Any], tmp_path: Path
) -> None:
    path = recipe(
        tmp_path,
        "[train-teacher]\nanswer = 'letter'\n[train-teacher.training]\nepochs = 1\n"
        "batch_size = 12\nseed = 1\n",
    )
    workspace = tiny_world.copy(tmp_path)
    line = ("train-teacher", "-b", "shapes", "-w", workspace, "--recipe", path)
    flags = ("--seed", 2, "--answer", "rank", "--set", "training.seed=3")
    for arguments, seed, answer in ((flags, 3, "rank"), (flags[:4], 2, "rank"), ((), 1, "letter")):
        outcome = vqa(*line, *arguments)
        assert outcome.code == 0, outcome.json
        manifest = Path(outcome.json["artifact"]["path"]) / "manifest.json"
        config = json.loads(manifest.read_text())["config"]
        assert (config["training"]["seed"], config["answer"]) == (seed, answer)
        assert config["training"]["batch_size"] == 12


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", {"a": 1}),
        ("a=1e-4", {"a": 1e-4}),
        ("a=true", {"a": True}),
        ("a=null", {"a": None}),
        ("a=fc_ln", {"a": "fc_ln"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=", {"a": ""}),
        ("a.b.c=[1, 2]", {"a": {"b": {"c": [1, 2]}}}),
        ("a={}", {"a": {}}),
    ],
)
def test_set_reads_json_values_and_plain_words(text: str, value: dict[str, Any]) -> None:
    assert settings("eval", overrides=[text]) == value


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_set_without_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="key=value"):
        settings("eval", overrides=[text])


def test_a_value_is_no_group() -> None:
    with pytest.raises(UsageError, match="single value"):
        settings("eval", overrides=["a=1", "a.b=2"])


def test_plain_progress_says_how_long_it_may_take(capsys: pytest.CaptureFixture[str]) -> None:
    moments = iter([0.0, 0.0, 10.0, 40.0, 41.0])
    console = Console(clock=lambda: next(moments))

    for done in (1, 2, 5, 6):
        console.progress(done, 13, "clips")

    # Four clips in the 40 seconds since the first: eight more take 80.
    assert capsys.readouterr().err.splitlines() == ["clips: 5 of 13, 6.0/min, about 80 s left"]
