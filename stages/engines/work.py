"""What an engine is given: the shards of one artifact and how one is built.

Everything in a `ShardWork` can be pickled, because an engine may send it to other machines: what is
loaded (models, decoders, indices) is loaded by `open`, where the work is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts.shards import Claim, ShardedDraft
from stages.core.runtime import Runtime


@dataclass(frozen=True)
class Built:
    """One shard that was built and committed now.

    Attributes:
        shard: Its number.
        items: How many items the progress grows by.
        seconds: Model time in them, where the stage keeps it.
    """

    shard: int
    items: int
    seconds: float = 0.0


@dataclass
class Spent:
    """What the shards of one run cost, whoever built them; the attributes of `Built`, summed."""

    shards: int = 0
    items: int = 0
    seconds: float = 0.0

    def add(self, built: Built) -> None:
        """Count one more shard."""
        self.shards += 1
        self.items += built.items
        self.seconds += built.seconds


Build = Callable[[Iterator[Claim]], Iterator[Built]]
"""Builds and commits claimed shards, reading ahead over their borders as it likes."""

Open = Callable[[Runtime], AbstractContextManager[Build]]
"""Loads what building needs; leaving the context lets it go."""


@dataclass(frozen=True)
class Halves:
    """The same work cut in two, so that other processes can do the first half ahead.

    Attributes:
        first: Opens a function from a shard's number to what the second half needs of it.
        second: Opens a function that builds and commits a claimed shard from that.
    """

    first: Callable[[Runtime], AbstractContextManager[Callable[[int], Any]]]
    second: Callable[[Runtime], AbstractContextManager[Callable[[Claim, Any], Built]]]


@dataclass(frozen=True)
class ShardWork:
    """The shards of one artifact and how they are built.

    Attributes:
        sharded: Which are done, and how one is claimed and committed.
        total: Items in all, for the progress.
        what: What the items are: `clips`, `questions`.
        open: How shards are built.
        device: Type of the device that building needs; None: it decodes videos and needs cores.
        halves: The same in two halves, where it is worth a machine's while.
        folders: Folders besides the workspace that whoever builds must see, such as the videos'.
    """

    sharded: ShardedDraft
    total: int
    what: str
    open: Open
    device: str | None
    halves: Halves | None = None
    folders: tuple[Path, ...] = ()
