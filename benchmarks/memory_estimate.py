"""The memory that every stage is estimated to take, held against what it took.

    python benchmarks/memory_estimate.py [--sizes tiny,small] [--videos 24] [--frames 8]

Writes backbones of random weights in each size, generates `shapes`, and runs the stages of the
three systems one after the other through the command line, each in a process of its own. While one
runs, the high-water mark of its resident memory is read from /proc, of the process and of each of
its decode workers (Linux only). `estimate` is what the stage itself said before it started.
A ratio below 1 is an estimate that was too small. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOOL = Path(__file__).parent.parent / "tools" / "full_size_backbones.py"
POLL_SECONDS = 0.02
LARGE = 500_000_000
LARGEST_RATIO = 1.5
RUNNER = """
import sys
from pathlib import Path
from vqa_cli.main import run_command
code = run_command(sys.argv[1:])
print(next(line for line in Path("/proc/self/status").read_text().splitlines()
           if line.startswith("VmHWM:")), file=sys.stderr)
sys.exit(code)
"""


def high_water(pid: int) -> int:
    """Most resident bytes of a process so far; 0 when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0


def children(pid: int) -> list[int]:
    """Processes started by `pid`."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in listed]


def run(*arguments: object) -> dict[str, Any]:
    """One stage: its JSON, and the high-water marks of its process and of its workers."""
    line = [*map(str, arguments), "--json", "--quiet"]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    workers: dict[int, int] = {}
    together = 0
    while process.poll() is None:
        alive = children(process.pid)
        together = max(together, len(alive))
        for child in alive:
            # The last mark: until it has started its program, a child shows its parent's.
            workers[child] = high_water(child) or workers.get(child, 0)
        time.sleep(POLL_SECONDS)
    output, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"vqa {' '.join(line)} ended with {process.returncode}:\n{output}{said}")
    host = int(said.strip().splitlines()[-1].split()[1]) * 1024
    return {
        "json": json.loads(output),
        "host_bytes": host,
        # A command with several splits starts its pool anew for each: those that ran at once.
        "worker_bytes": sum(sorted(workers.values(), reverse=True)[:together]),
        "seconds": round(time.monotonic() - began, 1),
    }


def compared(name: str, size: str, found: dict[str, Any]) -> dict[str, Any]:
    """One line of the result."""
    memory = found["json"]["memory"]
    ratio = memory["host_bytes"] / found["host_bytes"]
    row = {
        "stage": name,
        "size": size,
        "estimate_bytes": memory["host_bytes"],
        "measured_bytes": found["host_bytes"],
        "ratio": round(ratio, 2),
        "kept": 1 <= ratio <= (LARGEST_RATIO if found["host_bytes"] > LARGE else float("inf")),
        "seconds": found["seconds"],
    }
    if memory["worker_bytes"]:
        workers = memory["worker_bytes"] / max(found["worker_bytes"], 1)
        row |= {
            "workers_estimate_bytes": memory["worker_bytes"],
            "workers_measured_bytes": found["worker_bytes"],
            "workers_ratio": round(workers, 2),
        }
    return row


def backbones(size: str, folder: Path) -> dict[str, Any]:
    """Layout -> backbone in a size: embedded ones, or folders of random weights."""
    names = ("instructblip", "blip-2", "clip")
    if size == "tiny":
        return dict(zip(names, ("tiny", "tiny-blip2", "tiny-clip"), strict=True))
    subprocess.run(
        [sys.executable, TOOL, folder / size, "--size", size], check=True, capture_output=True
    )
    return {name: folder / size / name for name in names}


def stages_of(
    base: dict[str, Any], folder: Path, chosen: argparse.Namespace
) -> dict[str, list[tuple[str, list[Any]]]]:
    """System -> its command lines on `shapes`, in order, in a workspace of its own."""

    def stage(system: str, name: str, *line: Any, backbone: str | None = None) -> Any:
        parts = [name.split()[0], "-b", "shapes", "-w", folder / system, *line]
        return name, parts + (["--backbone", base[backbone]] if backbone else [])

    frames, keep = ["--frames", chosen.frames], ["--keep", 2]
    once = ["--set", "training.epochs=1", "--set", f"training.batch_size={chosen.batch}"]
    once += ["--set", "max_train_questions=32"]
    test = ["--split", "test", "--no-blind"]
    refined = ["--selector", "refined"]
    # The paper's width of 1024 would take a CPU hours.
    narrow = ["--set", "model.width=256"]
    two, three, few = "blip-2", "clip", ["--set", "max_questions=32"]
    return {
        "vlap": [
            stage("vlap", "extract-frames", "--for", base["instructblip"], *frames),
            stage("vlap", "extract-features", backbone="instructblip"),
            stage("vlap", "train-teacher", *once),
            stage("vlap", "distill", *once, *keep),
            stage("vlap", "eval", *test),
        ],
        "sevila": [
            stage("sevila", "extract-features", "--from-videos", *frames, backbone=two),
            stage("sevila", "train-localizer", *once, "--name", "spans", backbone=two),
            stage("sevila", "pseudo-label", *few, backbone=two),
            stage("sevila", "refine-localizer", *once, "--name", "refined", backbone=two),
            stage("sevila", "train-answerer", *once, *keep, *refined, backbone=two),
            stage("sevila", "eval", *test, *keep, "--system", "sevila", *refined),
        ],
        "videodistill": [
            stage("videodistill", "extract-features", "--from-videos", *frames, backbone=three),
            stage("videodistill", "train-videodistill", *once, *keep, *narrow, backbone=three),
            stage("videodistill", "eval", *test, "--system", "videodistill"),
        ],
    }


def measure(size: str, folder: Path, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Every stage in one size of backbone."""
    for split in ("train", "val", "test"):
        prepare = ["prepare", "-b", "shapes", "--split", split, "--size", chosen.videos]
        done = [sys.executable, "-m", "vqa_cli", *map(str, prepare), "-w", str(folder / "w")]
        subprocess.run([*done, "--quiet"], check=True)
    rows = []
    for system, stages in stages_of(backbones(size, folder), folder, chosen).items():
        if system in chosen.systems.split(","):
            shutil.copytree(folder / "w", folder / system)
            for name, line in stages:
                rows.append(compared(f"{system}: {name}", size, run(*line)))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="tiny,small")
    parser.add_argument("--systems", default="vlap,sevila,videodistill")
    parser.add_argument("--videos", type=int, default=24, help="a split")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None)
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = []
    for size in chosen.sizes.split(","):
        with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
            rows += measure(size, Path(name), chosen)
    print(json.dumps({"all_kept": all(row["kept"] for row in rows), "stages": rows}, indent=2))


if __name__ == "__main__":
    main()
