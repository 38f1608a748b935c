"""How long a stage takes to find that everything is done: 10,000 videos, nothing to compute.

    python benchmarks/nothing_to_do.py [--videos 10000] [--folder DIR] [--rounds 3]

Hard-links one tiny video under as many names, prepares a question about each (`vqa prepare`), and
writes the frames and the features of all of them through the artifact layer, one shard like the
next, so that no time goes into decoding and encoding. Predictions are made by `vqa eval` itself.
Then each command is run again in a fresh process that has imported, beforehand and apart, every
module that the command needs; what is timed is the rest. A command that does anything but find its
artifact finished makes this script fail. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.clips import ClipSpan, StoredClip, StoredRow, merge_records, shard_record
from stages.artifacts.features import STEM as FEATURES
from stages.artifacts.rows import encode_rows
from stages.artifacts.shards import ShardedDraft, split_into_shards
from stages.artifacts.store import Artifact, Request, Workspace
from stages.benchmarks.shapes.generate import generate
from stages.core.runtime import ShardSelection
from stages.features import FeatureChoices, FeatureJob, feature_job
from stages.video.clips import clip_works

LIMIT = 2.0
FRAMES = 4
RUNNER = """
import importlib, json, sys, time
from pathlib import Path
names, arguments = json.loads(sys.stdin.read())
began = time.perf_counter()
for name in names:
    try:
        importlib.import_module(name)
    except Exception:
        pass
from vqa_cli.main import run_command
imported, own = time.perf_counter(), time.process_time()
code = run_command(arguments)
ended, own = time.perf_counter(), time.process_time() - own
facts = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "code": code, "imports": imported - began, "seconds": ended - imported, "cpu": own,
    "peak_bytes": int(facts["VmHWM"].split()[0]) * 1024,
    "modules": [] if names else list(sys.modules),
}), file=sys.stderr)
"""


def run(arguments: list[str], modules: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the command printed, and the runner's own figures, of one fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([modules, [*arguments, "--json", "--quiet"]]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{arguments} ended with {done.returncode}:\n{done.stderr}")
    figures = json.loads(done.stderr.strip().splitlines()[-1])
    if figures["code"]:
        raise SystemExit(f"{arguments} ended with {figures['code']}:\n{done.stdout}")
    return json.loads(done.stdout), figures


def write_annotations(folder: Path, videos: int) -> Path:
    """`videos` names for one small file, and one question about each."""
    generate(folder / "one", "test", 1, seed=1, workers=1)
    source = next((folder / "one").rglob("*.mp4"))
    (folder / "videos").mkdir()
    lines = []
    for number in range(videos):
        os.link(source, folder / "videos" / f"v{number:06d}.mp4")
        asked = {"question": "what moves?", "options": ["a circle", "a square"], "answer": 0}
        lines.append({"question_id": f"q{number}", "video": f"v{number:06d}.mp4", **asked})
    path = folder / "custom.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_features(workspace: Workspace, job: FeatureJob, tokens: int, width: int) -> Artifact:
    """The features artifact of a job: zeros, in the shards and under the fingerprint of the job."""
    config = job.config
    label = f"{config.benchmark}-{config.split}-{config.backbone}"
    draft = workspace.draft(
        Request("features", label, config.as_json(), {"questions": job.questions})
    )
    works = clip_works(job.questions)
    ranges = split_into_shards(len(works), config.videos_per_shard)
    sharded = ShardedDraft(draft, len(ranges), FEATURES, ".h5", ShardSelection())
    for claim in sharded.claims():
        rows, clips = [], []
        for number in ranges[claim.shard]:
            work = works[number]
            name = work.clips[0].video
            places = list(range(len(rows), len(rows) + FRAMES))
            span = ClipSpan(work.clips[0].clip, name, None, None)
            clips.append(StoredClip(span, FRAMES, 0, places, 0))
            rows += [StoredRow(name, frame, frame / 10, -1, 0) for frame in range(FRAMES)]
        values = np.full((len(rows), tokens, width), 0.5, np.float16)
        encoded = encode_rows(values, {"stored_as": "float16"})
        counts = {"total": len(clips), "done": len(clips), "failed": 0, "rows": len(rows)}
        record = shard_record(
            rows, clips, [], encoded.offsets, {**counts, "repeated": 0}, {"largest": 0.5}
        )
        sharded.commit(claim, encoded.image, record)
    facts = {"shards": len(ranges), "tokens": tokens, "width": width, "largest": 0.5}
    host = {"frames": "decoded from videos", "backbone": job.backbone}
    counts = merge_records(sharded.records(), draft.path)
    return draft.finish(counts, extra=facts, host=host)


def build(folder: Path, videos: int) -> dict[str, list[str]]:
    """A workspace in which all is done; each stage's command line."""
    from stages.artifacts.lookup import questions_of
    from stages.models.backbones.catalog import backbone_path
    from stages.models.backbones.folder import BackboneFolder
    from stages.models.backbones.towers import tower_spec

    annotations, where = write_annotations(folder, videos), ["-w", str(folder / "w")]
    custom = ["--benchmark", "custom"]
    prepare = ["prepare", *custom, "--split", "test", "--annotations", str(annotations)]
    prepare += ["--videos", str(folder / "videos"), *where]
    run(prepare, [])
    workspace = Workspace(folder / "w")
    backbone = str(backbone_path("tiny-blip2"))
    spec = tower_spec(BackboneFolder(backbone_path(backbone)))
    job = feature_job(
        workspace,
        questions_of(workspace, "custom", "test"),
        backbone,
        FeatureChoices(),
        device="auto",
        decoder="auto",
        from_videos=True,
        sampling={"frames": [FRAMES]},
    )
    write_features(workspace, job, spec.tokens, spec.width)
    extract = ["extract-features", *custom, "--backbone", backbone, "--from-videos"]
    extract += ["--frames", str(FRAMES), *where]
    evaluate = ["eval", *custom, "--split", "test", "--system", "blip2-voting"]
    evaluate += ["--select", "uniform", "--keep", "1", "--weights", "none", *where]
    run(evaluate, [])
    return {"extract-features": extract, "eval": evaluate, "prepare": prepare}


def measure(arguments: list[str], rounds: int) -> dict[str, Any]:
    """Medians over fresh processes; the first one only tells which modules there are."""
    modules = run(arguments, [])[1]["modules"]
    found = [run(arguments, modules) for _ in range(rounds)]
    reused = all(output["reused"] for output, _ in found)
    if not reused:
        raise SystemExit(f"{arguments} found something to do")
    seconds = [figures["seconds"] for _, figures in found]
    return {
        "seconds_beyond_imports": round(statistics.median(seconds), 3),
        "cpu_seconds": round(statistics.median(one["cpu"] for _, one in found), 3),
        "imports_seconds": round(statistics.median(one["imports"] for _, one in found), 3),
        "peak_bytes": max(one["peak_bytes"] for _, one in found),
        "within_limit": statistics.median(seconds) <= LIMIT,
        "rounds": [round(value, 3) for value in seconds],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        commands = build(Path(name), chosen.videos)
        stages = {stage: measure(line, chosen.rounds) for stage, line in commands.items()}
    load = [round(value, 2) for value in os.getloadavg()[:2]]
    print(
        json.dumps(
            {"videos": chosen.videos, "limit_seconds": LIMIT, "load": load, "stages": stages},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
