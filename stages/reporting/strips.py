"""Thumbnails of the shown clips: one picture a clip, all of its frames side by side.

Reads: the videos, decoded once more.   Writes nothing.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from stages.artifacts.clips import ClipKey, ClipSpan
from stages.artifacts.questions import video_records
from stages.artifacts.store import Artifact
from stages.core.errors import MissingInput
from stages.core.runtime import Runtime
from stages.report_page.model import Strip
from stages.reporting.choice import evenly
from stages.video.clips import VideoWork, video_works
from stages.video.pool import DecodePool
from stages.video.resize import FrameFormat
from stages.video.tasks import ClipFrames, Decoded, DecodeFailure, DecodeTask, ExactFrames

EVEN_TILES = 16
MOST_TILES = 40
HEIGHT = 72
WIDEST, NARROWEST = 128, 24
RUNGS = (
    (72, 75), (72, 55), (72, 40), (64, 35), (56, 30), (48, 25), (48, 12), (40, 5), (32, 1), (24, 0)
)  # fmt: skip
"""(height of a tile, quality), each smaller in bytes than the one before."""
ENCODING_EFFORT = 2
"""Of WebP, from 0 to 6; more is slower and a few percent smaller."""
LEAST_BYTES, MOST_BYTES = 2_000, 36_000
"""Of one clip's picture, before base64."""


@dataclass(frozen=True)
class ClipPictures:
    """What a page shows of one clip.

    Attributes:
        strip: For the page.
        tiles: Frame number -> its place in the strip.
    """

    strip: Strip
    tiles: Mapping[int, int]


@dataclass
class WantedClip:
    """One shown clip and the frames that systems kept in it.

    Attributes:
        span: The clip.
        kept: Frame number -> how often it was kept.
    """

    span: ClipSpan
    kept: Counter[int] = field(default_factory=Counter)


def picture_format() -> dict[str, str]:
    """What decides the bytes of a picture, besides its pixels."""
    webp = features.version("webp") if features.check("webp") else None
    kind = {"picture": "webp", "webp": str(webp)} if webp else {"picture": "jpeg"}
    return {**kind, "pillow": PIL.__version__}


def budget_per_clip(free_bytes: int, num_clips: int) -> int:
    """Bytes of one picture so that all of them, in base64, take at most `free_bytes`.

    No clip has less than `LEAST_BYTES`, which the smallest rung needs.
    """
    share = free_bytes * 3 // 4 // max(num_clips, 1)
    return max(LEAST_BYTES, min(MOST_BYTES, share))


def clip_pictures(
    questions: Artifact, wanted: Sequence[WantedClip], budget: int, runtime: Runtime
) -> dict[ClipKey, ClipPictures]:
    """The strip of each clip; one that cannot be decoded says why instead.

    Args:
        questions: Whose videos are read.
        wanted: The clips.
        budget: Bytes of one picture before base64.
        runtime: Decode processes.
    """
    if not wanted:
        return {}
    by_key = {clip.span.key: clip for clip in wanted}
    records = video_records(questions)
    try:
        works = video_works(questions, [clip.span for clip in wanted], records)
    except MissingInput:
        return {
            key: _without(clip.span, records, "the video folder is gone")
            for key, clip in by_key.items()
        }
    made = {
        span.key: _without(span, records, work.problem)
        for work in works
        if work.path is None
        for span in work.clips
    }
    readable = [work for work in works if work.path is not None]
    tasks = [_task(work, by_key, records[work.video]) for work in readable]
    with DecodePool(min(runtime.num_workers, max(len(tasks), 1))) as pool:
        for number, (work, result) in enumerate(zip(readable, pool.imap(tasks), strict=True)):
            for key, pictures in _drawn(work, result, by_key, records, budget):
                made[key] = pictures
            runtime.progress(number + 1, len(tasks), "videos drawn")
    return made


def _task(
    work: VideoWork, wanted: Mapping[ClipKey, WantedClip], record: Mapping[str, Any]
) -> DecodeTask:
    """Two plans a clip: evenly spread frames, and those that were kept."""
    assert work.path is not None
    plans: list[ClipFrames | ExactFrames] = []
    for span in work.clips:
        plans.append(ClipFrames(EVEN_TILES, span.start, span.end))
        plans.append(ExactFrames(tuple(sorted(wanted[span.key].kept))))
    size = tile_size(record["width"] or 0, record["height"] or 0)
    return DecodeTask(work.video, work.path, tuple(plans), FrameFormat.squash(*size))


