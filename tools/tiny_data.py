"""Pre-training pictures for the embedded backbones: decoded frames of generated videos, labelled.

The videos come from splits of their own ("pretrain", "card"), whose random streams the benchmark's
splits never use. Frames pass through H.264 and the same squash to the stored size as in the
pipeline. Writes one .npz per split into a work folder and reads it back.
"""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from stages.benchmarks.shapes.generate import plan_video, video_name, write_video
from stages.benchmarks.shapes.scene import COLORS, PLACES, SHAPES
from stages.benchmarks.shapes.timeline import Timeline, video_rng

IMAGE_SIZE = 48
NUM_FRAMES = 32
LABELS = ("moment", "shape", "color", "place", "x", "y", "radius")
NOTHING = -1


@dataclass(frozen=True)
class Clips:
    """Frames of many videos and what each shows.

    Attributes:
        pixels: uint8 [V, 32, side, side, 3]; the side is IMAGE_SIZE unless another is asked for.
        labels: int16 [V, 32, 7], the columns of `LABELS`; all -1 where no object is shown.
            `moment` counts in time order; x, y, radius are in pixels of the generated picture.
    """

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int16]


def _frame_labels(timeline: Timeline, index: int) -> list[int]:
    for number, moment in enumerate(timeline.moments):
        if moment.first <= index <= moment.last:
            look = moment.look
            progress = (index - moment.first) / max(1, moment.last - moment.first)
            words = (SHAPES.index(look.shape), COLORS.index(look.color), PLACES.index(look.place))
            return [number, *words, *look.center_at(progress), round(look.radius)]
    return [NOTHING] * len(LABELS)


def _frame_indices(num_frames: int, rng: np.random.Generator | None) -> list[int]:
    """One frame of each of 32 equal intervals: random with `rng`, else the middle one."""
    bounds = np.linspace(0, num_frames, NUM_FRAMES + 1).astype(int)
    pairs = list(itertools.pairwise(bounds))
    if rng is None:
        return [int((low + high) // 2) for low, high in pairs]
    return [int(rng.integers(low, max(low + 1, high))) for low, high in pairs]


def _decode(path: Path, side: int) -> list[npt.NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [
            frame.reformat(
                width=side, height=side, format="rgb24", interpolation="BILINEAR"
            ).to_ndarray()
            for frame in container.decode(video=0)
        ]


def _one_video(
    split: str, seed: int, random_frames: bool, side: int, index: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int16]]:
    timeline, _ = plan_video(split, seed, False, index)
    rng = video_rng(seed, split, index, "frames") if random_frames else None
    chosen = _frame_indices(timeline.num_frames, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(video_name(split, seed, index)).name
        write_video(path, timeline, video_rng(seed, split, index, "picture"))
        frames = _decode(path, side)
    labels = np.array([_frame_labels(timeline, i) for i in chosen], dtype=np.int16)
    return np.stack([frames[i] for i in chosen]), labels


def make_clips(
    split: str, seed: int, num_videos: int, workers: int, random_frames: bool, side: int
) -> Clips:
    """Generate, encode, decode and label `num_videos` videos."""
    work = partial(_one_video, split, seed, random_frames, side)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        results = list(pool.map(work, range(num_videos), chunksize=16))
    pixels, labels = zip(*results, strict=True)
    return Clips(np.stack(pixels), np.stack(labels))


def cached_clips(
    folder: Path,
    split: str,
    seed: int,
    num_videos: int,
    workers: int,
    random_frames: bool,
    side: int = IMAGE_SIZE,
) -> Clips:
    """`make_clips`, kept in `folder` so that a later stage of the training can start at once."""
    size = "" if side == IMAGE_SIZE else f"-{side}px"
    path = folder / f"{split}-{seed}-{num_videos}{size}.npz"
    if path.exists():
        with np.load(path) as stored:
            return Clips(stored["pixels"], stored["labels"])
    clips = make_clips(split, seed, num_videos, workers, random_frames, side)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(path, pixels=clips.pixels, labels=clips.labels)
    return clips
