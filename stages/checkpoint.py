"""Checkpoints of other code bases: look at one, bring it in, give one back.

Reads: `.pth` archives, safetensors, Hugging Face folders, weights artifacts.   Writes: weights,
backbone folders, and files in the published layouts. Specs: specs/vlap.md 7 and specs/sevila.md 7.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.artifacts.result import StageResult, finished_result
from stages.artifacts.store import Artifact, Workspace
from stages.artifacts.weights import backbone_of
from stages.checkpoints.assembly import joint_report
from stages.checkpoints.choices import ImportChoices
from stages.checkpoints.exports import Target, export_file, export_folder
from stages.checkpoints.weights_import import WeightsImport, plan_imports, write_import
from stages.core.errors import UsageError
from stages.core.runtime import Runtime


def plan_weights(files: Sequence[str], choices: ImportChoices) -> list[WeightsImport]:
    """What `import_weights` would do: one plan per role; writes nothing."""
    return plan_imports(files, choices)


def import_weights(
    workspace: Workspace, plans: Sequence[WeightsImport], choices: ImportChoices, runtime: Runtime
) -> list[StageResult]:
    """Write the weights artifacts of an import.

    Args:
        workspace: Where to write.
        plans: From `plan_weights`.
        choices: What the plans were made from.
        runtime: How to run; its `name` is the label of the first artifact, and with the role
            behind it that of a second one.

    Raises:
        MissingInput: A needed group is filled by nothing.
        DataError: Sizes differ from the base's, or a tower in a file is not the base's.
    """
    for item in plans:
        item.plan.refuse_if_incomplete()
    named = [_named(item, runtime, first=item is plans[0]) for item in plans]
    written = [_write(workspace, item, runtime) for item in named]
    following = _evaluations([artifact for artifact, _, _ in written], choices)
    report = joint_report([item.plan for item in plans])
    return [
        finished_result(
            artifact,
            reused=reused,
            seconds=seconds,
            next_commands=following,
            details={"report": report},
        )
        for artifact, reused, seconds in written
    ]


def _named(item: WeightsImport, runtime: Runtime, *, first: bool) -> WeightsImport:
    if runtime.name is None:
        return item
    label = runtime.name if first else f"{runtime.name}-{item.request.config['role']}"
    return replace(item, request=replace(item.request, label=label))


def _write(
    workspace: Workspace, item: WeightsImport, runtime: Runtime
) -> tuple[Artifact, bool, float]:
    started = time.monotonic()
    with workspace.exclusive(item.request, force=runtime.force) as (draft, done):
        artifact = done or write_import(draft, item)
    return artifact, done is not None, time.monotonic() - started


def _evaluations(artifacts: Sequence[Artifact], choices: ImportChoices) -> list[str]:
    """The command that answers with what was imported."""
    given: dict[str, Any] = {item.config["role"]: item.id for item in artifacts}
    command = f"vqa eval --benchmark {choices.benchmark} --system {choices.system}"
    if choices.system == "vlap":
        return [f"{command} --weights {artifacts[0].id}"]
    for role, option in (("answerer", "--weights"), ("localizer", "--selector")):
        command += f" {option} {given.get(role, 'none')}"
    return [command]


def export_weights(
    workspace: Workspace,
    references: Sequence[str],
    to: Target,
    out: Path,
    *,
    base: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Give weights back in a published layout.

    Args:
        workspace: Where the artifacts are.
        references: Ids, labels or paths of weights artifacts.
        to: `lavis`, `sevila` or `vila`: a `.pth`; `hf`: a folder.
        out: The file or folder.
        base: Backbone of a folder; None: the one that the weights were trained on.
        force: Overwrite a file.

    Raises:
        UsageError: `out` is there already, or the layout has no place for these weights.
        DataError: A tensor has no name in the layout.
    """
    artifacts = [workspace.by_reference("weights", name) for name in references]
    if to == "hf":
        if len(artifacts) != 1:
            raise UsageError("a folder has place for one side", "name one artifact")
        written = export_folder(artifacts[0], base or backbone_of(artifacts[0]), out)
    else:
        if out.exists() and not (force and out.is_file()):
            raise UsageError(f"{out} exists already", "another --out, or --force")
        written = dict(export_file(artifacts, to, out))
    return {
        "command": "checkpoint export",
        "to": to,
        "out": str(out),
        "inputs": [item.id for item in artifacts],
        **written,
        "next": [f"vqa checkpoint inspect {shlex.quote(str(out))}"],
    }
