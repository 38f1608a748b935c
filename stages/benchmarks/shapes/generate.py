"""Seed -> mp4 files and their questions, for the `shapes` benchmark.

Writes `<out_dir>/<split>/<video>.mp4` (H.264, 96 x 96, 8 frames a second) and returns the questions
as records of the `custom` JSONL layout. The same seed gives the same bytes for any number of
workers: every video has its own random stream and is encoded by one x264 thread.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from stages.benchmarks.shapes.questions import Record, draw_questions
from stages.benchmarks.shapes.scene import SIZE, draw_background, object_mask, paint
from stages.benchmarks.shapes.timeline import FPS, Timeline, draw_timeline, video_rng
from stages.core.errors import MachineError, UsageError

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 1
"""Raised whenever the same seed would give other videos or questions."""
DEFAULT_VIDEOS = {"train": 400, "val": 60, "test": 200}
_ENCODER = {"preset": "superfast", "crf": "20", "threads": "1", "g": "24", "bf": "0"}
_SPAWN_WORTHWHILE = 16
PARENT_CHECK_SECONDS = 0.1


def generator_identity() -> dict[str, str | int]:
    """What decides the bytes besides seed, split and size; belongs to fingerprints."""
    return {
        "generator": GENERATOR_VERSION,
        "pyav": av.__version__,
        "libavcodec": ".".join(str(part) for part in av.library_versions["libavcodec"]),
    }


def write_video(path: Path, timeline: Timeline, rng: np.random.Generator) -> None:
    """Paint and encode one video; the file appears under its name only when it is complete."""
    background = draw_background(rng)
    masks = [object_mask(moment.look) for moment in timeline.moments]
    unfinished = path.with_name(path.name + ".tmp")
    with av.open(str(unfinished), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=dict(_ENCODER))
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for index in range(timeline.num_frames):
            picture = background.at(index / FPS)
            for moment, mask in zip(timeline.moments, masks, strict=True):
                if moment.first <= index <= moment.last:
                    progress = (index - moment.first) / max(1, moment.last - moment.first)
                    paint(picture, mask, moment.look.rgb, moment.look.center_at(progress))
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    unfinished.replace(path)


def video_name(split: str, seed: int, index: int) -> str:
    """Path below the video root."""
    return f"{split}/shapes-{split}-{seed}-{index:05d}.mp4"


def plan_video(split: str, seed: int, hard: bool, index: int) -> tuple[Timeline, list[Record]]:
    """Timeline and questions of one video, without writing it."""
    timeline = draw_timeline(video_rng(seed, split, index, "timeline"))
    rng = video_rng(seed, split, index, "hard-questions" if hard else "questions")
    stem = f"{split}-{seed}-{index:05d}"
    return timeline, draw_questions(rng, timeline, video_name(split, seed, index), stem, hard)


def _write_one(out_dir: Path, split: str, seed: int, hard: bool, index: int) -> list[Record]:
    timeline, records = plan_video(split, seed, hard, index)
    path = out_dir / video_name(split, seed, index)
    try:
        write_video(path, timeline, video_rng(seed, split, index, "picture"))
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error}", "check free disk space") from None
    return records


def _end_with_parent(parent: int) -> None:
    """Watch the parent and end soon after it: pool workers outlive a killed one otherwise.

    They would go on writing into a folder that the next run is writing as well.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _each_video(
    out_dir: Path, split: str, seed: int, hard: bool, num_videos: int, workers: int
) -> list[list[Record]]:
    write = partial(_write_one, out_dir, split, seed, hard)
    if workers <= 1 or num_videos < _SPAWN_WORTHWHILE:
        return [write(index) for index in range(num_videos)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_end_with_parent, initargs=(os.getpid(),)
    ) as pool:
        return list(pool.map(write, range(num_videos), chunksize=8))


def generate(
    out_dir: Path,
    split: str,
    num_videos: int,
    seed: int,
    hard: bool = False,
    workers: int | None = None,
) -> list[Record]:
    """Write the videos of one split and return their questions, three a video.

    Args:
        out_dir: Video root; files go to `<out_dir>/<split>/`. Files of the same name are replaced.
        split: Any name; videos of different splits or seeds are drawn independently.
        hard: Questions over two moments instead of one. The videos are the same.
        workers: Processes; default: the processors this process may use.

    Raises:
        UsageError: `num_videos` or `seed` is impossible.
        MachineError: The folder cannot be written.
    """
    if num_videos < 1 or seed < 0:
        raise UsageError(f"shapes needs num_videos >= 1 and seed >= 0, not {num_videos} and {seed}")
    try:
        (out_dir / split).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot write to {out_dir / split}: {error}") from None
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    per_video = _each_video(out_dir, split, seed, hard, num_videos, workers)
    records = [record for records in per_video for record in records]
    logger.info("shapes/%s: %d videos, %d questions", split, num_videos, len(records))
    return records


def write_jsonl(path: Path, records: Iterable[Record]) -> None:
    """Records as a `custom` JSONL file, one question a line, for `vqa prepare`."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    unfinished.replace(path)
