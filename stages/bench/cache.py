"""How fast stored features are read at random, beside a plain memory map of the same bytes.

Whole videos and K of T frames, in one process and in several loader processes, from a warm cache.
Writes its rows into a folder of its own, which is removed.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from stages.artifacts.atomic import free_bytes
from stages.bench.clock import head
from stages.bench.networks import Source
from stages.bench.readers import Stored, one_process, several_processes, write_rows
from stages.core.config import Config
from stages.core.errors import MachineError
from stages.core.midpoints import midpoint_indices

TARGET = 0.8
"""Share of the memory map's rate that reading should reach."""


class CacheConfig(Config):
    """What is measured."""

    backbone: str = "full"
    """Whose rows: a name, a folder, or a size."""
    frames: int = Field(default=32, ge=1)
    """T, rows of a video."""
    keep: int = Field(default=4, ge=1)
    """K, rows that a student reads."""
    videos: int = Field(default=8, ge=1)
    """Videos that are written."""
    rounds: int = Field(default=5, ge=1)
    """Rounds in which the ways take turns."""
    loaders: int = Field(default=4, ge=1)
    """Loader processes."""


def cache(config: CacheConfig, folder: Path | None, command: str) -> dict[str, Any]:
    """The record.

    Args:
        config: What is measured.
        folder: On whose file system; none: the temporary one.
        command: The command line.

    Raises:
        MachineError: Not enough room.
    """
    backbone = Source(config.backbone, torch.device("cpu"), "float32").size("instructblip")
    row = (backbone.tower.tokens, backbone.tower.width)
    size = 2 * 2 * config.videos * config.frames * row[0] * row[1]
    with tempfile.TemporaryDirectory(dir=folder) as name:
        if free_bytes(Path(name)) < 1.1 * size:
            raise MachineError(
                f"no room for {size / 1e6:,.0f} MB in {Path(name).parent}",
                "--workspace on another disk, or fewer --videos",
            )
        stored = write_rows(Path(name), config.videos, config.frames, row)
        found = {"whole_videos": _measured(stored, config)}
        if config.keep < config.frames:
            kept = tuple(int(n) for n in midpoint_indices(0, config.frames, config.keep))
            found["k_of_t_frames"] = _measured(replace(stored, kept=kept), config)
    record = {
        **head("cache", "cpu", command, clock="wall", config=config.as_json()),
        "row": {"tokens": row[0], "width": row[1], "dtype": "float16"},
        "bytes_on_disk": size // 2,
        **found,
    }
    if backbone.published:
        share = found["whole_videos"]["one_process"]["share_of_memmap"]["row_reader"]
        record["targets"] = {"share_of_memmap": {"at_least": TARGET, "met": share >= TARGET}}
    if "k_of_t_frames" in found:
        record["share_of_bytes_for_k_of_t"] = round(config.keep / config.frames, 4)
        record["share_of_seconds_for_k_of_t"] = _share_of_seconds(found)
    return record


def _measured(stored: Stored, config: CacheConfig) -> dict[str, Any]:
    return {
        "bytes_per_video": stored.video_bytes,
        "one_process": summary(one_process(stored, config.rounds)),
        f"{config.loaders}_loaders": summary(
            several_processes(stored, config.rounds, config.loaders)
        ),
    }


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians in GB/s, and each way's share of the memory map's speed, median over rounds."""
    shares = {
        name: statistics.median(
            ours / theirs for ours, theirs in zip(values, found["memmap"], strict=True)
        )
        for name, values in found.items()
        if name != "memmap"
    }
    return {
        "gb_per_second": {name: round(statistics.median(v), 3) for name, v in found.items()},
        "share_of_memmap": {name: round(value, 3) for name, value in shares.items()},
        "rounds": {name: [round(value, 3) for value in values] for name, values in found.items()},
    }


def _share_of_seconds(found: dict[str, dict[str, Any]]) -> float:
    """Seconds of K of T frames of a video, as a share of those of all T, in one process."""

    def seconds(name: str) -> float:
        part = found[name]
        return float(part["bytes_per_video"] / part["one_process"]["gb_per_second"]["row_reader"])

    return round(seconds("k_of_t_frames") / seconds("whole_videos"), 4)
