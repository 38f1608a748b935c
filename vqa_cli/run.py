"""`vqa run RECIPE`: the commands of a recipe, one after the other.

A step that ends with 1 (done, with failures above the limit) does not stop the run; any other code
does, that of a bug (70) included.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import ConfigError, MissingInput
from vqa_cli import completion
from vqa_cli.cluster import (
    CoresOption,
    GpusOption,
    NodesOption,
    PriceOption,
    TeraflopsOption,
    asked_machines,
    show_cluster,
)
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
    from stages.bench.cluster import Machines
    from stages.recipes.recipe import Recipe

MADE_BY = {
    "prepare": "questions",
    "extract-frames": "frames",
    "extract-features": "features",
    "pseudo-label": "pseudo-labels",
    "train-teacher": "weights",
    "distill": "weights",
    "train-answerer": "weights",
    "train-localizer": "weights",
    "refine-localizer": "weights",
    "train-videodistill": "weights",
    "pretrain-videodistill": "weights",
    "eval": "predictions",
}
"""Command -> the kind of artifact that it writes."""
OF_ONE_BENCHMARK = ("questions", "frames", "features")
"""Kinds that serve their own benchmark only."""
NO_STEPS = {
    "run": "a recipe cannot run recipes: write their steps into this one",
    "bench": "bench measures the machine: it is no part of a run",
}
HELP = ("--help", "-h")
MEMORY = ("host_bytes", "worker_bytes", "device_bytes")


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Name of a shipped recipe, or a TOML file [none: list the shipped ones].",
            autocompletion=completion.recipes,
            show_default=False,
        ),
    ] = None,
    dry_run: DryRunOption = False,
    nodes: NodesOption = None,
    gpus: GpusOption = None,
    cores: CoresOption = None,
    price: PriceOption = None,
    tflops: TeraflopsOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Run the stages of a recipe in order; what is finished is reused."""
    from stages.recipes.recipe import load_recipe

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    if recipe is None:
        _list_recipes(console)
        return 0
    machines = asked_machines(nodes, gpus, cores, price, tflops, dry_run=dry_run)
    chosen = load_recipe(recipe)
    if not chosen.steps:
        raise ConfigError(
            f"recipe {recipe} has no [[step]]", "give its settings to a command with --recipe"
        )
    _refuse_odd_steps(chosen)
    steps = [[*step, "--workspace", str(workspace)] for step in chosen.steps]
    if dry_run:
        planned = [_planned(step, steps[:number]) for number, step in enumerate(steps)]
        _show_plan(chosen, planned, workspace, console, machines, tflops)
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


def _list_recipes(console: Console) -> None:
    """The shipped recipes, each with what it is for."""
    from stages.recipes.recipe import load_recipe, recipe_names

    found = [load_recipe(name) for name in recipe_names()]
    if console.as_json:
        console.json({"recipes": [{"recipe": item.name, "title": item.title} for item in found]})
        return
    console.table("", ["recipe", "what for"], [[item.name, item.title] for item in found])
    console.note("vqa run RECIPE --dry-run shows its steps")


def _refuse_odd_steps(chosen: Recipe) -> None:
    """Before the first step: none runs a recipe, measures or only explains itself."""
    for number, step in enumerate(chosen.steps, 1):
        place = f"recipe {chosen.name}, step {number}"
        if step[0] in NO_STEPS:
            raise ConfigError(f"{place}: {step[0]} cannot be a step", NO_STEPS[step[0]])
        for option in HELP:
            if option in step:
                raise ConfigError(f"{place}: {option} runs nothing", "leave it out")


def _show_plan(
    chosen: Recipe,
    planned: list[dict[str, Any]],
    workspace: Path,
    console: Console,
    machines: Machines | None,
    teraflops: float | None,
) -> None:
    """Each step's own plan, what it is estimated to take, what is missing and the sums."""
    from stages.bench.plan import recipe_plan

    whole = recipe_plan(chosen, open_workspace(workspace), machines=machines, teraflops=teraflops)
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
    if machines is not None:
        commands = [step["command"][0] for step in planned]
        show_cluster(commands, whole["cluster"], console, _time)


