"""`vqa run RECIPE --dry-run --nodes N --gpus G`: the options, and the tables of such a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import UsageError
from vqa_cli.console import Console

if TYPE_CHECKING:
    from stages.bench.cluster import Machines

PANEL = "Other machines, with --dry-run"

NodesOption = Annotated[
    int | None,
    typer.Option("--nodes", min=1, help="Machines [1].", metavar="N", rich_help_panel=PANEL),
]
GpusOption = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        min=0,
        help="Accelerators of each; 0: none, the cores compute [1].",
        metavar="N",
        rich_help_panel=PANEL,
    ),
]
CoresOption = Annotated[
    int | None,
    typer.Option(
        "--cores",
        min=1,
        help="CPU cores of each [as many as this machine has].",
        metavar="N",
        rich_help_panel=PANEL,
    ),
]
PriceOption = Annotated[
    float | None,
    typer.Option(
        "--price",
        min=0,
        help="What an accelerator (a machine without one) costs an hour [not counted].",
        metavar="AMOUNT",
        rich_help_panel=PANEL,
    ),
]
TeraflopsOption = Annotated[
    float | None,
    typer.Option(
        "--tflops",
        help="Useful 1e12 operations a second of one accelerator "
        "[probed where one is here, else assumed and said].",
        metavar="NUMBER",
        rich_help_panel=PANEL,
    ),
]


def asked_machines(
    nodes: int | None,
    gpus: int | None,
    cores: int | None,
    price: float | None,
    teraflops: float | None,
    *,
    dry_run: bool,
) -> Machines | None:
    """The machines that a plan is laid out on; none: none of the options was given.

    Raises:
        UsageError: They were given to a run that is no plan, or hold an impossible value.
    """
    given = {
        "--nodes": nodes, "--gpus": gpus, "--cores": cores, "--price": price,
        "--tflops": teraflops,
    }  # fmt: skip
    named = [name for name, value in given.items() if value is not None]
    if not named:
        return None
    if not dry_run:
        raise UsageError(
            f"{named[0]} is for a plan: it starts no machines",
            "add --dry-run; docs/cluster.md says how to run on several machines",
        )
    if teraflops is not None and not 0 < teraflops < float("inf"):
        raise UsageError(f"--tflops {teraflops}: more than 0", "for example --tflops 125")
    from stages.bench.cluster import Machines
    from stages.bench.probe import cores_here

    there = cores_here() if cores is None else cores
    return Machines(nodes or 1, 1 if gpus is None else gpus, there, price)


def show_cluster(
    commands: list[str], found: dict[str, Any], console: Console, shown: Callable[[float], str]
) -> None:
    """One line a step, the sum, and where the rates are from.

    Args:
        commands: Of the steps.
        found: `cluster` of the plan.
        console: Where to.
        shown: How seconds are written.
    """
    machines = found["machines"]
    columns = ["step", "", "time", "limit", "at work", "decode cores a process", "cost"]
    rows = [
        [
            str(number), command, shown(step["seconds"]), step["limit"], f"{step['processes']:,}",
            _number(step["decode_cores_per_process"]), _number(step["cost"]),
        ]
        for number, (command, step) in enumerate(zip(commands, found["steps"], strict=True), 1)
    ]  # fmt: skip
    title = f"{machines['nodes']} x {machines['gpus']} accelerators, {machines['cores']} cores each"
    console.table(title, columns, rows)
    totals = found["totals"]
    cost = "" if totals["cost"] is None else f", {totals['cost']:,.2f} in money"
    console.note(f"in all {shown(totals['seconds'])}{cost}, the steps one after the other")
    for name, rate in found["rates"].items():
        console.note(f"{name.replace('_', ' ')}: {rate['value']:.4g} ({rate['source']})")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"
