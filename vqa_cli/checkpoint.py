"""`vqa checkpoint`: look at weights of other code bases, bring them in, give them back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from stages.core.errors import UsageError
from vqa_cli import completion
from vqa_cli.catalogue import epilog
from vqa_cli.console import Console
from vqa_cli.options import (
    ANSWERS,
    COMPUTED,
    DEFAULT_WORKSPACE,
    INPUTS,
    OUTPUT,
    DebugOption,
    DryRunOption,
    ForceOption,
    JsonOption,
    NameOption,
    QuietOption,
    SetOption,
    WorkspaceOption,
    one_of,
    open_workspace,
    runtime,
)
from vqa_cli.settings import settings

app = typer.Typer(
    rich_markup_mode="markdown",
    help="Look at SeViLA, ViLA, LAVIS and Hugging Face weights, bring them in, give them back.",
)

TARGETS = ("vlap", "sevila", "backbone")
LAYOUTS = ("lavis", "sevila", "vila", "hf")
ROLES = ("teacher", "start", "student", "answerer", "localizer")
PRECISIONS = ("float32", "bfloat16", "float16")
PRESETS = ("paper", "reference")
NOT_OF_FOLDERS = (
    "benchmark", "role", "frames", "keep", "answer", "preset", "precision", "overrides", "name",
    "force",
)  # fmt: skip
"""Parameters of an import that `--as backbone` has no use for."""

FilesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="[PART=]FILE...",
        help="File, Hugging Face folder or an artifact's folder; PART= says what it is taken for "
        "(answerer, localizer, vision, language, qformer, ...).",
    ),
]
AsOption = Annotated[
    str,
    typer.Option(
        "--as",
        help="vlap, sevila, or backbone (a folder).",
        callback=one_of("--as", TARGETS),
        metavar="NAME",
        autocompletion=completion.words(*TARGETS),
    ),
]
BaseOption = Annotated[
    str,
    typer.Option(
        "--base",
        help="Backbone or folder: sizes, head counts and missing towers.",
        metavar="NAME|FOLDER",
        autocompletion=completion.backbones,
    ),
]
BenchmarkOption = Annotated[
    str | None,
    typer.Option(
        "--benchmark",
        "-b",
        help="What the weights were trained on [none: needed by vlap and sevila].",
        metavar="NAME",
        autocompletion=completion.benchmarks,
    ),
]
RoleOption = Annotated[
    str | None,
    typer.Option(
        "--role",
        help="teacher, start or student; answerer or localizer [what the files hold].",
        callback=one_of("--role", ROLES),
        rich_help_panel=INPUTS,
        metavar="NAME",
        autocompletion=completion.words(*ROLES),
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-missing",
        metavar="GROUP",
        help="A group that no file has: the base's own is taken; repeat for several [none].",
        rich_help_panel=INPUTS,
    ),
]
FramesOption = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        help="Frames the network sees [what the files say; of sevila 32].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
KeepOption = Annotated[
    int | None,
    typer.Option(
        "--keep",
        min=1,
        help="Frames it keeps [what the files say; of sevila 4].",
        rich_help_panel=COMPUTED,
        metavar="N",
    ),
]
AnswerOption = Annotated[
    str,
    typer.Option(
        "--answer",
        help="letter or rank.",
        callback=one_of("--answer", ANSWERS),
        rich_help_panel=COMPUTED,
        metavar="HOW",
        autocompletion=completion.words(*ANSWERS),
    ),
]
PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        help="VLAP: paper, or reference: the published code's choices.",
        callback=one_of("--preset", PRESETS),
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words(*PRESETS),
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Arithmetic in evaluation: float32, bfloat16, or float16 (the references').",
        callback=one_of("--precision", PRECISIONS),
        rich_help_panel=COMPUTED,
        metavar="NAME",
        autocompletion=completion.words(*PRECISIONS),
    ),
]


@app.command("inspect", epilog=epilog("checkpoint inspect"))
def inspect(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="File, Hugging Face folder, or id of a weights artifact.",
            autocompletion=completion.ids_of("weights"),
        ),
    ],
    names: Annotated[
        bool,
        typer.Option(
            "--names",
            help="Every name with its shape, layer numbers left out.",
            rich_help_panel=COMPUTED,
        ),
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """What a checkpoint is and holds; nothing in it is loaded or executed."""
    from stages.checkpoints.inspection import inspect_checkpoint

    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    found = inspect_checkpoint(_file_or_weights(reference, workspace))
    if as_json:
        console.json(found)
        return
    _tell_contents(console, found, names=names)


def _file_or_weights(reference: str, workspace: Path) -> Path:
    """What is called `reference`: on disk, else among the workspace's weights."""
    path, root = Path(reference), open_workspace(workspace)
    if path.exists() or not root.root.is_dir():
        return path
    return root.by_reference("weights", reference).path


