"""`vqa doctor`: what works on this machine, and what to do about what does not."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from vqa_cli import completion
from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    INPUTS,
    DebugOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    WorkspaceOption,
)

UNUSABLE = 5
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="Hold disk and memory against what this recipe's plan needs [none].",
        rich_help_panel=INPUTS,
        autocompletion=completion.recipes,
    ),
]
STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def doctor(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    device: DeviceOption = "auto",
    recipe: RecipeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Try what every command needs: decoders, arithmetic, disk and locks, embedded backbones.

    Exit code 5 when something needed fails. With --quiet only warnings and failures are shown.
    """
    from stages.doctor import examine, summary
    from stages.recipes.recipe import load_recipe

    plan = load_recipe(recipe) if recipe else None
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    checks = []
    for check in examine(workspace, device, plan):
        checks.append(check)
        if not as_json and not (quiet and check.state == "ok"):
            line = Text.assemble((f"{check.state:<8}", STYLES[check.state]), f"{check.name}: ")
            console.data.print(line + Text(check.found), soft_wrap=True)
            if check.advice:
                console.data.print(Text(f"        {check.advice}", style="dim"), soft_wrap=True)
    found = summary(checks)
    if as_json:
        console.json(found)
    else:
        console.note(f"{found['failed']} failed, {found['warnings']} warnings")
    return UNUSABLE if found["failed"] else 0