def _show_sums(whole: dict[str, Any], console: Console) -> None:
    """Missing files, sums against the machine, and what no source says."""
    totals = whole["totals"]
    memory = _sum(totals["memory_bytes"], _size)
    for item in whole["missing"]:
        console.note(f"missing: {item['what']}\n  {item['hint']}")
    console.note(
        f"in all {_sum(totals['bytes'], _size)} of features ({_size(totals['free_bytes'])} free), "
        f"{_sum(totals['seconds'], _time)} of computing on this machine's {totals['device']} at "
        f"{totals['product_operations_per_second'] / 1e9:,.0f} GFLOP/s, up to "
        f"{memory} of memory ({_size(totals['machine_memory_bytes'])} here)"
    )
    if totals["steps_without_counts"]:
        console.note(f"{totals['steps_without_counts']} steps are not counted: sizes not known")
    for text in whole["unknown"]:
        console.note(f"unknown: {text}")


def _estimate_cells(found: dict[str, Any]) -> list[str]:
    items = "-" if found["items"] is None else f"{found['items']:,} {found['item']}"
    seconds = "-" if found["seconds"] is None else _time(found["seconds"])
    return [items, _size(found["bytes"]), seconds, _size(_memory(found))]


def _memory(found: dict[str, Any]) -> int | None:
    """Of the process and its workers, and on the accelerator."""
    return None if found["memory"] is None else sum(found["memory"][name] for name in MEMORY)


def _sum(value: float | None, shown: Callable[[Any], str]) -> str:
    return "unknown" if value is None else shown(value)


def _size(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value / 1e9:,.1f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _planned(step: list[str], before: Sequence[list[str]]) -> dict[str, Any]:
    """A step with what its own `--dry-run` says, where it has one and its inputs are there.

    Args:
        step: Its command line.
        before: Those of the steps before it.
    """
    from vqa_cli.main import parser

    command = parser(step[0]).commands.get(step[0])
    options = {text for parameter in getattr(command, "params", []) for text in parameter.opts}
    if "--dry-run" not in options or (step[0] == "eval" and "--sweep" in step):
        return {"command": step, "plan": None, "note": ""}
    code, output = _run_step([*step, "--dry-run"], as_json=True, quiet=True)
    if code == 0:
        return {"command": step, "plan": output, "note": ""}
    error = output["error"]
    note = f"{error['message']} ({error['hint']})" if error["hint"] else error["message"]
    if code != MissingInput.exit_code:
        note = f"exit {code}: {note}"
    elif _is_made(_missing_kind(error), step, before):
        note = "needs the step before"
    return {"command": step, "plan": None, "note": note}


def _missing_kind(error: dict[str, Any]) -> str | None:
    """The kind of artifact that is not there: the hint says what makes it, or the message what."""
    for command in re.findall(r"vqa ([a-z-]+)", error["hint"]):
        if command in MADE_BY:
            return MADE_BY[command]
    return next((kind for kind in MADE_BY.values() if f" {kind} " in error["message"]), None)


def _is_made(kind: str | None, step: list[str], before: Sequence[list[str]]) -> bool:
    """Whether one of the steps before writes an artifact of that kind that this one could use."""
    return any(
        kind is not None
        and MADE_BY.get(other[0]) == kind
        and (kind not in OF_ONE_BENCHMARK or _benchmark(other) == _benchmark(step))
        for other in before
    )


def _benchmark(step: list[str]) -> str | None:
    return step[step.index("--benchmark") + 1] if "--benchmark" in step[:-1] else None


def _run_step(step: list[str], as_json: bool, quiet: bool) -> tuple[int, dict[str, Any]]:
    """Run one command line in this process; its JSON is caught when ours is wanted."""
    from vqa_cli.main import run_command

    arguments = [*step, *(["--quiet"] if quiet else [])]
    if not as_json:
        return run_command(arguments), {}
    caught = io.StringIO()
    with contextlib.redirect_stdout(caught):
        code = run_command([*arguments, "--json"])
    try:
        return code, json.loads(caught.getvalue())
    except json.JSONDecodeError:
        raise ConfigError(
            f"the step `vqa {shlex.join(step)}` prints no JSON",
            "leave it out, or run without --json",
        ) from None
