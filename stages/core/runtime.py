"""What a run may choose without changing a byte of what it writes.

Nothing here enters a fingerprint: devices' names, worker counts, progress, which shards this
process takes. A stage gets its `Config` (what is written) and a `Runtime` (how it is done).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal, Protocol

from stages.core.errors import UsageError

Engine = Literal["local", "ray"]


class Progress(Protocol):
    """How a stage tells how far it is."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """`done` of `total` items of `what` are ready."""
        ...


def silent(done: int, total: int, what: str) -> None:
    """The progress that nobody watches."""


@dataclass(frozen=True)
class ShardSelection:
    """The part of the shards that this run may build: number `index` of `count`, from 0."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> ShardSelection:
        """Read `i/n`."""
        first, _, second = text.partition("/")
        try:
            chosen = cls(int(first), int(second))
        except ValueError:
            raise UsageError(f"--shard {text!r} is not of the form i/n", "as in 0/4") from None
        if not 0 <= chosen.index < chosen.count:
            raise UsageError(f"--shard {text}: i runs from 0 to n-1", "for example 0/4")
        return chosen

    @property
    def is_all(self) -> bool:
        """Whether every shard is selected."""
        return self.count == 1

    def __contains__(self, shard: int) -> bool:
        return shard % self.count == self.index


@dataclass(frozen=True)
class Runtime:
    """How to run a stage.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `cuda:1`.
        workers: Decode processes; none: one per core.
        shards: Which shards this process may build.
        force: Rebuild what is already there.
        strict: Stop at the first failed item (exit 3) instead of recording it.
        max_failures: Share of failed items above which the exit code is 1.
        name: Label of the artifact instead of the default one.
        progress: Called as items are done.
        engine: What builds the shards: `local`, this process; `ray`, a Ray cluster's machines.
    """

    device: str = "auto"
    workers: int | None = None
    shards: ShardSelection = field(default_factory=ShardSelection)
    force: bool = False
    strict: bool = False
    max_failures: float = 0.05
    name: str | None = None
    progress: Progress = silent
    engine: Engine = "local"

    @property
    def num_workers(self) -> int:
        """Decode processes to start."""
        return self.workers if self.workers is not None else max(1, os.cpu_count() or 1)