def tile_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the largest tile of a video of that size."""
    if width < 1 or height < 1:
        return HEIGHT, HEIGHT
    return max(NARROWEST, min(WIDEST, round(HEIGHT * width / height))), HEIGHT


def _drawn(
    work: VideoWork,
    result: Decoded | DecodeFailure,
    wanted: Mapping[ClipKey, WantedClip],
    records: Mapping[str, Any],
    budget: int,
) -> Iterator[tuple[ClipKey, ClipPictures]]:
    for number, span in enumerate(work.clips):
        if isinstance(result, DecodeFailure):
            yield span.key, _without(span, records, _words(result, work))
            continue
        even, kept = result.clips[2 * number], result.clips[2 * number + 1]
        if isinstance(even, DecodeFailure):
            yield span.key, _without(span, records, _words(even, work))
            continue
        counted = Counter() if isinstance(kept, DecodeFailure) else wanted[span.key].kept
        yield span.key, _clip(span, result, choose_tiles(even.tolist(), counted), budget)


def choose_tiles(even: Sequence[int], kept: Mapping[int, int]) -> list[int]:
    """Frame numbers of the tiles, ascending; at most `MOST_TILES`.

    Kept frames come first, those that most systems kept before others; evenly spread ones have the
    rest of the places.
    """
    ranked = sorted(kept, key=lambda frame: (-kept[frame], frame))[:MOST_TILES]
    others = sorted(set(even) - set(ranked))
    free = MOST_TILES - len(ranked)
    return sorted([*ranked, *(others if len(others) <= free else evenly(others, free))])


def _clip(span: ClipSpan, decoded: Decoded, frames: Sequence[int], budget: int) -> ClipPictures:
    batch = decoded.batch
    rows = np.searchsorted(batch.indices, np.array(frames, dtype=np.int64))
    sprite, tile = encoded_sprite(batch.frames[rows], budget)
    times = [round(float(seconds), 3) for seconds in batch.times[rows]]
    first = float(decoded.info.times[0])
    last = first + decoded.info.duration
    end = last if span.end is None else min(span.end, last)
    start = first if span.start is None else span.start
    strip = Strip(sprite, tile, tuple(times), round(start, 3), round(max(end, start), 3))
    return ClipPictures(strip, {frame: place for place, frame in enumerate(frames)})


def _without(span: ClipSpan, records: Mapping[str, Any], problem: str) -> ClipPictures:
    start = span.start or 0.0
    end = span.end
    if end is None:
        end = (records.get(span.video) or {}).get("duration") or start
    return ClipPictures(Strip(None, (0, 0), (), start, float(end), problem or "no video"), {})


def _words(failure: DecodeFailure, work: VideoWork) -> str:
    """Why, without the folder that the video lies in."""
    words = failure.decoder_words.replace(str(work.path), work.video)
    return words.replace(f"{work.video}: ", "", 1) or failure.reason


# --- one picture ---------------------------------------------------------------------------------


def encoded_sprite(tiles: NDArray[np.uint8], budget: int) -> tuple[str, tuple[int, int]]:
    """Tiles uint8 [N, H, W, 3] side by side as a data URI, and the (width, height) of one.

    The best of `RUNGS` that takes at most `budget` bytes, or the last one.
    """
    count, height, width, _ = tiles.shape
    whole = Image.fromarray(np.ascontiguousarray(tiles.transpose(1, 0, 2, 3)).reshape(
        height, count * width, 3)
    )  # fmt: skip
    low, high = 0, len(RUNGS) - 1
    best = _encoded(whole, count, low)
    if len(best) > budget:
        low += 1
        while low < high:  # the first rung that fits lies in low..high
            middle = (low + high) // 2
            if len(_encoded(whole, count, middle)) <= budget:
                high = middle
            else:
                low = middle + 1
        best = _encoded(whole, count, low)
    kind = picture_format()["picture"]
    uri = f"data:image/{kind};base64," + base64.b64encode(best).decode("ascii")
    return uri, _tile(whole, count, low)


def _tile(whole: Image.Image, count: int, rung: int) -> tuple[int, int]:
    height = min(RUNGS[rung][0], whole.height)
    return max(1, round(whole.width / count * height / whole.height)), height


def _encoded(whole: Image.Image, count: int, rung: int) -> bytes:
    width, height = _tile(whole, count, rung)
    quality = RUNGS[rung][1]
    picture = whole
    if height != whole.height:
        picture = whole.resize((width * count, height), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    if picture_format()["picture"] == "webp":
        picture.save(buffer, "WEBP", quality=quality, method=ENCODING_EFFORT)
    else:
        picture.save(buffer, "JPEG", quality=max(quality, 5))
    return buffer.getvalue()
