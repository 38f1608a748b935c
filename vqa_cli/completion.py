"""What Tab offers as an option's value: names of benchmarks and recipes, ids of the workspace.

Reads names of directories and the benchmarks' short files, never an artifact's data, and imports
nothing heavy: the person is waiting with a finger on the key. What cannot be read is not offered.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

Completer = Callable[[typer.Context, str], list[str]]

KINDS = (
    "questions", "frames", "features", "weights", "pseudo-labels", "predictions", "metrics",
    "report",
)  # fmt: skip
BACKBONES = (
    "tiny", "tiny-blip2", "tiny-clip", "blip2-flan-t5-xl", "instructblip-flan-t5-xl",
    "clip-vit-base-patch16",
)  # fmt: skip
DEVICES = ("auto", "cpu", "cuda", "mps")
DECODERS = ("auto", "decord", "pyav")
MANIFEST = "manifest.json"
SOURCES = Path(__file__).parents[1]
"""Where the packages lie side by side."""


def words(*known: str) -> Completer:
    """Offers a fixed list."""

    def offered(ctx: typer.Context, incomplete: str) -> list[str]:
        return _begin_with(incomplete, known)

    return offered


def ids_of(*kinds: str) -> Completer:
    """Offers the finished artifacts of these kinds; of one benchmark those that name it first."""

    def offered(ctx: typer.Context, incomplete: str) -> list[str]:
        found = [name for kind in kinds for name in _finished(_workspace(ctx) / kind)]
        benchmark = str(ctx.params.get("benchmark") or "")
        found.sort(key=lambda name: (not name.startswith(f"{benchmark}-"), name))
        return _begin_with(incomplete, found)

    return offered


def benchmarks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offers the known benchmarks."""
    return _begin_with(incomplete, _toml_files("data_manifests"))


def recipes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offers the shipped recipes."""
    return _begin_with(incomplete, _toml_files("stages/recipes"))


def splits(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offers the splits of the benchmark that stands on the line, else the usual ones."""
    path = SOURCES / "data_manifests" / f"{ctx.params.get('benchmark')}.toml"
    try:
        known = tomllib.loads(path.read_text(encoding="utf-8"))["splits"]
    except (OSError, KeyError, ValueError):
        known = ("train", "val", "test")
    return _begin_with(incomplete, known)


def _toml_files(folder: str) -> list[str]:
    return sorted(path.stem for path in _inside(SOURCES / folder) if path.suffix == ".toml")


def _finished(folder: Path) -> list[str]:
    return [path.name for path in _inside(folder) if os.access(path / MANIFEST, os.F_OK)]


def _inside(folder: Path) -> Iterator[Path]:
    """What lies in a folder; nothing, if it cannot be read."""
    try:
        yield from folder.iterdir()
    except OSError:
        return


def _workspace(ctx: typer.Context) -> Path:
    """The workspace of the line, else of the environment, else the default."""
    given: Any = ctx.params.get("workspace") or os.environ.get("VQA_WORKSPACE")
    path = Path(given or "vqa-workspace")
    try:
        return path.expanduser()  # the shell has not done it yet
    except RuntimeError:  # of a person who is not known
        return path


def _begin_with(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


backbones = words(*BACKBONES)
devices = words(*DEVICES)
decoders = words(*DECODERS)
references = ids_of(*KINDS)
