"""Frames per second of the decode pool, beside processes that do nothing but decode.

The clips are generated: H.264, `seconds` long, of moving colour. N midpoints of each are brought to
224 x 224. The plain way is one process with decord (PyAV where decord has no build), opening each
file and asking for the same frames; the pool has to reach 0.9 of as many such processes as it has
workers. Starting processes is in neither figure.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from pydantic import Field, model_validator

from stages.bench.clock import head
from stages.core.config import Config
from stages.core.errors import MachineError
from stages.core.midpoints import midpoint_indices
from stages.video import resolve_decoder
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat
from stages.video.tasks import ClipFrames, Decoded, DecodeTask

TARGET = 0.9
FPS = 25
SIZE = 224
_PLAIN = """
import json, sys, time
paths, indices, passes, decoder = json.loads(sys.stdin.readline())
if decoder == "decord":
    import decord
    def frames(path):
        reader = decord.VideoReader(path, width={size}, height={size}, num_threads=1)
        return reader.get_batch(indices).asnumpy()
else:
    import av, numpy
    def frames(path):
        with av.open(path) as container:
            container.streams.video[0].thread_count = 1
            wanted, found = set(indices), []
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    small = frame.reformat({size}, {size}, "rgb24", interpolation="BILINEAR")
                    found.append(small.to_ndarray())
        return numpy.stack(found)
frames(paths[0])
for line in sys.stdin:
    began = time.perf_counter()
    count = sum(len(frames(path)) for _ in range(passes) for path in paths)
    print(json.dumps([count, time.perf_counter() - began]), flush=True)
"""


class DecodeConfig(Config):
    """What is measured."""

    frames: int = Field(default=32, ge=1)
    """Frames of a clip."""
    seconds: int = Field(default=30, ge=1)
    """Length of a clip."""
    width: int = Field(default=480, ge=16, multiple_of=2)
    """Width of the files."""
    height: int = Field(default=270, ge=16, multiple_of=2)
    """Height of the files."""
    clips: int = Field(default=4, ge=1)
    """Files."""
    passes: int = Field(default=4, ge=1)
    """How often each file is decoded in a round."""
    workers: int = Field(default=2, ge=1)
    """Decode processes."""
    rounds: int = Field(default=3, ge=1)
    """Rounds in which the ways take turns."""
    decoder: str = "auto"
    """Decoder of the pool."""

    @model_validator(mode="after")
    def _has_the_frames(self) -> DecodeConfig:
        if self.frames > self.seconds * FPS:
            raise ValueError(
                f"{self.frames} frames of a clip of {self.seconds} s at {FPS} frames a second"
            )
        return self


def decode(config: DecodeConfig, folder: Path | None, command: str) -> dict[str, Any]:
    """The record; clips are written into `folder`, or the temporary one, and removed again."""
    plain = "decord" if resolve_decoder("auto") == "decord" else "pyav"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        paths = write_clips(Path(name), config)
        found = _rounds(paths, config, plain)
    share = statistics.median(
        pool / (config.workers * one)
        for pool, one in zip(found["pool"], found["one_process"], strict=True)
    )
    together = statistics.median(
        pool / both for pool, both in zip(found["pool"], found["processes_together"], strict=True)
    )
    return {
        **head("decode", "cpu", command, clock="wall", config=config.as_json()),
        "plain_decoder": plain,
        "pool_decoder": resolve_decoder(config.decoder),
        "frames_per_second": {key: round(statistics.median(v), 1) for key, v in found.items()},
        "pool_over_workers_times_one_process": round(share, 3),
        "pool_over_processes_together": round(together, 3),
        "targets": {
            "pool_over_workers_times_one_process": {"at_least": TARGET, "met": share >= TARGET}
        },
        "rounds": {key: [round(value, 1) for value in values] for key, values in found.items()},
    }


def write_clips(folder: Path, config: DecodeConfig) -> list[Path]:
    """One H.264 file and copies of it, so that every file is opened anew."""
    first = folder / "clip-0.mp4"
    write_clip(first, config.width, config.height, config.seconds * FPS)
    paths = [first]
    for number in range(1, config.clips):
        paths.append(folder / f"clip-{number}.mp4")
        paths[-1].write_bytes(first.read_bytes())
    return paths


def write_clip(path: Path, width: int, height: int, frames: int) -> None:
    """A file of moving colour with key frames about every ten seconds, as encoders set them."""
    across = np.arange(width)[None, :, None]
    down = np.arange(height)[:, None, None]
    colour = np.array([1, 2, 3])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "veryfast", "threads": "1"}
        for number in range(frames):
            values = (across * colour + down * (4 - colour) + 3 * number * colour) % 256
            picture = av.VideoFrame.from_ndarray(values.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _rounds(paths: list[Path], config: DecodeConfig, plain: str) -> dict[str, list[float]]:
    """Frames per second of every way in every round."""
    found: dict[str, list[float]] = {"pool": [], "one_process": [], "processes_together": []}
    indices = [int(n) for n in midpoint_indices(0, config.seconds * FPS, config.frames)]
    job = json.dumps([[str(path) for path in paths], indices, config.passes, plain])
    processes = [_start(job) for _ in range(config.workers)]
    try:
        with DecodePool(config.workers, config.decoder) as pool:
            pool_rate(pool, paths, config)  # starts the workers
            for _ in range(config.rounds):
                found["pool"].append(pool_rate(pool, paths, config))
                found["one_process"].append(_plain_rate(processes[:1]))
                found["processes_together"].append(_plain_rate(processes))
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return found


def pool_rate(pool: DecodePool, paths: Sequence[Path], config: DecodeConfig) -> float:
    """Frames per second of one pass of the pool.

    Raises:
        MachineError: A generated file could not be decoded here.
    """
    plans = (ClipFrames(config.frames),)
    tasks = [
        DecodeTask(str(number), path, plans, FrameFormat.squash(SIZE))
        for number in range(config.passes * config.workers)
        for path in paths
    ]
    count = 0
    began = time.perf_counter()
    for result in pool.imap(tasks):
        if not isinstance(result, Decoded):
            raise MachineError(f"a generated clip cannot be decoded: {result.decoder_words}")
        count += len(result.batch.indices)
    return count / (time.perf_counter() - began)


def _start(job: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PLAIN.format(size=SIZE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(job + "\n")
    process.stdin.flush()
    return process


def _plain_rate(processes: Sequence[subprocess.Popen[str]]) -> float:
    """Frames per second of these processes together."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    rates = []
    for process in processes:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise MachineError("the plain decoder's process ended", "run again with --debug")
        count, seconds = json.loads(line)
        rates.append(count / seconds)
    return float(sum(rates))