def _tell_contents(console: Console, found: dict[str, Any], *, names: bool) -> None:
    def say(text: str) -> None:
        console.data.print(text, markup=False, soft_wrap=True)

    say(f"{found['path']}: {found['described']} ({found['kind']})")
    say(
        f"{found['tensors']:,} tensors, {found['parameters']:,} parameters, "
        f"{found['bytes']:,} bytes; {_types(found['dtypes'])}"
    )
    console.table(
        "",
        ["group", "tensors", "parameters", "types"],
        [
            [
                group["group"],
                f"{group['tensors']:,}",
                f"{group['parameters']:,}",
                _types(group["dtypes"]),
            ]
            for group in found["groups"]
        ],
    )
    for group in found["groups"] if names else []:
        for item in group["names"]:
            say(f"{item['count']:>5} x {item['name']} {item['shape']} {item['dtype']}")
    for name, item in found["left_overs"].items():
        say(f"beside the weights: {name}, {item['tensors']:,} tensors of {item['elements']:,}")
    for note in found["notes"]:
        console.note(f"note: {note}")
    for command in found["next"]:
        console.note(f"next:\n  {command}")


def _types(counts: dict[str, int]) -> str:
    return ", ".join(f"{dtype} x {count:,}" for dtype, count in counts.items())


