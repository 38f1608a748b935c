"""`vqa run RECIPE`: the commands of a recipe, one after the other.

A step that ends with 1 (done, with failures above the limit) does not stop the run; any other code
does, that of a bug (70) included.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    open_workspace,
)

if TYPE_CHECKING:
    from stages.recipes.recipe import Recipe


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
        _show_plan(chosen, planned, workspace, console)
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


def _show_plan(
    chosen: Recipe, planned: list[dict[str, Any]], workspace: Path, console: Console
) -> None:
    """Each step's own plan, what it is estimated to take, what is missing and the sums."""
    from stages.bench.plan import recipe_plan

    whole = recipe_plan(chosen, open_workspace(workspace))
    estimates = whole.pop("estimates")
    if console.as_json:
        joined = zip(planned, estimates, strict=True)
        steps = [{**step, "estimate": found} for step, found in joined]
        console.json({"recipe": chosen.name, "title": chosen.title, "steps": steps, **whole})
        return
    console.steps(chosen.title, planned)
    columns = ["step", "", "items", "written at most", "time here", "memory"]
    rows = [
        [str(number), step["command"][0], *_estimate_cells(found)]
        for number, (step, found) in enumerate(zip(planned, estimates, strict=True), 1)
    ]
    console.table("estimated", columns, rows)
    _show_sums(whole, console)


def _show_sums(whole: dict[str, Any], console: Console) -> None:
    """Missing files, sums against the machine, and what no source says."""
    totals = whole["totals"]
    for item in whole["missing"]:
        console.note(f"missing: {item['what']}\n  {item['hint']}")
    console.note(
        f"in all {_size(totals['bytes'])} of features ({_size(totals['free_bytes'])} free), "
        f"{_time(totals['seconds'])} of computing on this machine's {totals['device']} at "
        f"{totals['product_operations_per_second'] / 1e9:,.0f} GFLOP/s, up to "
        f"{_size(totals['memory_bytes'])} of memory ({_size(totals['machine_memory_bytes'])} here)"
    )
    if totals["steps_without_counts"]:
        console.note(f"{totals['steps_without_counts']} steps are not counted: sizes not known")
    for text in whole["unknown"]:
        console.note(f"unknown: {text}")


def _estimate_cells(found: dict[str, Any]) -> list[str]:
    items = "-" if found["items"] is None else f"{found['items']:,} {found['item']}"
    seconds = "-" if found["seconds"] is None else _time(found["seconds"])
    return [items, _size(found["bytes"]), seconds, _size(found["memory_bytes"])]


def _size(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e9:,.1f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _planned(step: list[str]) -> dict[str, Any]:
    """A step with what its own `--dry-run` says, where it has one and its inputs are there."""
    from vqa_cli.main import parser

    command = parser().commands.get(step[0])
    options = {text for parameter in getattr(command, "params", []) for text in parameter.opts}
    if "--dry-run" not in options or (step[0] == "eval" and "--sweep" in step):
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
