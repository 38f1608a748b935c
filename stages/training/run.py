"""One run of training, from a request to a finished weights artifact."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from stages.artifacts import atomic
from stages.artifacts.locks import locked
from stages.artifacts.result import StageResult, finished_result
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.artifacts.weights import write_weights
from stages.core.runtime import Runtime
from stages.models.backbones.catalog import backbone_host
from stages.models.parameters import parameter_counts
from stages.training.loop import BEST_FILE, METRICS_FILE, STATE_FILE, Fit

Trained = Callable[[nn.Module], dict[str, Tensor]]
Facts = Callable[[nn.Module], dict[str, Any]]


def no_facts(model: nn.Module) -> dict[str, Any]:
    """Nothing to say about the trained model beyond what every training says."""
    return {}


def reuse_weights(
    workspace: Workspace,
    request: Request,
    runtime: Runtime,
    next_commands: list[str],
    notes: list[str],
) -> StageResult | None:
    """The finished artifact of `request`, if there is one and it is not to be rebuilt."""
    existing = None if runtime.force else workspace.existing(request)
    if existing is None:
        return None
    return finished_result(
        existing,
        reused=True,
        seconds=0.0,
        next_commands=next_commands,
        notes=[*notes, *_summary(existing)],
        details=_details(existing),
    )


def run_training(
    workspace: Workspace,
    request: Request,
    runtime: Runtime,
    accelerator: Accelerator,
    backbone: str,
    build: Callable[[Path], Fit],
    trained: Trained,
    next_commands: list[str],
    notes: list[str],
    *,
    facts: Facts = no_facts,
    left_out: frozenset[str] = frozenset(),
) -> StageResult:
    """Train under the draft's lock and finish the weights artifact.

    With several processes the main one holds the lock and writes; the others follow it.

    Args:
        workspace: Where to write.
        request: The weights artifact.
        runtime: How to run.
        accelerator: From `make_accelerator`.
        backbone: Name or folder of the backbone.
        build: Makes the run of training, given the directory for its state.
        trained: The tensors that the weights artifact holds, of the trained model.
        next_commands: What a user would type next.
        notes: What was chosen.
        facts: Further facts about the trained model for the manifest, under names of their own.
        left_out: Files of the draft that are deleted when it is finished, besides the state.
    """
    started = time.monotonic()
    draft = Draft(workspace, request)
    if accelerator.is_main_process:
        draft = workspace.draft(request, force=runtime.force)
        with locked(draft.lock_path()):
            atomic.make_directory(draft.path)
            done = None if runtime.force else workspace.existing(request)
            finished = _announce(accelerator, done is not None)
            artifact = done or _train(draft, build, trained, accelerator, backbone, facts, left_out)
        accelerator.wait_for_everyone()
    else:
        finished = _announce(accelerator, False)
        if not finished:
            build(draft.path).run()
        accelerator.wait_for_everyone()
        artifact = workspace.open(draft.path)
    return finished_result(
        artifact,
        reused=finished,
        seconds=time.monotonic() - started,
        next_commands=next_commands,
        notes=[*notes, *_summary(artifact)],
        details=_details(artifact),
    )


def _announce(accelerator: Accelerator, finished: bool) -> bool:
    """Tell every process whether the main one found the artifact finished."""
    if accelerator.num_processes == 1:
        return finished
    message = [finished]
    broadcast_object_list(message)
    return bool(message[0])


def _train(
    draft: Draft,
    build: Callable[[Path], Fit],
    trained: Trained,
    accelerator: Accelerator,
    backbone: str,
    facts: Facts,
    left_out: frozenset[str],
) -> Artifact:
    fit = build(draft.path)
    result = fit.run()
    fit.model.load_state_dict(result.weights, strict=False)
    write_weights(draft, trained(fit.model))
    outcome = {
        "best_epoch": result.best_epoch,
        "tune_accuracy": result.best_accuracy,
        "forward_passes": result.forward_passes,
        "parameters": parameter_counts(fit.model),
    }
    questions = len(fit.data)
    return draft.finish(
        {"total": questions, "done": questions, "failed": 0},
        logs=frozenset({METRICS_FILE}),
        left_out=left_out | {STATE_FILE, BEST_FILE},
        extra={"training": outcome, **facts(fit.model)},
        host=backbone_host(backbone) | {"processes": accelerator.num_processes},
    )


def _details(artifact: Artifact) -> dict[str, Any]:
    """What the JSON says about a training: its course, and what changed in a refinement."""
    manifest = artifact.manifest
    return {name: manifest[name] for name in ("training", "change") if name in manifest}


def _summary(artifact: Artifact) -> list[str]:
    facts = artifact.manifest["training"]
    if facts["tune_accuracy"] is None:
        return [f"no tune split: the weights of the last epoch are kept ({facts['best_epoch']})"]
    return [f"tune accuracy {facts['tune_accuracy']:.2f} in epoch {facts['best_epoch']}"]
