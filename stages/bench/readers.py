"""Stored rows read three ways: as the stages do, through a plain memory map, through plain h5py.

Loader processes import this module alone, so it stays free of what they do not need.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from stages.artifacts.rows import DATASET, RowReader, encode_rows
from stages.core.errors import MachineError

VIDEOS_PER_SHARD = 8
RAW = "rows.raw"
DTYPE = np.dtype(np.float16)
JOIN_SECONDS = 60.0
ROUND_BYTES = 64_000_000
"""What a round reads at least: shorter ones would time the waking of processes."""

Read = Callable[[int, Any], None]
"""Copies frames of a video, by its number, into an array."""


@dataclass(frozen=True)
class Stored:
    """The same rows in `folder` twice: as feature shards and as one raw file.

    Attributes:
        folder: Where they are.
        offsets: Byte offsets of each shard's rows.
        frames: T, rows of a video.
        row: Tokens and width of a row.
        kept: Places among the T frames that are read; all, or K of them.
    """

    folder: Path
    offsets: tuple[tuple[int, ...], ...]
    frames: int
    row: tuple[int, int]
    kept: tuple[int, ...]

    @property
    def videos(self) -> int:
        """How many videos."""
        return sum(map(len, self.offsets)) // self.frames

    @property
    def video_bytes(self) -> int:
        """Bytes that are asked for of one video."""
        return len(self.kept) * self.row[0] * self.row[1] * DTYPE.itemsize

    @property
    def passes(self) -> int:
        """How often the videos are read in a round."""
        return max(1, ROUND_BYTES // (self.videos * self.video_bytes))

    @property
    def round_gigabytes(self) -> float:
        """What one process reads in a round."""
        return self.passes * self.videos * self.video_bytes / 1e9

    def order(self, generator: Any) -> list[int]:
        """The videos of a round in random order."""
        return [int(n) for _ in range(self.passes) for n in generator.permutation(self.videos)]

    def empty(self) -> Any:
        """An array for what is read of one video, written to once."""
        return np.zeros((len(self.kept), *self.row), DTYPE)


def write_rows(folder: Path, videos: int, frames: int, row: tuple[int, int]) -> Stored:
    """Random rows, written both ways."""
    generator = np.random.default_rng(0)
    offsets = []
    with (folder / RAW).open("wb") as raw:
        for shard, first in enumerate(range(0, videos, VIDEOS_PER_SHARD)):
            count = frames * min(VIDEOS_PER_SHARD, videos - first)
            rows = generator.standard_normal((count, *row), np.float32).astype(DTYPE)
            encoded = encode_rows(rows)
            (folder / f"{shard}.h5").write_bytes(encoded.image)
            offsets.append(tuple(int(value) for value in encoded.offsets))
            raw.write(rows.tobytes())
    return Stored(folder, tuple(offsets), frames, row, tuple(range(frames)))


def row_reader(stored: Stored) -> Read:
    """Our reader."""
    reader = RowReader(
        [stored.folder / f"{shard}.h5" for shard in range(len(stored.offsets))],
        np.repeat(np.arange(len(stored.offsets)), [len(part) for part in stored.offsets]),
        np.concatenate([np.asarray(part) for part in stored.offsets]),
        stored.row,
        DTYPE,
    )
    kept = np.asarray(stored.kept)

    def read(video: int, out: Any) -> None:
        reader.read(video * stored.frames + kept, out)

    return read


def memmap(stored: Stored) -> Read:
    """A plain memory map of the same bytes."""
    path = stored.folder / RAW
    mapped = np.memmap(path, dtype=DTYPE, mode="r").reshape(-1, *stored.row)
    kept = np.asarray(stored.kept)
    whole = len(kept) == stored.frames

    def read(video: int, out: Any) -> None:
        first = video * stored.frames
        out[...] = mapped[first : first + stored.frames] if whole else mapped[first + kept]

    return read


def plain_h5py(stored: Stored) -> Read:
    """`dataset.read_direct`, all frames in one call or one call a frame."""
    files = [
        h5py.File(stored.folder / f"{shard}.h5", "r", locking=False)
        for shard in range(len(stored.offsets))
    ]
    whole = len(stored.kept) == stored.frames

    def read(video: int, out: Any) -> None:
        shard, first = divmod(video * stored.frames, VIDEOS_PER_SHARD * stored.frames)
        data = files[shard][DATASET]
        if whole:
            data.read_direct(out, np.s_[first : first + stored.frames])
            return
        for place, frame in enumerate(stored.kept):
            data.read_direct(out, np.s_[first + frame], np.s_[place])

    return read


WAYS: dict[str, Callable[[Stored], Read]] = {
    "row_reader": row_reader,
    "memmap": memmap,
    "h5py": plain_h5py,
}


def pass_over(read: Read, order: Sequence[int], out: Any) -> float:
    """Seconds to read the videos in this order."""
    began = time.perf_counter()
    for video in order:
        read(video, out)
    return time.perf_counter() - began


def one_process(stored: Stored, rounds: int) -> dict[str, list[float]]:
    """GB/s of every way, the ways taking turns, each over the same random order."""
    out = stored.empty()
    reads = {name: open_rows(stored) for name, open_rows in WAYS.items()}
    for read in reads.values():
        pass_over(read, range(stored.videos), out)  # fills the page cache
    generator = np.random.default_rng(1)
    found: dict[str, list[float]] = {name: [] for name in reads}
    for _ in range(rounds):
        order = stored.order(generator)
        for name, read in reads.items():
            found[name].append(stored.round_gigabytes / pass_over(read, order, out))
    return found


def several_processes(stored: Stored, rounds: int, loaders: int) -> dict[str, list[float]]:
    """GB/s of all loaders together, every round from the first's start to the last's end."""
    context = multiprocessing.get_context("spawn")
    barriers: dict[str, Any] = {}
    processes = []
    for way in WAYS:
        barriers[way] = context.Barrier(loaders + 1)
        for seed in range(loaders):
            arguments = (way, stored, seed, barriers[way], rounds)
            processes.append(context.Process(target=_loader, args=arguments, daemon=True))
            processes[-1].start()
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    total = loaders * stored.round_gigabytes
    try:
        for _ in range(rounds):
            for way, barrier in barriers.items():
                found[way].append(total / _one_round(barrier))
    except threading.BrokenBarrierError:
        raise MachineError(
            f"{len(processes)} loader processes did not all start within {JOIN_SECONDS:.0f} s",
            "fewer of them: --loaders",
        ) from None
    finally:
        for process in processes:
            process.join(JOIN_SECONDS if all(found.values()) else 0)
            process.kill()
    return found


def _one_round(barrier: Any) -> float:
    """Seconds from the start that all loaders of a way make together to the end of the last."""
    barrier.wait(JOIN_SECONDS)
    began = time.perf_counter()
    barrier.wait(JOIN_SECONDS)
    return time.perf_counter() - began


def _loader(way: str, stored: Stored, seed: int, barrier: Any, rounds: int) -> None:
    """One loader process: all start a round together and wait for the last."""
    out = stored.empty()
    read = WAYS[way](stored)
    pass_over(read, range(stored.videos), out)
    generator = np.random.default_rng(seed)
    for _ in range(rounds):
        order = stored.order(generator)
        barrier.wait(JOIN_SECONDS)
        pass_over(read, order, out)
        barrier.wait(JOIN_SECONDS)
