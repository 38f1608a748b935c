"""Videos that were looked at: features and pictures in memory, the file itself is gone by then.

Reads: an uploaded file.   Writes nothing.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.asking.pictures import jpegs
from stages.asking.video import Clip, Video
from stages.core.errors import DataError, VideoError

if TYPE_CHECKING:
    from stages.ask import Asker, EncodedVideo

PLAYABLE = "a video file: mp4, mov, mkv, webm, avi, ..."
NAME_BYTES = 16


@dataclass(frozen=True)
class LookedAt:
    """A video that can be asked about.

    Attributes:
        id: A random name; who knows it may ask.
        encoded: Features of the frames seen.
        pictures: Frame number -> JPEG, of every frame seen.
        seconds: Wall time of decoding and encoding.
    """

    id: str
    encoded: EncodedVideo
    pictures: dict[int, bytes]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """What the page is told of it."""
        info = self.encoded.seen.info
        return {
            "video": self.id,
            "duration": round(info.duration, 6),
            "frames": info.num_frames,
            "width": info.width,
            "height": info.height,
            "bounds": [round(second, 6) for second in self.encoded.seen.bounds],
            "seen": len(self.pictures),
            "seconds": round(self.seconds, 3),
        }


def look_at(path: Path, asker: Asker, decoder: str, decode_seconds: float) -> LookedAt:
    """Decode and encode one uploaded file.

    Raises:
        VideoError: It is no video, or decoding took too long; without the path in the message.
        DataError: Its features are not finite.
    """
    started = time.monotonic()
    request = asker.request
    try:
        with Video(path, decoder, decode_seconds) as video:
            video.probe()
            seen = video.start_decoding(request.frames, request.backbone, Clip()).result()
            pictures = jpegs(video, seen.frames.indices.tolist())
        encoded = asker.look(seen)
    except VideoError as error:
        raise VideoError(_nameless(error.message, path), PLAYABLE) from None
    except DataError as error:
        raise DataError(_nameless(error.message, path), error.hint) from None
    seconds = time.monotonic() - started
    return LookedAt(secrets.token_urlsafe(NAME_BYTES), encoded, pictures, seconds)


def _nameless(words: str, path: Path) -> str:
    """A decoder's words without the server's own names of things."""
    return words.replace(str(path), "this file").replace(path.name, "this file")


class KeptVideos:
    """The videos asked about last.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._videos: OrderedDict[str, LookedAt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._videos)

    def add(self, video: LookedAt) -> None:
        """Keep one more; the least recently used one goes."""
        self._videos[video.id] = video
        self._videos.move_to_end(video.id)
        while len(self._videos) > self._most:
            self._videos.popitem(last=False)

    def get(self, name: str) -> LookedAt | None:
        """A video by its id, now the most recently used one; none: never known, or forgotten."""
        found = self._videos.get(name)
        if found is not None:
            self._videos.move_to_end(name)
        return found
