"""`--sweep` of a training command: every combination trained, and answered with if wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.errors import ConfigError, UsageError
from stages.core.runtime import Runtime
from vqa_cli.answering import answering_stage
from vqa_cli.console import Console
from vqa_cli.settings import assign
from vqa_cli.sweep import check_plot, draw_sweep

if TYPE_CHECKING:
    from stages.artifacts.result import StageResult
    from stages.artifacts.store import Workspace

Settings = dict[str, Any]
FIGURES = ("accuracy", "R@1", "keyframe_recall", "keyframe_precision")


def swept(
    values: Mapping[str, Any], combined: Sequence[Settings]
) -> Iterator[tuple[str, Settings]]:
    """Each combination in words, and the settings that it gives over `values`."""
    for settings in combined:
        merged = copy.deepcopy(dict(values))
        for name, value in settings.items():
            assign(merged, "training.seed" if name == "seed" else name, value)
        yield ", ".join(f"{name} {value}" for name, value in settings.items()), merged


class TrainingSweep:
    """One command's combinations, trained one after the other; what is finished is reused.

    Args:
        console: Where the table goes.
        workspace: Where the weights are.
        how: How to run.
        benchmark: Whose report split is answered.
        blind: Answer it in this way as well; none: with the videos only.
    """

    def __init__(
        self,
        console: Console,
        workspace: Workspace,
        how: Runtime,
        benchmark: str,
        blind: str | None,
    ) -> None:
        self.console, self.workspace, self.how = console, workspace, how
        self.benchmark, self.blind = benchmark, blind

    def run(
        self,
        values: Mapping[str, Any],
        combined: Sequence[Settings],
        train: Callable[[Settings], StageResult],
        *,
        evaluate: bool,
        plot: Path | None = None,
    ) -> None:
        """Train each combination over `values`; an impossible one is skipped with its reason.

        `plot` names the file of the curve; none: there is no curve.
        """
        check_plot(plot, combined)
        rows = [
            self._row(label, settings, merged, train, evaluate)
            for settings, (label, merged) in zip(combined, swept(values, combined), strict=True)
        ]
        measured = [(row["settings"], row["metrics"]) for row in rows if "metrics" in row]
        draw_sweep(self.console, plot, f"{self.benchmark}, VideoDistill", measured)
        self.console.end_progress()
        if self.console.as_json:
            self.console.json({"command": "train-videodistill", "sweep": rows})
            return
        names = list(combined[0])
        figures = [name for name in FIGURES if any(name in row.get("metrics", {}) for row in rows)]
        heads = [*names, "tune", *figures, *(["blind"] if self.blind else []), "weights"]
        self.console.table("", heads, [self._cells(row, names, figures) for row in rows])

    def _row(
        self,
        label: str,
        settings: Settings,
        merged: Settings,
        train: Callable[[Settings], StageResult],
        evaluate: bool,
    ) -> dict[str, Any]:
        self.console.note(label)
        try:
            result = train(merged)
        except (UsageError, ConfigError) as error:
            return {"settings": settings, "skipped": error.message}
        row = {"settings": settings, **result.as_json("train-videodistill")}
        if evaluate:
            weights = str(row["artifact"]["id"])
            row["metrics"] = self._metrics(weights, None)
            if self.blind:
                row["blind"] = self._metrics(weights, self.blind)
        return row

    def _metrics(self, weights: str, blind: str | None) -> dict[str, Any]:
        """What the network comes to on the report split, as `vqa eval` says it."""
        from stages.systems.inputs import evaluate_config, find_inputs

        inputs = find_inputs(
            self.workspace, self.benchmark, None, system="videodistill", weights=weights
        )
        given = {} if blind is None else {"blind": blind}
        config = evaluate_config(inputs, given, self.how.device)
        result = answering_stage(self.benchmark).evaluate(self.workspace, inputs, config, self.how)
        return dict(result.details["metrics"])

    def _cells(self, row: dict[str, Any], names: list[str], figures: list[str]) -> list[str]:
        own = [str(row["settings"][name]) for name in names]
        blind = ["-"] if self.blind else []
        if "skipped" in row:
            return [*own, row["skipped"], *("" for _ in figures), *blind, ""]
        metrics = row.get("metrics", {})
        if self.blind:
            blind = [_shown(row.get("blind", {}).get("accuracy"))]
        return [
            *own,
            _shown(row["training"]["tune_accuracy"]),
            *(_shown(metrics.get(name)) for name in figures),
            *blind,
            str(row["artifact"]["id"]),
        ]


def _shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "-"
