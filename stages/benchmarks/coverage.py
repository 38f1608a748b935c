"""How much of a split can be used: videos and questions by status, and which ones cannot.

Pure counting over the rows of `videos.parquet`; reads and writes nothing. Statuses: `found`,
`missing`, `refused` (an unsafe name or link), `undecodable`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

STATUSES = ("found", "missing", "refused", "undecodable")
EXAMPLES = 3
"""Unusable videos of each status that are named on the terminal; `videos.parquet` has them all."""


@dataclass
class Coverage:
    """How many videos and questions can be used."""

    videos: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, asked: Mapping[tuple[str, ...], int], status: Mapping[str, str]) -> Coverage:
        """A question with several candidate videos is usable only when all of them are."""
        coverage = cls(Counter(status.values()))
        for videos, count in asked.items():
            bad = [status[video] for video in videos if status[video] != "found"]
            coverage.questions[bad[0] if bad else "found"] += count
        return coverage

    def as_json(self) -> dict[str, Any]:
        """For the JSON and the manifest."""
        return {"videos": dict(self.videos), "questions": dict(self.questions)}

    def sentence(self) -> str:
        """For the terminal."""
        return f"videos: {_shown(self.videos)}; questions: {_shown(self.questions)}"


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))


def examples(records: Iterable[dict[str, Any]]) -> list[str]:
    """The first unusable videos of each sort, with the reason."""
    bad = [record for record in records if record["status"] != "found"]
    return [
        f"{record['status']}: {record['video']}: {record['reason']}"
        for status in STATUSES[1:]
        for record in [item for item in bad if item["status"] == status][:EXAMPLES]
    ]
