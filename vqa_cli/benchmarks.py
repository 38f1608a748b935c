"""`vqa benchmarks`: what is known, and what is prepared here."""

from __future__ import annotations

from typing import Annotated

import typer

from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    JsonOption,
    QuietOption,
    WorkspaceOption,
    open_workspace,
)


def benchmarks(
    name: Annotated[str | None, typer.Argument(help="One benchmark in full.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The known benchmarks: task, splits, expected counts, licence, where to get the files."""
    from stages.benchmarks.manifest import benchmark_names, load_manifest

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    names = [name] if name else benchmark_names()
    manifests = [load_manifest(item) for item in names]
    prepared = {
        (item.config["benchmark"], item.config["split"])
        for item in open_workspace(workspace).finished("questions")
    }
    if as_json:
        rows = [
            {
                **manifest.as_json(),
                "prepared": [s for s in manifest.splits if (manifest.name, s) in prepared],
            }
            for manifest in manifests
        ]
        console.json({"benchmarks": rows})
        return
    if name:
        console.benchmark(manifests[0], prepared)
        return
    console.table(
        "",
        ["benchmark", "task", "splits", "reported on", "prepared here"],
        [
            [
                manifest.name,
                manifest.task,
                ", ".join(manifest.splits),
                manifest.report_split,
                ", ".join(s for s in manifest.splits if (manifest.name, s) in prepared) or "-",
            ]
            for manifest in manifests
        ],
    )
