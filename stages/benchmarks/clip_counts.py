"""How many clips a split's videos hold, known before any table is read."""

from __future__ import annotations

from stages.artifacts.store import Artifact
from stages.benchmarks.manifest import load_manifest


def clips_in_videos(questions: Artifact) -> tuple[int, int]:
    """Usable videos of a split and clips of each, on average and at most; the manifest tells.

    Questions about a part of a video may share it; each is counted.
    """
    videos = int(questions.manifest["coverage"]["videos"].get("found", 0))
    if not videos or load_manifest(questions.config["benchmark"]).clip == "whole":
        return videos, 1
    return videos, -(-questions.counts["done"] // videos)
