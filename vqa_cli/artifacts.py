"""`vqa artifacts`: list, show, verify and prune what a workspace holds."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from stages.core.errors import DataError, MissingInput, VerificationError
from vqa_cli import completion
from vqa_cli.catalogue import epilog
from vqa_cli.console import Console
from vqa_cli.options import (
    COMPUTED,
    DEFAULT_WORKSPACE,
    RUN,
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
)


@app.command("ls", epilog=epilog("artifacts ls"))
def list_artifacts(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="One kind only [all].", autocompletion=completion.words(*completion.KINDS)
        ),
    ] = None,
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


@app.command("show", epilog=epilog("artifacts show"))
def show(
    reference: Annotated[
        str,
        typer.Argument(help="Id, label, id prefix or path.", autocompletion=completion.references),
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """The manifest of one artifact: config, inputs, files, counts, versions."""
    from stages.artifacts.inspect import find_anywhere

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    found = find_anywhere(open_workspace(workspace), reference)
    if found.artifact is None:
        raise DataError(found.problem, found.way_out or _deleting(workspace, [found.id]))
    console.manifest(found.artifact)


@app.command("verify", epilog=epilog("artifacts verify"))
def verify(
    references: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids, labels or paths [all of them].", autocompletion=completion.references
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Rebuild what is damaged from its recorded inputs.",
            rich_help_panel=COMPUTED,
        ),
    ] = False,
    workers: WorkersOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
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

        # Without its manifest nobody knows how an artifact was made.
        known = [path for path in problems if root.listing(path).artifact is not None]
        for path in known:
            repair_artifact(root, path, runtime(console, workers=workers))
        if known:
            console.note(f"rebuilt: {', '.join(path.name for path in known)}")
        problems = check_artifacts(root, chosen, console.progress)
    console.end_progress()
    report = {str(path): lines for path, lines in problems.items()}
    if as_json and not problems:
        console.json({"verified": True, "problems": report})
    if problems:
        left = [path.name for path in problems]
        hint = _deleting(workspace, left) if repair else _repairing(workspace, references or [])
        raise VerificationError("\n".join(map(_damage_line, report, report.values())), hint)
    if not as_json:
        console.note("every data file is what its manifest says")
    return 0


def _repairing(workspace: Path, references: list[str]) -> str:
    """The command line that repairs these, or all."""
    return _line(workspace, "verify", *references, "--repair")


def _deleting(workspace: Path, ids: list[str]) -> str:
    """The command line that deletes what cannot be repaired."""
    named = [word for name in ids for word in ("--id", name)]
    return f"make it again after: {_line(workspace, 'prune', *named, '--yes')}"


def _line(workspace: Path, *words: str) -> str:
    where = [] if workspace == DEFAULT_WORKSPACE else ["--workspace", str(workspace)]
    return shlex.join(["vqa", "artifacts", *words, *where])


def _damage_line(path: str, problems: list[str]) -> str:
    """One artifact's damage; a problem that names the path itself does not get it twice."""
    told = ", ".join(problems)
    return told if path in told else f"{path}: {told}"


@app.command("prune", epilog=epilog("artifacts prune"))
def prune(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="Delete unfinished artifacts of this kind only [all].",
            autocompletion=completion.words(*completion.KINDS),
        ),
    ] = None,
    artifact: Annotated[
        list[str] | None,
        typer.Option(
            "--id",
            help="Delete this finished artifact as well; may be repeated [none].",
            metavar="ID",
            autocompletion=completion.references,
        ),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="Do it; otherwise only say it.",
            rich_help_panel=RUN,
        ),
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Delete unfinished artifacts that nobody is writing, and finished ones by name."""
    from stages.artifacts.inspect import (
        check_deletable,
        delete_artifact,
        find_anywhere,
        prunable,
    )

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    root = open_workspace(workspace)
    doomed = prunable(root, kind) + [find_anywhere(root, name).path for name in artifact or []]
    if not doomed and not as_json:
        console.note("nothing to delete")
    for path in doomed:
        check_deletable(root, path)
    for path in doomed:
        if yes:
            delete_artifact(root, path)
        console.note(f"{'deleted' if yes else 'would delete (--yes)'} {path}")
    if as_json:
        console.json({"deleted": yes, "artifacts": [str(path) for path in doomed]})
