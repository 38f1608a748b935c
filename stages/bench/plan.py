"""The plan of a recipe: what each step would take, what is missing, and what it adds up to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any, get_args

import torch

from stages.artifacts.atomic import free_bytes
from stages.artifacts.store import Workspace
from stages.bench.clock import Clock, machine_bytes
from stages.bench.cluster import Machines, step_time, whole_time
from stages.bench.estimate import (
    Counts,
    Estimate,
    Step,
    estimate,
    is_estimated,
    named_config,
    split_counts,
    step_work,
)
from stages.bench.probe import Probed, probe
from stages.bench.step_memory import step_peak
from stages.benchmarks.manifest import BenchmarkManifest, Role, load_manifest, split_name
from stages.benchmarks.shapes.generate import DEFAULT_VIDEOS
from stages.core.device import resolve_device
from stages.core.errors import MissingInput
from stages.core.memory import largest
from stages.models.backbones.catalog import backbone_path
from stages.recipes.recipe import Recipe, load_recipe, recipe_names

PROBE_SECONDS = 0.1
PROBE_SIDE = {"cuda": 8192, "mps": 2048, "cpu": 768}
WEIGHTS_OPTIONS = ("weights", "selector", "init", "teacher")
TRAINING = ("train-", "refine-", "pretrain-", "distill")


@cache
def probed_rate(device: str) -> float:
    """Operations per second of a matrix product: bfloat16 on CUDA, else float32, all threads."""
    where = resolve_device(device)
    side = PROBE_SIDE[where.type]
    dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
    left = torch.ones(side, side, device=where, dtype=dtype)
    best, ends = float("inf"), time.perf_counter() + PROBE_SECONDS
    while best == float("inf") or time.perf_counter() < ends:
        if where.type == "cuda":
            took = Clock(where)(lambda: left @ left)[0]
        else:
            began = time.perf_counter()
            left @ left
            took = time.perf_counter() - began
        best = min(best, took)
    return 2 * side**3 / best


def recipe_plan(
    recipe: Recipe,
    workspace: Workspace,
    device: str = "auto",
    machines: Machines | None = None,
    teraflops: float | None = None,
) -> dict[str, Any]:
    """What `vqa run --dry-run` says beside each command's own plan.

    Args:
        recipe: Its steps are not run.
        workspace: Which questions, weights and features are there.
        device: What the estimates are for.
        machines: Others that the steps are laid out on; none: this one alone.
        teraflops: Useful operations of one of their processes in 1e12 a second; none: probed or
            assumed, and said.

    Returns:
        `estimates` (one a step), `missing`, `totals`, `published` and `unknown`; with `machines`
        also `cluster`.

    Raises:
        UsageError: A step names a benchmark or split that there is not.
        ConfigError: A step, or the settings of its command, hold an impossible value.
    """
    rate = probed_rate(device)
    steps = [Step(recipe, line, number) for number, line in enumerate(recipe.steps, 1)]
    estimates = [_estimate(step, workspace, rate, resolve_device(device).type) for step in steps]
    cluster: dict[str, Any] = {}
    if machines is not None:
        probed = probe(steps, workspace, device, rate, machines.gpus, teraflops)
        cluster = {"cluster": cluster_plan(steps, estimates, workspace, machines, probed)}
    return {
        "estimates": [found.as_json() for found in estimates],
        "missing": missing(recipe, steps, workspace),
        "totals": _totals(steps, estimates, workspace, device, rate),
        "published": [row.as_json() for row in recipe.published],
        "unknown": recipe.unknown,
        **cluster,
    }


def cluster_plan(
    steps: Sequence[Step],
    estimates: Sequence[Estimate],
    workspace: Workspace,
    machines: Machines,
    probed: Probed,
) -> dict[str, Any]:
    """The steps on other machines: `machines`, `rates`, `steps` and `totals`.

    A step whose counts are not known takes no time here; `steps_without_counts` of the plan says
    how many there are.
    """
    times = []
    for step, found in zip(steps, estimates, strict=True):
        benchmark = step.option("benchmark")
        counts = Counts(None, None)
        if benchmark is not None:
            manifest = load_manifest(benchmark)
            counts = _counts(step, manifest, workspace, step_splits(step, manifest))
        times.append(step_time(step_work(step, found, counts), machines, probed.rates))
    written = [found.bytes for found in estimates if found.bytes is not None]
    return {
        "machines": asdict(machines),
        "rates": probed.as_json(),
        "steps": [one.as_json() for one in times],
        "totals": {**whole_time(times), "bytes": sum(written)},
    }


def _estimate(step: Step, workspace: Workspace, rate: float, device: str) -> Estimate:
    benchmark = step.option("benchmark")
    if benchmark is None:
        return Estimate()
    manifest = load_manifest(benchmark)
    try:
        counts = _counts(step, manifest, workspace, step_splits(step, manifest))
        reported = _counts(step, manifest, workspace, manifest.splits_for("report"))
        found = estimate(step, counts, rate, reported)
        return replace(found, memory=_memory(step, device, _clips_of_a_video(step, manifest)))
    except MissingInput:  # a folder that is not there: `missing` says so
        return Estimate()


def _clips_of_a_video(step: Step, manifest: BenchmarkManifest) -> int:
    """On average and at most: as many as questions, where clips have times of their own."""
    splits = [manifest.splits[name] for name in step_splits(step, manifest)]
    known = [(one.questions, one.videos) for one in splits if one.questions and one.videos]
    if manifest.clip == "whole" or not known:
        return 1
    return max(-(-questions // videos) for questions, videos in known)


def _memory(step: Step, device: str, clips: int) -> dict[str, int] | None:
    """What is enough for every combination of a sweep."""
    if step.backbone is None or not is_estimated(step):
        return None
    config = named_config(step.backbone)
    return largest([step_peak(one, config, device, clips) for one in step.runs]).as_json()


def _counts(
    step: Step, manifest: BenchmarkManifest, workspace: Workspace, splits: Sequence[str]
) -> Counts:
    """Of these splits, prepared or not."""
    items = [
        item
        for item in workspace.finished("questions")
        if item.config["benchmark"] == manifest.name
    ]
    prepared = {str(item.config["split"]): int(item.counts["done"]) for item in items}
    if not manifest.generated:
        return split_counts(manifest, splits, prepared)
    there = {str(item.config["split"]): int(item.config["generated"]["videos"]) for item in items}
    videos = {**DEFAULT_VIDEOS, **_sizes(step, manifest), **there}
    return split_counts(manifest, splits, prepared, videos)


def _sizes(step: Step, manifest: BenchmarkManifest) -> dict[str, int]:
    """Videos of the splits that the recipe generates in a size of its own."""
    lines = enumerate(step.recipe.steps, 1)
    makes = [Step(step.recipe, line, number) for number, line in lines if line[0] == "prepare"]
    return {
        split_name(manifest, str(one.option("split"))): one.whole("size", 0)
        for one in makes
        if one.option("benchmark") == manifest.name and one.whole("size", 0)
    }


def step_splits(step: Step, manifest: BenchmarkManifest) -> list[str]:
    """Splits that a step works through."""
    named = step.option("split")
    if named is not None:
        return [split_name(manifest, named)]
    if step.command.startswith("extract-"):
        found = [name for role in get_args(Role) for name in manifest.splits_for(role)]
        return list(dict.fromkeys(found))
    learns = step.command.startswith(TRAINING) or step.command == "pseudo-label"
    return list(manifest.splits_for("train" if learns else "report"))


# --- what is missing -----------------------------------------------------------------------------


def missing(recipe: Recipe, steps: Sequence[Step], workspace: Workspace) -> list[dict[str, str]]:
    """Questions, backbones and weights that no step makes and that are not there."""
    found = [*_missing_questions(steps, workspace), *_missing_backbones(steps)]
    return [*found, *_missing_weights(recipe, steps, workspace)]


def _missing_questions(steps: Sequence[Step], workspace: Workspace) -> list[dict[str, str]]:
    prepared = {
        (item.config["benchmark"], item.config["split"]) for item in workspace.finished("questions")
    }
    for step in steps:
        if step.command == "prepare":
            prepared.add((step.option("benchmark"), step.option("split")))
    wanted: dict[tuple[str, str], BenchmarkManifest] = {}
    for step in steps:
        benchmark = step.option("benchmark")
        if benchmark is None:
            continue
        manifest = load_manifest(benchmark)
        for split in step_splits(step, manifest):
            if (benchmark, split) not in prepared:
                wanted[benchmark, split] = manifest
    return [
        {
            "what": f"questions and videos of {benchmark} {split}",
            "hint": f"vqa prepare --benchmark {benchmark} --split {split} --annotations FILE "
            f"--videos DIR ({'; '.join(manifest.get)})",
        }
        for (benchmark, split), manifest in wanted.items()
    ]


def _missing_backbones(steps: Sequence[Step]) -> list[dict[str, str]]:
    found: dict[str, str] = {}
    for step in steps:
        name = step.option("backbone") or step.option("for")
        if name is None or name in found:
            continue
        try:
            backbone_path(name)
        except MissingInput as error:
            found[name] = error.hint
    return [{"what": f"backbone {name}", "hint": hint} for name, hint in found.items()]


def _missing_weights(
    recipe: Recipe, steps: Sequence[Step], workspace: Workspace
) -> list[dict[str, str]]:
    """Weights named in a step that no step before it makes and the workspace does not hold."""
    known = {item.label for item in workspace.finished("weights")} | {"none"}
    known |= {item.id for item in workspace.finished("weights")}
    wanted: dict[str, str] = {}
    for step in steps:
        for option in WEIGHTS_OPTIONS:
            for name in step.options(option):
                if name not in known and not _is_init(step, option, name):
                    wanted.setdefault(name, _maker(name, recipe.name))
        if step.command.startswith(TRAINING) and step.option("name"):
            known.add(str(step.option("name")))
    return [{"what": f"weights {name}", "hint": hint} for name, hint in wanted.items()]


def _is_init(step: Step, option: str, name: str) -> bool:
    """`vqa distill --init teacher` names a way, not weights."""
    return option == "init" and step.command == "distill"


@cache
def _shipped(name: str) -> Recipe:
    return load_recipe(name)


def _maker(name: str, asking: str) -> str:
    """The shipped recipe that makes weights of that name."""
    for other in recipe_names():
        recipe = _shipped(other)
        made = [Step(recipe, line).option("name") for line in recipe.steps
                if line[0].startswith(TRAINING)]  # fmt: skip
        if other != asking and name in made:
            return f"vqa run {other}"
    return "train them first, or name others"


def _totals(
    steps: Sequence[Step],
    estimates: Sequence[Estimate],
    workspace: Workspace,
    device: str,
    rate: float,
) -> dict[str, Any]:
    """Sums of what is known, none where nothing is, and what this machine has."""
    pairs = zip(steps, estimates, strict=True)
    counted = [(step, one) for step, one in pairs if is_estimated(step)]
    writing = [one.bytes for step, one in counted if step.command.startswith("extract-")]
    seconds = _known([one.seconds for _, one in counted])
    memory = [one.memory for _, one in counted if one.memory is not None]
    return {
        "bytes": _known(writing),
        "free_bytes": free_bytes(workspace.root),
        "operations": _known([one.operations for _, one in counted]),
        "seconds": None if seconds is None else round(seconds, 1),
        "memory_bytes": max(
            (one["host_bytes"] + one["worker_bytes"] for one in memory),
            default=None if counted else 0,
        ),
        "device_bytes": max((one["device_bytes"] for one in memory), default=0),
        "machine_memory_bytes": machine_bytes(),
        "steps_without_counts": sum(one.items is None for _, one in counted),
        "device": resolve_device(device).type,
        "product_operations_per_second": round(rate),
    }


def _known(terms: Sequence[float | None]) -> float | None:
    """Sum of the known terms; none if there are terms and none is known."""
    known = [term for term in terms if term is not None]
    return sum(known) if known or not terms else None
