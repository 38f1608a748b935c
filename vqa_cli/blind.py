"""`--with-blind`: the same evaluation without the videos, by default where that costs little."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import UsageError
from stages.core.runtime import Runtime
from vqa_cli.answering import answers_questions
from vqa_cli.console import Console
from vqa_cli.options import COMPUTED

if TYPE_CHECKING:
    from stages.artifacts.result import StageResult
    from stages.artifacts.store import Workspace
    from stages.systems.inputs import EvaluateConfig, EvaluateInputs

SMALL = 2_000
"""Questions up to which it is the default."""

WithBlindOption = Annotated[
    bool,
    typer.Option(
        "--with-blind",
        help=f"Answer without the videos as well [if there are at most {SMALL:,} questions].",
        rich_help_panel=COMPUTED,
    ),
]
NoBlindOption = Annotated[
    bool,
    typer.Option(
        "--no-blind",
        help="Answer with the videos alone, however few there are.",
        rich_help_panel=COMPUTED,
    ),
]


def blind_wish(with_blind: bool, no_blind: bool, benchmark: str, **others: Any) -> bool | None:
    """What the two options say; none: nothing.

    Args:
        with_blind: `--with-blind`.
        no_blind: `--no-blind`.
        benchmark: Name of the benchmark.
        others: Options that the first does not go with, and their values; none: not given.

    Raises:
        UsageError: The first cannot be followed.
    """
    if not with_blind:
        return False if no_blind else None
    others["no-blind"] = no_blind or None
    if not answers_questions(benchmark):
        raise UsageError(f"--with-blind: {benchmark} has no questions that could be guessed")
    for name, value in others.items():
        if value is not None:
            raise UsageError(f"--with-blind goes without --{name}")
    return True


def evaluate_with_blind(
    workspace: Workspace,
    inputs: EvaluateInputs,
    config: EvaluateConfig,
    how: Runtime,
    asked: bool | None,
) -> StageResult:
    """Evaluate, without the videos as well if that is asked for or costs little."""
    from stages import evaluate as stage

    if runs_blind(inputs, config, how, asked):
        return stage.evaluate_with_blind(workspace, inputs, config, how)
    return stage.evaluate(workspace, inputs, config, how)


def runs_blind(
    inputs: EvaluateInputs, config: EvaluateConfig, how: Runtime, asked: bool | None
) -> bool:
    """Whether the same is to be done without the videos."""
    if asked is not None:
        return asked
    if config.blind is not None or not how.shards.is_all:
        return False
    count: int = inputs.questions.manifest["counts"]["total"]
    return answers_questions(config.benchmark) and count <= SMALL


def show_drop(console: Console, result: StageResult) -> None:
    """What the videos were worth, in whole and by type."""
    found = result.details.get("blind")
    if found is None or console.as_json:
        return
    rows = [["all", f"{found['drop']:.2f}", _interval(found["drop_ci95"])]]
    rows += [
        [name, f"{part['drop']:.2f}", _interval(part["ci95"])]
        for name, part in found["drop_by_type"].items()
    ]
    title = f"accuracy without the videos ({found['how']}): {found['accuracy']:.2f} %"
    console.data.print(title, markup=False, soft_wrap=True)
    console.table("", ["questions", "points lost", "95 % interval"], rows)


def _interval(ends: list[float] | None) -> str:
    return "{:.2f} - {:.2f}".format(*ends) if ends else "-"
