"""Which stage a benchmark is evaluated by: questions are answered, texts are ranked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vqa_cli.console import Console

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from stages.artifacts.result import StageResult
    from stages.artifacts.store import Workspace
    from stages.core.runtime import Runtime
    from stages.systems.inputs import EvaluateConfig, EvaluateInputs


class AnsweringStage(Protocol):
    """What `stages.evaluate` and `stages.retrieval` have in common."""

    def evaluate(
        self,
        workspace: Workspace,
        inputs: EvaluateInputs,
        config: EvaluateConfig,
        runtime: Runtime,
    ) -> StageResult: ...

    def plan(
        self,
        workspace: Workspace,
        inputs: EvaluateInputs,
        config: EvaluateConfig,
        runtime: Runtime,
    ) -> dict[str, Any]: ...

    def export_official(
        self, inputs: EvaluateInputs, result: StageResult, destination: Path | None
    ) -> StageResult: ...


def ranks_videos(benchmark: str) -> bool:
    """Whether the benchmark asks for the video of a text."""
    from stages.benchmarks.manifest import load_manifest

    return load_manifest(benchmark).task == "retrieval"


def answers_questions(benchmark: str) -> bool:
    """Whether the benchmark's questions have answers, so that some could be guessed."""
    from stages.benchmarks.manifest import load_manifest

    return load_manifest(benchmark).task not in ("retrieval", "moments")


def answering_stage(benchmark: str) -> AnsweringStage:
    """The stage of a benchmark; see the module."""
    from stages import evaluate, retrieval

    return retrieval if ranks_videos(benchmark) else evaluate


def tell_outlook(
    console: Console, benchmark: str, inputs: EvaluateInputs, config: EvaluateConfig
) -> None:
    """Say what ranking all pairs costs, before it starts."""
    from stages import retrieval

    if ranks_videos(benchmark) and config.system == "videodistill":
        console.note(retrieval.outlook(inputs, config))
