"""How fast `--engine ray` builds shards on one machine, against the local engine.

    python benchmarks/engines.py [--seconds 60] [--shards 100] [--rounds 1] [--folder DIR]

Hard-links a few generated videos under as many names as the local engine needs `--seconds` for
(found by a short run), and runs `vqa extract-features --from-videos` over them with both engines,
each in a process and a workspace of its own. When a shard was done is read from its sidecar's
time. The rate is that between 10 and 90 % of the shards, so that neither start-up nor the last
shards, for which there is nothing to do beside them, are in it; the start-up is printed apart: how
much later than the local engine's first shard Ray's comes, and what `ray.init` alone takes. The
bytes of both are compared. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from stages.benchmarks.shapes.generate import generate

SOURCES = 8
PROBE_VIDEOS = 48
BACKBONE = "tiny"
FRAMES = "32"
INIT = "import ray, time; t = time.monotonic(); ray.init('local', include_dashboard=False, " \
    "log_to_driver=False); print(time.monotonic() - t)"  # fmt: skip


def vqa(*arguments: object) -> dict[str, Any]:
    """One command line in a process of its own; its JSON."""
    line = [sys.executable, "-m", "vqa_cli", *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(line)}\n{done.stdout}{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def write_questions(folder: Path, videos: int) -> Path:
    """`videos` names for a few generated videos, and one question about each."""
    names = folder / "videos"
    if not names.exists():
        generate(folder / "sources", "test", SOURCES, seed=1, workers=1)
    names.mkdir(exist_ok=True)
    sources = sorted((folder / "sources").rglob("*.mp4"))
    lines = []
    for number in range(videos):
        path = names / f"v{number:06d}.mp4"
        if not path.exists():
            os.link(sources[number % len(sources)], path)
        asked = {"question": "what moves?", "options": ["a circle", "a square"], "answer": 0}
        lines.append({"question_id": f"q{number}", "video": path.name, **asked})
    annotations = folder / f"custom-{videos}.jsonl"
    annotations.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return annotations


def run(folder: Path, videos: int, shards: int, engine: str, name: str) -> dict[str, Any]:
    """One extraction; seconds to the first shard and to the end, and the steady rate."""
    workspace = folder / name
    custom = ("--benchmark", "custom", "--split", "test", "-w", workspace)
    annotations = write_questions(folder, videos)
    vqa("prepare", *custom, "--annotations", annotations, "--videos", folder / "videos")
    per_shard = max(1, videos // shards)
    decode = ("--from-videos", "--frames", FRAMES, "--set", f"videos_per_shard={per_shard}")
    began = time.time()
    made = vqa(
        "extract-features", *custom, "--backbone", BACKBONE, *decode, "--device", "cpu",
        "--engine", engine,
    )  # fmt: skip
    seconds = time.time() - began
    path = Path(made["artifact"]["path"])
    ended = sorted(file.stat().st_mtime for file in path.glob("features-*.json"))
    low, high = len(ended) // 10, len(ended) * 9 // 10
    manifest = json.loads((path / "manifest.json").read_text())
    return {
        "engine": engine,
        "videos": videos,
        "shards": len(ended),
        "seconds": seconds,
        "seconds_to_first_shard": ended[0] - began,
        "videos_per_second": (high - low) * per_shard / (ended[high] - ended[low]),
        "files": {name: entry["sha256"] for name, entry in manifest["files"].items()},
    }


def ray_start_seconds() -> float:
    """`ray.init` on this machine, in a process of its own."""
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    line = [sys.executable, "-c", INIT]
    done = subprocess.run(line, capture_output=True, text=True, check=True, env=quiet)
    return float(done.stdout.split()[-1])


def compare(folder: Path, seconds: float, shards: int, rounds: int) -> dict[str, Any]:
    """Both engines in turn, as often as asked; the ratio is of the medians."""
    probe = run(folder, PROBE_VIDEOS, PROBE_VIDEOS // 2, "local", "probe")
    videos = max(shards, round(seconds * probe["videos_per_second"] / shards) * shards)
    runs = [
        run(folder, videos, shards, engine, f"{engine}-{number}")
        for number in range(rounds)
        for engine in ("local", "ray")
    ]
    files = [made.pop("files") for made in runs]
    rates = {
        engine: sorted(made["videos_per_second"] for made in runs if made["engine"] == engine)
        for engine in ("local", "ray")
    }
    first = {
        engine: min(made["seconds_to_first_shard"] for made in runs if made["engine"] == engine)
        for engine in ("local", "ray")
    }
    middle = {engine: found[len(found) // 2] for engine, found in rates.items()}
    return {
        "runs": runs,
        "same_bytes": all(found == files[0] for found in files),
        "rate_of_ray_over_local": middle["ray"] / middle["local"],
        "ray_startup_seconds": first["ray"] - first["local"],
        "ray_init_seconds": ray_start_seconds(),
    }


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="work for the local engine")
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one by default")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = compare(Path(folder), given.seconds, given.shards, given.rounds)
    found["machine"] = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_before": load,
        "ray": metadata.version("ray"),
        "torch": metadata.version("torch"),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
