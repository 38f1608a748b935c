"""`vqa run RECIPE`: the commands of a recipe, one after the other.

A step that ends with 1 (done, with failures above the limit) does not stop the run; any other code
does, that of a bug (70) included.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from typing import Annotated, Any

import typer

from stages.core.errors import ConfigError, MissingInput
from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    DryRunOption,
    JsonOption,
    QuietOption,
    WorkspaceOption,
)


def run(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a TOML file.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Run the stages of a recipe in order; what is finished is reused."""
    from stages.recipes.recipe import load_recipe

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    chosen = load_recipe(recipe)
    if not chosen.steps:
        raise ConfigError(
            f"recipe {recipe} has no [[step]]", "give its settings to a command with --recipe"
        )
    steps = [[*step, "--workspace", str(workspace)] for step in chosen.steps]
    if dry_run:
        planned = [_planned(step) for step in steps]
        if as_json:
            console.json({"recipe": chosen.name, "title": chosen.title, "steps": planned})
        else:
            console.steps(chosen.title, planned)
        return 0
    done: list[dict[str, Any]] = []
    worst = 0
    for step in steps:
        console.note("vqa " + shlex.join(step))
        code, output = _run_step(step, as_json, quiet)
        if code > 1:
            if as_json:
                console.json(output)
            return code
        worst = max(worst, code)
        done.append(output)
    if as_json:
        console.json({"recipe": chosen.name, "steps": done})
    return worst


def _planned(step: list[str]) -> dict[str, Any]:
    """A step with what its own `--dry-run` says, where it has one and its inputs are there."""
    from vqa_cli.main import app

    root: Any = typer.main.get_command(app)
    command = root.commands.get(step[0])
    options = {text for parameter in getattr(command, "params", []) for text in parameter.opts}
    if "--dry-run" not in options:
        return {"command": step, "plan": None, "note": ""}
    code, output = _run_step([*step, "--dry-run"], as_json=True, quiet=True)
    if code == 0:
        return {"command": step, "plan": output, "note": ""}
    if code == MissingInput.exit_code:
        return {"command": step, "plan": None, "note": "needs the step before"}
    error = output["error"]
    return {
        "command": step,
        "plan": None,
        "note": f"exit {error['code']}: {error['message']} ({error['hint']})",
    }


def _run_step(step: list[str], as_json: bool, quiet: bool) -> tuple[int, dict[str, Any]]:
    """Run one command line in this process; its JSON is caught when ours is wanted."""
    from vqa_cli.main import run_command

    arguments = [*step, *(["--quiet"] if quiet else [])]
    if not as_json:
        return run_command(arguments), {}
    caught = io.StringIO()
    with contextlib.redirect_stdout(caught):
        code = run_command([*arguments, "--json"])
    return code, json.loads(caught.getvalue())
