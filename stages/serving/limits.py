"""How large, how long and how many: what the server takes from a browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KILOBYTE, MEGABYTE = 1_000, 1_000_000


@dataclass(frozen=True)
class Limits:
    """What is refused.

    Attributes:
        upload_bytes: Of one video file.
        decode_seconds: Of one pass over a video (probing, frames for the system, pictures).
        kept_videos: Looked at and still asked about; the least recently used one is forgotten.
        question_characters: Of a question.
        option_characters: Of one option.
        options: Of one question.
        request_bytes: Of a question with its options, as JSON.
        uploads: Received at the same time.
        waiting: Computations that wait for their turn.
    """

    upload_bytes: int = 500 * MEGABYTE
    decode_seconds: float = 120.0
    kept_videos: int = 8
    question_characters: int = 2000
    option_characters: int = 500
    options: int = 10
    request_bytes: int = 64_000
    uploads: int = 2
    waiting: int = 8

    def as_json(self) -> dict[str, Any]:
        """What the page tells before anything is sent."""
        told = ("upload_bytes", "question_characters", "option_characters", "options")
        return {name: getattr(self, name) for name in told}
