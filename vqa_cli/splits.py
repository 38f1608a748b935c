"""Which splits an extraction command works on, and what is asked of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stages.core.errors import UsageError

if TYPE_CHECKING:
    from stages.artifacts.store import Artifact, Workspace


EVERY = ("all", "every", "*")


def check_split(benchmark: str, split: str) -> str:
    """The split's own name, told from the benchmark's file alone: before any heavy import.

    Raises:
        UsageError: There is no such split; one split at a time.
    """
    from stages.benchmarks.manifest import load_manifest, split_name

    manifest = load_manifest(benchmark)
    if split in EVERY and split not in (*manifest.splits, *manifest.aliases):
        raise UsageError(
            f"{benchmark} has no split {split!r}: one at a time",
            f"known: {', '.join(manifest.splits)}",
        )
    return split_name(manifest, split)


def frame_counts(text: str | None) -> list[int] | None:
    """`32,4` as numbers."""
    if text is None:
        return None
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--frames {text!r} is not a number or a list like 32,4") from None
    if min(counts) < 1:
        raise UsageError(f"--frames {text}: at least one frame per clip", "as in --frames 32,4")
    return counts


def questions_and_views(
    workspace: Workspace,
    benchmark: str,
    split: str | None,
    reference: str | None,
    values: dict[str, Any],
) -> Iterator[tuple[Artifact, dict[str, Any]]]:
    """The questions of the split, or of every prepared one, with their sampling values.

    Random views are for training: without `--split` only splits that are learnt from get them.
    """
    from stages.artifacts.lookup import prepared_splits, questions_of
    from stages.benchmarks.manifest import load_manifest, split_name

    manifest = load_manifest(benchmark)
    if split is not None:
        name = split_name(manifest, split)
        yield questions_of(workspace, benchmark, name, reference), values
        return
    if reference is not None:
        chosen = workspace.by_reference("questions", reference)
        yield chosen, values
        return
    learnt_from = manifest.splits_for("train")
    for name in prepared_splits(workspace, benchmark):
        views = values.get("views", 0) if name in learnt_from else 0
        yield questions_of(workspace, benchmark, name), {**values, "views": views}
