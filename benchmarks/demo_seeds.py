"""The demo over several seeds, with means: what the README's table is made from.

    python benchmarks/demo_seeds.py [--seeds 3] [--workspace DIR]

Runs `vqa demo --seeds N --json` (finished steps of the workspace are reused) and prints one JSON
object: date, machine, command, every row, and per system the mean over seeds.
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
from datetime import UTC, datetime
from typing import Any

MEANS = ("accuracy", "keyframe_recall", "keyframe_precision", "ms_per_video")


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Per system, the mean of each figure over the seeds."""
    found: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(row["name"] for row in rows):
        own = [row for row in rows if row["name"] == name]
        found[name] = {
            figure: statistics.mean(row[figure] for row in own) if own[0][figure] else None
            for figure in MEANS
        }
    return found


def main() -> None:
    """Run, sum up, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workspace", default=None)
    options = parser.parse_args()
    workspace = options.workspace or tempfile.mkdtemp(prefix="vqa-demo-")
    command = ["-m", "vqa_cli", "demo", "--seeds", str(options.seeds), "--workspace", workspace]
    done = subprocess.run(
        [sys.executable, *command, "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    result = json.loads(done.stdout)
    report = {
        "benchmark": "demo over seeds",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, CPU only",
        "python": platform.python_version(),
        "command": "python " + shlex.join(sys.argv),
        "seconds": result["seconds"],
        "means": means(result["rows"]),
        "rows": result["rows"],
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