@app.command("import", epilog=epilog("checkpoint import"))
def import_checkpoint(
    context: typer.Context,
    files: FilesArgument,
    target: AsOption,
    base: BaseOption,
    benchmark: BenchmarkOption = None,
    role: RoleOption = None,
    allow_missing: AllowOption = None,
    frames: FramesOption = None,
    keep: KeepOption = None,
    answer: AnswerOption = "letter",
    preset: PresetOption = "paper",
    precision: PrecisionOption = "float32",
    overrides: SetOption = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    name: NameOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="New folder, with --as backbone [none].",
            rich_help_panel=OUTPUT,
            metavar="PATH",
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Bring weights of other code bases into a weights artifact, or into a backbone folder."""
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    if target == "backbone":
        _refuse_given(context, NOT_OF_FOLDERS)
        return _backbone(console, files, base, out, allow_missing or [], dry_run)
    if out is not None:
        raise UsageError(f"--out is for --as backbone; {target} weights go into the workspace")
    if benchmark is None:
        raise UsageError(
            f"--as {target} needs --benchmark: what the weights were trained on",
            "other benchmarks can be answered with them as well",
        )
    _refuse_in_file(workspace, "--workspace")
    from stages.checkpoint import import_weights, plan_weights
    from stages.checkpoints.assembly import joint_report
    from stages.checkpoints.choices import ImportChoices

    choices = ImportChoices(
        target,  # type: ignore[arg-type]
        base,
        _known_benchmark(benchmark),
        roles=(role,) if role else (),
        frames=frames,
        keep=keep,
        answer=answer,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        preset=preset,
        allow_missing=tuple(allow_missing or ()),
        model=_network_settings(overrides),
    )
    plans = plan_weights(files, choices)
    report = joint_report([item.plan for item in plans])
    _tell_plan(console, report)
    for item in plans:
        item.plan.refuse_if_incomplete()
    if dry_run:
        _tell_dry_run(console, {"artifacts": [item.request.id for item in plans]}, report)
        return 0
    results = import_weights(
        open_workspace(workspace), plans, choices, runtime(console, force=force, name=name)
    )
    console.stage("checkpoint import", results)
    return 0


@app.command("export", epilog=epilog("checkpoint export"))
def export(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...",
            help="Weights; for sevila answerer and localizer, for vila perhaps the teacher second.",
            autocompletion=completion.ids_of("weights"),
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="lavis, sevila or vila: a .pth; hf: a folder.",
            callback=one_of("--to", LAYOUTS),
            metavar="NAME",
            autocompletion=completion.words(*LAYOUTS),
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="File or folder to write.",
            metavar="PATH",
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="With hf: the backbone [the weights' own].",
            metavar="NAME|FOLDER",
            autocompletion=completion.backbones,
        ),
    ] = None,
    force: ForceOption = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Give weights back in a published layout."""
    from stages.checkpoint import export_weights

    _refuse_in_file(out.parent, "--out")
    console = Console(as_json=as_json, quiet=quiet, debug=debug)
    written = export_weights(
        open_workspace(workspace),
        references,
        to,  # type: ignore[arg-type]
        out,
        base=base,
        force=force,
    )
    if as_json:
        console.json(written)
        return
    console.data.print(
        f"written {to} {out}: {written['tensors']:,} tensors, {written['bytes']:,} bytes",
        markup=False,
        soft_wrap=True,
    )
    console.note(f"next:\n  {written['next'][0]}")


def _refuse_given(context: typer.Context, names: tuple[str, ...]) -> None:
    """Options that the user wrote, even with their default, where they mean nothing."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is not None and source.name != "DEFAULT":
            raise UsageError(
                f"{parameter.opts[0]}: --as backbone makes a folder of tensors as they are stored",
                "only --base, --out, --allow-missing",
            )


def _refuse_in_file(folder: Path, option: str) -> None:
    """A folder that cannot be made, because a file lies on the way."""
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if nearest is not None and not nearest.is_dir():
        raise UsageError(f"{option}: {nearest} is a file, not a folder", "give another path")


def _network_settings(overrides: list[str] | None) -> dict[str, Any]:
    """`--set model.KEY=VALUE`; nothing else of an import can be set."""
    values = settings("checkpoint import", overrides=overrides)
    other = sorted(set(values) - {"model"})
    if other:
        raise UsageError(f"--set {other[0]}: an import decides model.* only")
    return dict(values.get("model", {}))


def _known_benchmark(name: str) -> str:
    from stages.benchmarks.manifest import load_manifest

    return load_manifest(name).name


def _backbone(
    console: Console,
    files: list[str],
    base: str,
    out: Path | None,
    allow_missing: list[str],
    dry_run: bool,
) -> int:
    from stages.checkpoints.backbone_import import plan_backbone, write_backbone

    if out is None:
        raise UsageError("--as backbone needs --out DIR: the folder to write")
    _refuse_in_file(out.parent, "--out")
    item = plan_backbone(files, base, allow_missing)
    plan = item.plan.as_json()
    _tell_plan(console, plan)
    item.plan.refuse_if_incomplete()
    if dry_run:
        _tell_dry_run(console, {"out": str(out)}, plan)
        return 0
    written = write_backbone(item, out)
    backbone = shlex.quote(str(out))
    following = [f"vqa extract-features --benchmark BENCHMARK --backbone {backbone} --from-videos"]
    if console.as_json:
        answer = {"command": "checkpoint import", "out": str(out), **written, "report": plan}
        console.json(answer | {"next": following})
        return 0
    console.data.print(
        f"written backbone {out}: {written['tensors']} tensors, {written['bytes']:,} bytes",
        markup=False,
        soft_wrap=True,
    )
    console.note("next:\n  " + following[0])
    return 0


def _tell_dry_run(console: Console, plan: dict[str, Any], report: dict[str, Any]) -> None:
    """The report is on stderr already; JSON carries it with the plan."""
    console.plan("checkpoint import", plan | ({"report": report} if console.as_json else {}))


def _tell_plan(console: Console, plan: dict[str, Any]) -> None:
    """Matched, missing and unexpected by group, on stderr: it is told before a refusal too."""
    if console.quiet or console.as_json:
        return
    for file in plan["files"]:
        told = f"{file['file']} ({file['kind']})"
        told += "" if file["part"] == "base" else f", for {file['part']}"
        console.note(told + _leftovers(file))
    for group in plan["groups"]:
        console.note(f"  {group['group']}: {_filling(group)}")
    for group, names in plan["unused"].items():
        console.note(f"  not used: {group}, {_count(len(names))}")


def _leftovers(file: dict[str, Any]) -> str:
    told = ""
    if file["dropped"]:
        told += f"; {_count(len(file['dropped']))} without a place here"
    if file["unexpected"]:
        shown = ", ".join(file["unexpected"][:4])
        told += f"; {len(file['unexpected'])} UNEXPECTED: {shown}"
    if file["left_overs"]:
        told += f"; beside the weights: {', '.join(file['left_overs'])}"
    return told


def _count(tensors: int) -> str:
    return f"{tensors:,} tensor" + ("" if tensors == 1 else "s")


def _filling(group: dict[str, Any]) -> str:
    counts = _count(group["expected"])
    if group["missing"]:
        return f"MISSING {len(group['missing'])} of {counts}"
    if group["misshapen"]:
        return f"OTHER SIZES, {len(group['misshapen'])} of {counts}"
    if group["left_out"]:
        return "left out"
    return f"{counts} from {group['source']}"
