"""How long `vqa ask` takes: the first answer with start-up, and further questions.

    python benchmarks/ask_latency.py [--rounds 5] [--video FILE]

Each round is a process of its own, as a person starts it: one with a single question, one with
`--questions` of several. Without --video a generated clip of `shapes` is asked about. Prints one
JSON object; wall seconds are those of the machine as it was, seconds on the processor (this command
and its decode process) are less disturbed by what else ran.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from stages.benchmarks.shapes.generate import plan_video, write_video
from stages.benchmarks.shapes.timeline import video_rng

SEED = 20261120
TARGETS = {"first_answer": 9.0, "further_question": 1.0}
"""Seconds, on two idle cores."""
OPTIONS = ["-o", "red", "-o", "blue", "-o", "green", "-o", "yellow"]
QUESTIONS = 8


def generated(folder: Path) -> Path:
    """One clip of `shapes`."""
    path = folder / "clip.mp4"
    timeline, _ = plan_video("test", SEED, False, 0)
    write_video(path, timeline, video_rng(SEED, "test", 0, "picture"))
    return path


def ask(*arguments: str) -> tuple[dict[str, Any], float, float]:
    """The JSON of one call, its wall seconds and its seconds on the processor."""
    command = [sys.executable, "-m", "vqa_cli", "ask", *arguments, "--json", "--quiet"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout), wall, used


def summed(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def main() -> None:
    """Run, sum up, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--video", type=Path)
    arguments = parser.parse_args()
    first: list[float] = []
    used: list[float] = []
    further: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        video = arguments.video or generated(Path(name))
        file = Path(name) / "questions.jsonl"
        rows = [
            {"question": f"Which colour is shape {number}?", "options": OPTIONS[1::2]}
            for number in range(QUESTIONS)
        ]
        file.write_text("\n".join(json.dumps(row) for row in rows))
        load = os.getloadavg()[0]
        for _ in range(arguments.rounds):
            found, wall, busy = ask(str(video), "Which colour is the shape?", *OPTIONS)
            first.append(wall)
            used.append(busy)
            found, _, _ = ask(str(video), "--questions", str(file))
            further += [item["seconds"] for item in found["answers"][1:]]
    facts = {
        "what": "vqa ask",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", *sys.argv]),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "torch": metadata.version("torch"),
            "load_at_start": round(load, 2),
        },
        "video": found["video"] | {"path": Path(found["video"]["path"]).name},
        "system": found["system"],
        "rounds": arguments.rounds,
        "first_answer_seconds": summed(first),
        "first_answer_processor_seconds": summed(used),
        "further_question_seconds": summed(further),
        "targets": TARGETS,
        "met": {
            "first_answer": statistics.median(first) <= TARGETS["first_answer"],
            "further_question": max(further) <= TARGETS["further_question"],
        },
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
