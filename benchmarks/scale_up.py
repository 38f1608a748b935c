"""Ten times the videos: at most ten times the time and a bit, and no more memory.

    python benchmarks/scale_up.py [--videos 300] [--factor 10] [--rounds 1] [--folder DIR]

One small video under N names and under `factor` times as many, one question about each. On both,
`vqa prepare`, `extract-frames`, `extract-features` (tiny backbone) and `eval` run in fresh
processes, the small and the large one in turns. Time is what a process takes beyond its imports;
memory is its high-water mark. Shards of frames and features are cut so small (20 videos) that both
sizes fill some; an evaluation's are of 256 questions, so `--videos` should be at least that many to
hold its memory against a full one. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from nothing_to_do import FRAMES, run, write_annotations

MOST_TIME = 1.05
"""Of the factor."""
MOST_MEMORY = 1.1
"""Of the small run's peak: what grows is the index, and what is known of each question."""
STAGES = ("prepare", "extract-frames", "extract-features", "eval")


def commands(folder: Path, videos: int) -> dict[str, list[str]]:
    """Stage -> command line on `videos` videos below `folder`."""
    annotations = write_annotations(folder, videos)
    custom, where = ["--benchmark", "custom"], ["-w", str(folder / "w")]
    files = ["--annotations", str(annotations), "--videos", str(folder / "videos")]
    shards = ["--set", "videos_per_shard=20"]
    answers = ["--system", "blip2-voting", "--select", "uniform", "--keep", "1"]
    return {
        "prepare": ["prepare", *custom, "--split", "test", *files, *where],
        "extract-frames": [
            "extract-frames", *custom, "--for", "tiny-blip2", "--frames", str(FRAMES), *shards,
            *where,
        ],
        "extract-features": [
            "extract-features", *custom, "--backbone", "tiny-blip2", *shards, *where
        ],
        "eval": ["eval", *custom, "--split", "test", *answers, "--weights", "none", *where],
    }  # fmt: skip


def measured(folder: Path, videos: int, modules: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Seconds and bytes of every stage on `videos` videos; notes the modules of the first run."""
    folder.mkdir()
    found = {}
    for stage, line in commands(folder, videos).items():
        output, figures = run(line, modules.get(stage, []))
        if output["counts"]["done"] != videos:
            raise SystemExit(f"{line}: {output['counts']}")
        modules.setdefault(stage, figures["modules"])
        found[stage] = figures
    return found


def compared(
    small: list[dict[str, Any]], large: list[dict[str, Any]], videos: int, factor: int
) -> dict[str, Any]:
    """One stage's line."""
    seconds = [statistics.median(one["seconds"] for one in each) for each in (small, large)]
    cpu = [statistics.median(one["cpu"] for one in each) for each in (small, large)]
    peaks = [max(one["peak_bytes"] for one in each) for each in (small, large)]
    more = (peaks[1] - peaks[0]) / (videos * (factor - 1))
    return {
        "seconds": [round(value, 3) for value in seconds],
        "time_ratio": round(seconds[1] / seconds[0], 2),
        "cpu_seconds": [round(value, 3) for value in cpu],
        "peak_bytes": peaks,
        "bytes_per_further_video": round(more),
        "time_met": seconds[1] <= MOST_TIME * factor * seconds[0],
        "memory_met": peaks[1] <= MOST_MEMORY * peaks[0],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--factor", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    chosen = parser.parse_args()
    modules: dict[str, list[str]] = {}
    found: dict[str, list[list[dict[str, Any]]]] = {stage: [[], []] for stage in STAGES}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        measured(Path(name) / "first", 4, modules)  # which modules there are, and warm files
        for number in range(chosen.rounds):
            for place, times in enumerate((1, chosen.factor)):
                folder = Path(name) / f"{number}-{times}"
                for stage, figures in measured(folder, chosen.videos * times, modules).items():
                    found[stage][place].append(figures)
    stages = {
        stage: compared(small, large, chosen.videos, chosen.factor)
        for stage, (small, large) in found.items()
    }
    facts = {"videos": chosen.videos, "factor": chosen.factor, "load": os.getloadavg()[:2]}
    print(json.dumps({**facts, "stages": stages}, indent=2))


if __name__ == "__main__":
    main()
