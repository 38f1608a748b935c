"""`vqa status`: what is done, half done, running or stale."""

from __future__ import annotations

from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    JsonOption,
    QuietOption,
    WorkspaceOption,
    open_workspace,
)


def status(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """What exists in a workspace, what is half done, what is stale, and what it came from."""
    from stages.artifacts.inspect import workspace_status

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    found = workspace_status(open_workspace(workspace))
    if as_json:
        console.json(found)
        return
    if not found["artifacts"]:
        console.note(f"nothing in {workspace} yet; try: vqa demo")
        return
    console.table(
        str(workspace),
        ["artifact", "kind", "state", "shards", "done", "failed", "size"],
        [
            [
                row["id"],
                row["kind"],
                row["state"],
                f"{row['shards_done']}/{row['shards']}" if row["shards"] else "-",
                str(row["done"]),
                str(row["failed"]),
                f"{row['bytes'] / 1e6:,.1f} MB",
            ]
            for row in found["artifacts"]
        ],
    )
