"""`vqa artifacts`: list, show, verify and prune what a workspace holds."""

from __future__ import annotations

from typing import Annotated

import typer

from stages.core.errors import MissingInput, VerificationError
from vqa_cli.console import Console
from vqa_cli.options import (
    DEFAULT_WORKSPACE,
    DebugOption,
    JsonOption,
    QuietOption,
    WorkersOption,
    WorkspaceOption,
    open_workspace,
    runtime,
)

app = typer.Typer(
    rich_markup_mode="markdown",
    help="List, show, verify and prune artifacts.",
    no_args_is_help=True,
)


@app.command("ls")
def list_artifacts(
    kind: Annotated[str | None, typer.Argument(help="One kind only.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Every artifact, finished or not."""
    from stages.artifacts.inspect import describe

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    rows = [describe(item) for item in open_workspace(workspace).listings(kind)]
    if as_json:
        console.json({"artifacts": rows})
        return
    console.table(
        "",
        ["artifact", "kind", "state", "items", "failed", "size"],
        [
            [
                str(row["id"]),
                str(row["kind"]),
                str(row["state"]),
                str(row["done"]),
                str(row["failed"]),
                f"{row['bytes'] / 1e6:,.1f} MB",
            ]
            for row in rows
        ],
    )


@app.command("show")
def show(
    reference: Annotated[str, typer.Argument(help="Id, label, id prefix or path.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The manifest of one artifact: config, inputs, files, counts, versions."""
    from stages.artifacts.inspect import find_anywhere

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    console.manifest(find_anywhere(open_workspace(workspace), reference))


@app.command("verify")
def verify(
    references: Annotated[
        list[str] | None, typer.Argument(help="Artifacts; none: all of them.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild what is damaged from its recorded inputs.")
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Re-hash every data file; with --repair rebuild the damaged ones."""
    from stages.artifacts.inspect import check_artifacts, find_anywhere

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    root = open_workspace(workspace)
    if not root.root.is_dir():
        raise MissingInput(f"no workspace at {root.root}", "give it with --workspace")
    chosen = [find_anywhere(root, name) for name in references] if references else None
    problems = check_artifacts(root, chosen, console.progress)
    if problems and repair:
        from stages.repair import repair_artifact

        for path in problems:
            repair_artifact(root, path, runtime(console, workers=workers))
        console.note(f"rebuilt: {', '.join(path.name for path in problems)}")
        problems = check_artifacts(root, chosen, console.progress)
    console.end_progress()
    report = {str(path): lines for path, lines in problems.items()}
    if as_json and not problems:
        console.json({"verified": True, "problems": report})
    if problems:
        raise VerificationError(
            "; ".join(f"{path}: {', '.join(lines)}" for path, lines in report.items()),
            "" if repair else "vqa artifacts verify --repair",
        )
    if not as_json:
        console.note("every data file is what its manifest says")
    return 0


@app.command("prune")
def prune(
    kind: Annotated[
        str | None, typer.Argument(help="Delete unfinished artifacts of this kind only.")
    ] = None,
    artifact: Annotated[
        list[str] | None, typer.Option("--id", help="Delete this finished artifact as well.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; otherwise only say it.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Delete unfinished artifacts that nobody is writing, and finished ones by name."""
    from stages.artifacts.inspect import delete_artifact, find_anywhere, prunable

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    root = open_workspace(workspace)
    doomed = prunable(root, kind) + [find_anywhere(root, name).path for name in artifact or []]
    if not doomed and not as_json:
        console.note("nothing to delete")
    for path in doomed:
        if yes:
            delete_artifact(root, path)
        console.note(f"{'deleted' if yes else 'would delete (--yes)'} {path}")
    if as_json:
        console.json({"deleted": yes, "artifacts": [str(path) for path in doomed]})
