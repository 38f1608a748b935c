"""How fast whole videos are read at random from stored features, beside a plain memory map.

    python benchmarks/bench_feature_reads.py [--videos 24] [--rounds 7] [--folder DIR]

Writes the same rows twice, as feature shards (HDF5, one chunk a frame) and as one raw file, and
reads whole videos (32 frames of 257 x 1408 float16) in random order from a warm cache into one
preallocated array: through `RowReader`, through a numpy memmap of the raw file, and through plain
h5py. In one process, and in four loader processes at once. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stages.artifacts.rows import DATASET, RowReader, encode_rows

FRAMES, TOKENS, WIDTH = 32, 257, 1408
VIDEOS_PER_SHARD = 8
LOADERS = 4
ROW = (TOKENS, WIDTH)
DTYPE = np.dtype(np.float16)
VIDEO_BYTES = FRAMES * TOKENS * WIDTH * DTYPE.itemsize

Read = Callable[[int, Any], None]
"""Copies the frames of a video into an array."""


def write_files(folder: Path, videos: int) -> list[list[int]]:
    """Feature shards and the raw file; returns the byte offsets of each shard's rows."""
    generator = np.random.default_rng(0)
    offsets = []
    with (folder / "rows.raw").open("wb") as raw:
        for shard, first in enumerate(range(0, videos, VIDEOS_PER_SHARD)):
            count = FRAMES * min(VIDEOS_PER_SHARD, videos - first)
            rows = generator.standard_normal((count, *ROW), np.float32).astype(DTYPE)
            encoded = encode_rows(rows)
            (folder / f"{shard}.h5").write_bytes(encoded.image)
            offsets.append(encoded.offsets)
            raw.write(rows.tobytes())
    return offsets


def row_reader(folder: Path, offsets: list[list[int]]) -> Read:
    """Our reader."""
    reader = RowReader(
        [folder / f"{shard}.h5" for shard in range(len(offsets))],
        np.repeat(np.arange(len(offsets)), [len(part) for part in offsets]),
        np.concatenate([np.asarray(part) for part in offsets]),
        ROW,
        DTYPE,
    )

    def read(video: int, out: Any) -> None:
        reader.read(np.arange(video * FRAMES, (video + 1) * FRAMES), out)

    return read


def memmap(folder: Path, offsets: list[list[int]]) -> Read:
    """A plain memory map of the same bytes."""
    mapped = np.memmap(folder / "rows.raw", dtype=DTYPE, mode="r").reshape(-1, *ROW)

    def read(video: int, out: Any) -> None:
        out[...] = mapped[video * FRAMES : (video + 1) * FRAMES]

    return read


def plain_h5py(folder: Path, offsets: list[list[int]]) -> Read:
    """`dataset.read_direct` into the same array."""
    files = [h5py.File(folder / f"{shard}.h5", "r", locking=False) for shard in range(len(offsets))]

    def read(video: int, out: Any) -> None:
        shard, first = divmod(video * FRAMES, VIDEOS_PER_SHARD * FRAMES)
        files[shard][DATASET].read_direct(out, np.s_[first : first + FRAMES])

    return read


WAYS: dict[str, Callable[[Path, list[list[int]]], Read]] = {
    "row_reader": row_reader,
    "memmap": memmap,
    "h5py": plain_h5py,
}


def pass_over(read: Read, order: Any, out: Any) -> float:
    """Seconds to read the videos in this order."""
    started = time.perf_counter()
    for video in order:
        read(int(video), out)
    return time.perf_counter() - started


def one_process(folder: Path, offsets: list[list[int]], rounds: int) -> dict[str, list[float]]:
    """GB/s of every round; the ways take turns, so that a slow moment meets all of them."""
    videos = sum(map(len, offsets)) // FRAMES
    out = np.zeros((FRAMES, *ROW), DTYPE)
    reads = {name: make(folder, offsets) for name, make in WAYS.items()}
    generator = np.random.default_rng(1)
    for read in reads.values():
        pass_over(read, range(videos), out)  # warms the page cache and the maps
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        order = generator.permutation(videos)
        for name, read in reads.items():
            found[name].append(videos * VIDEO_BYTES / pass_over(read, order, out) / 1e9)
    return found


def loader(
    way: str, folder: Path, offsets: list[list[int]], seed: int, barrier: Any, rounds: int
) -> None:
    """One loader process: all start a round together and wait for the last."""
    videos = sum(map(len, offsets)) // FRAMES
    out = np.zeros((FRAMES, *ROW), DTYPE)
    read = WAYS[way](folder, offsets)
    pass_over(read, range(videos), out)
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        order = generator.permutation(videos)
        barrier.wait()
        pass_over(read, order, out)
        barrier.wait()


def with_loaders(folder: Path, offsets: list[list[int]], rounds: int) -> dict[str, list[float]]:
    """GB/s of all loaders together, every round from the first's start to the last's end."""
    videos = sum(map(len, offsets)) // FRAMES
    context = multiprocessing.get_context("spawn")
    barriers, processes = {}, []
    for way in WAYS:
        barriers[way] = context.Barrier(LOADERS + 1)
        for seed in range(LOADERS):
            arguments = (way, folder, offsets, seed, barriers[way], rounds)
            processes.append(context.Process(target=loader, args=arguments))
            processes[-1].start()
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, barrier in barriers.items():
            barrier.wait()
            started = time.perf_counter()
            barrier.wait()
            seconds = time.perf_counter() - started
            found[way].append(LOADERS * videos * VIDEO_BYTES / seconds / 1e9)
    for process in processes:
        process.join()
    return found


def summary(found: dict[str, list[float]]) -> dict[str, Any]:
    """Medians in GB/s, and each way's share of the memmap's speed, median over rounds."""
    median = {name: round(statistics.median(values), 3) for name, values in found.items()}
    shares = {
        name: round(
            statistics.median(
                ours / theirs for ours, theirs in zip(values, found["memmap"], strict=True)
            ),
            3,
        )
        for name, values in found.items()
        if name != "memmap"
    }
    rounds = {name: [round(value, 3) for value in values] for name, values in found.items()}
    return {"gb_per_second": median, "share_of_memmap": shares, "rounds": rounds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where the files go [a temporary folder]")
    parser.add_argument("--machine", default="", help="a description, for the record")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        offsets = write_files(Path(name), given.videos)
        single = one_process(Path(name), offsets, given.rounds)
        loaders = with_loaders(Path(name), offsets, given.rounds)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": given.machine or f"{platform.system()} {platform.machine()}",
        "load_average": os.getloadavg()[0],
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"numpy": np.__version__, "h5py": h5py.__version__},
        "row": {"shape": list(ROW), "dtype": DTYPE.name, "frames_per_video": FRAMES},
        "videos": given.videos,
        "bytes": given.videos * VIDEO_BYTES,
        "target_share_of_memmap": 0.8,
        "one_process": summary(single),
        "four_loaders": summary(loaders),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
