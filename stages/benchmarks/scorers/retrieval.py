"""Text-to-video and video-to-text retrieval: R@k, median and mean rank, with a stated tie rule.

Reads and writes nothing. A score matrix becomes `Places`: how many items score higher than the
right one and how many score the same. That is all any rule for ties needs. Definitions:
`specs/benchmarks.md` 12.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TieRule = Literal["expected", "average", "optimistic", "every"]
TIE_RULES: tuple[TieRule, ...] = get_args(TieRule)
TIES = {
    "expected": "ties in random order, on average: R@k is the chance that the right item is among "
    "the first k, ranks are expected ranks; equal scores throughout give chance",
    "average": "the middle position of a tied block, and R@1 for a first place that is not shared "
    "(Frozen in Time, video to text)",
    "optimistic": "the best position of a tied block (Frozen in Time, text to video)",
    "every": "every position of a tied block is a rank of its own, so that a query may count "
    "several times (CLIP4Clip)",
}
"""What each rule does with equal scores; `expected` is ours, `every` is `--as-published`."""
RECALLS = (1, 5, 10, 50)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the right item lies among the items ranked for one query."""

    better: int
    """Items that score higher."""
    tied: int = 1
    """Items of the same score, the right ones included."""
    right: int = 1
    """Right items among the tied ones (several captions of one video)."""


@dataclass(frozen=True, slots=True)
class Places:
    """The same for Q queries, each [Q]."""

    better: Ints
    tied: Ints
    right: Ints

    @classmethod
    def of(cls, places: list[Place]) -> Places:
        """Arrays of single places."""
        table = np.array([(p.better, p.tied, p.right) for p in places], np.int64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2])

    def __len__(self) -> int:
        return len(self.better)

    def __getitem__(self, query: int) -> Place:
        return Place(int(self.better[query]), int(self.tied[query]), int(self.right[query]))


def places_of_texts(scores: Floats, videos: Ints) -> Places:
    """Where each text's video lies.

    Args:
        scores: [texts, videos], more is more alike.
        videos: [texts], each text's column.
    """
    own = np.take_along_axis(scores, videos[:, None], axis=1)
    better = (scores > own).sum(axis=1)
    tied = (scores == own).sum(axis=1)
    return Places(better, tied, np.ones_like(better))


def places_of_videos(scores: Floats, videos: Ints) -> Places:
    """Where each video's best caption lies among all captions; arguments as `places_of_texts`.

    A video with several captions is found by whichever of them ranks first.
    """
    own = np.where(videos[:, None] == np.arange(scores.shape[1]), scores, -np.inf)
    best = own.max(axis=0)
    better = (scores > best).sum(axis=0)
    return Places(better, (scores == best).sum(axis=0), (own == best).sum(axis=0))


def best_caption_scores(scores: Floats, videos: Ints) -> Floats:
    """[videos, videos]: how alike a video is to another one's best caption (CLIP4Clip's way)."""
    best = np.full((scores.shape[1], scores.shape[1]), -np.inf)
    np.maximum.at(best, videos, scores)
    return best.T


def ranks(places: Places, ties: TieRule) -> Floats:
    """The rank of each query, 0 being the best [Q]; under `every` all ranks, more than Q.

    Of m right items among n tied ones the first comes after (n - m) / (m + 1) others on average.
    """
    if ties == "optimistic":
        return places.better.astype(np.float64)
    if ties == "average":
        return places.better + (places.tied - 1) / 2
    if ties == "expected":
        return places.better + (places.tied - places.right) / (places.right + 1)
    first = np.repeat(places.better, places.tied)
    block = np.repeat(np.cumsum(places.tied) - places.tied, places.tied)
    every: Floats = (first + np.arange(len(first)) - block).astype(np.float64)
    return every


def found_within(places: Places, k: int, ties: TieRule) -> Floats:
    """Whether, or how likely, the right item is among the first `k`: 0 to 1, as many as `ranks`."""
    if ties != "expected":
        # Frozen in Time's R@1 wants rank 0 exactly, which a middle position of 0.5 is not; its
        # other R@k want a rank below k.
        rank = ranks(places, ties)
        return ((rank == 0) if k == 1 else (rank < k)).astype(np.float64)
    drawn = np.clip(k - places.better, 0, places.tied)
    wrong = places.tied - places.right
    missed = np.ones(len(places))
    # The chance that none of `drawn` out of `tied` is right, one right item at a time.
    for item in range(int(places.right.max(initial=0))):
        left = np.maximum(1, places.tied - item)
        factor = np.clip((places.tied - drawn - item) / left, 0.0, 1.0)
        missed = np.where(item < places.right, missed * factor, missed)
    return np.where(drawn > wrong, 1.0, 1.0 - missed)


def retrieval_metrics(places: Places, ties: TieRule = "expected") -> dict[str, Any]:
    """`R@k` in percent, `MedR` and `MeanR` counted from 1, of at least one query."""
    rank = ranks(places, ties)
    metrics = {
        f"R@{k}": 100.0 * float(found_within(places, k, ties).sum()) / len(rank) for k in RECALLS
    }
    return metrics | {"MedR": float(np.median(rank)) + 1, "MeanR": float(rank.mean()) + 1}
