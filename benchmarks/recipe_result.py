"""A shipped recipe from end to end, with means over its seeds, for the tables of results.

    python benchmarks/recipe_result.py sevila-shapes [--workspace DIR]

Runs `vqa run RECIPE --json` (finished steps of the workspace are reused) and prints one JSON
object: date, machine, command, seconds, and per evaluation each seed's figures and their mean.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

FIGURES = ("accuracy", "keyframe_recall", "keyframe_precision", "keyframe_recall_random", "R@1")


def evaluations(steps: list[list[str]], outputs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every evaluation of the run: its name without the seed, the seed, and its figures."""
    for step, output in zip(steps, outputs, strict=True):
        named = option(step, "--name") or option(step, "--weights") or step[0]
        suffix = (option(step, "--selector") or "").rpartition("-")[2]
        if "sweep" in output:
            yield from swept(output["sweep"], int(suffix) if suffix.isdigit() else None)
        elif step[0] == "eval":
            blind = option(step, "--blind")
            name, _, seed = named.rpartition("-")
            seeded = seed.isdigit() and bool(name)
            yield {
                "name": (name if seeded else named) + (f", blind {blind}" if blind else ""),
                "seed": int(seed) if seeded else None,
                "metrics": output["metrics"],
            }


def swept(rows: list[dict[str, Any]], seed: int | None) -> Iterator[dict[str, Any]]:
    """Lines of a sweep, with and without the videos."""
    for row in rows:
        own = {name: value for name, value in row["settings"].items() if name != "seed"}
        name = ", ".join(f"{key} {value}" for key, value in own.items())
        found = {"seed": row["settings"].get("seed", seed)}
        if "skipped" in row:
            yield {**found, "name": name, "skipped": row["skipped"]}
        if "metrics" in row:
            yield {**found, "name": name, "metrics": row["metrics"]}
        if "blind" in row:
            yield {**found, "name": f"{name}, blind", "metrics": row["blind"]}


def option(step: list[str], name: str) -> str | None:
    """The value of an option in a command line."""
    return step[step.index(name) + 1] if name in step else None


def means(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per name, every figure's mean and its value for each seed."""
    table: dict[str, dict[str, Any]] = {}
    for item in found:
        if "metrics" not in item:
            continue
        row = table.setdefault(item["name"], {"seeds": []})
        row["seeds"].append(item["seed"])
        for figure in FIGURES:
            if item["metrics"].get(figure) is not None:
                row.setdefault(figure, {"each": []})["each"].append(item["metrics"][figure])
    for row in table.values():
        for figure in FIGURES:
            if figure in row:
                row[figure]["mean"] = statistics.mean(row[figure]["each"])
    return table


def main() -> None:
    """Run, sum up, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--workspace", default=None)
    options = parser.parse_args()
    workspace = options.workspace or tempfile.mkdtemp(prefix="vqa-recipe-")
    line = [sys.executable, "-m", "vqa_cli", "run", options.recipe, "--workspace", workspace]
    started = time.monotonic()
    done = subprocess.run([*line, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.monotonic() - started
    outputs = json.loads(done.stdout)["steps"]
    from stages.recipes.recipe import load_recipe

    found = list(evaluations(load_recipe(options.recipe).steps, outputs))
    report = {
        "benchmark": f"vqa run {options.recipe}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, CPU only",
        "python": platform.python_version(),
        "command": "python " + shlex.join(sys.argv),
        "seconds": round(seconds, 1),
        "means": means(found),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
