"""Memory stays flat over many videos."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

VIDEOS = 2000


def resident_bytes(pid: int) -> int:
    """What the process keeps in memory now, 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def sample_until_done(process: subprocess.Popen[str], shards: Path) -> list[tuple[int, int]]:
    """(shards done, resident bytes) every fifth of a second."""
    samples = []
    while process.poll() is None:
        done = len(list(shards.glob("*/features-*.json")))
        samples.append((done, resident_bytes(process.pid)))
        time.sleep(0.2)
    return [sample for sample in samples if sample[1]]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_is_flat_over_two_thousand_videos(
    real_vqa: Any,
    prepared: Any,
    tiny_backbone_folder: Path,
    tmp_path: Path,
) -> None:
    """The second half of the run takes no more than the first plus what the index needs."""
    videos = tmp_path / "videos"
    videos.mkdir()
    source = min((prepared.root / "questions").rglob("*.mp4")).read_bytes()
    lines = []
    for number in range(VIDEOS):
        (videos / f"{number}.mp4").write_bytes(source)
        asked = {"question": "what?", "options": ["a", "b"], "answer": 0}
        lines.append({"question_id": f"q{number}", "video": f"{number}.mp4", **asked})
    annotations = tmp_path / "custom.jsonl"
    annotations.write_text("".join(json.dumps(line) + "\n" for line in lines))
    workspace = tmp_path / "w"
    made = real_vqa(
        "prepare", "--benchmark", "custom", "--split", "test", "--annotations", annotations,
        "--videos", videos, "-w", workspace,
    )  # fmt: skip
    made.communicate()
    assert made.returncode == 0

    process = real_vqa(
        "extract-features", "--benchmark", "custom", "--backbone", tiny_backbone_folder,
        "--from-videos", "--frames", 8, "--set", "videos_per_shard=20", "-w", workspace,
    )  # fmt: skip
    samples = sample_until_done(process, workspace / "features")
    stdout, stderr = process.communicate()

    assert process.returncode == 0, stderr
    assert json.loads(stdout)["counts"]["done"] == VIDEOS
    last = max(done for done, _ in samples)
    early = max(size for done, size in samples if 0.1 * last <= done < 0.3 * last)
    late = np.median([size for done, size in samples if 0.9 * last <= done < last])
    print(f"resident: {early / 2**20:.1f} MiB early, {late / 2**20:.1f} MiB late")  # noqa: T201
    assert late - early < 16 * 2**20
