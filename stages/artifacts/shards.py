"""Sharded artifacts: each shard is written once, by whoever holds its lock, and never changed.

A shard is one data file and a sidecar `<data file stem>.json`, which is renamed into place last:
a shard is done when its sidecar is there. Sidecars hold what the finished artifact's index is
merged from (rows, failures), so whoever finds all shards done can write the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts import atomic
from stages.artifacts.locks import HeldLock, is_locked, locked, try_lock
from stages.artifacts.store import Artifact, Draft, Request, Workspace
from stages.core.errors import UsageError
from stages.core.runtime import Runtime, ShardSelection

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Claim:
    """A shard that this process alone may build now."""

    shard: int
    lock: HeldLock


class ShardedDraft:
    """A draft made of `num_shards` shards named `<stem>-00000<suffix>`.

    Args:
        draft: Where to write.
        num_shards: Number of shards; part of the config's consequences, never of the workers'.
        stem: Start of the shards' file names.
        suffix: File suffix of the data files, such as `.h5`.
        selection: Which shards this run may build.
    """

    def __init__(
        self, draft: Draft, num_shards: int, stem: str, suffix: str, selection: ShardSelection
    ) -> None:
        self.draft = draft
        self.num_shards = num_shards
        self.stem = stem
        self.suffix = suffix
        self.selection = selection

    def announce(self, total: int) -> None:
        """Note how many shards and items are to come, for `vqa status`.

        It lies beside the locks, not among the data, and nothing depends on it.
        """
        path = self.draft.outlook_path()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"shards": self.num_shards, "total": total}))

    def data_path(self, shard: int) -> Path:
        """The data file of a shard."""
        return self.draft.path / f"{self.stem}-{shard:05d}{self.suffix}"

    def sidecar_path(self, shard: int) -> Path:
        """The sidecar of a shard."""
        return self.draft.path / f"{self.stem}-{shard:05d}.json"

    def is_done(self, shard: int) -> bool:
        """Whether a shard is finished."""
        return self.sidecar_path(shard).exists() and self.data_path(shard).exists()

    def num_done(self) -> int:
        """How many shards are finished."""
        return sum(self.is_done(shard) for shard in range(self.num_shards))

    def claims(self) -> Iterator[Claim]:
        """Claim, one after the other, the selected shards that nobody has done or is doing.

        Never waits: shards in other hands are left for a later pass (`run_passes`), because a
        process that waited here with claimed shards in its pipeline could wait for one that waits
        for it.
        """
        for shard in self.missing():
            claim = self.claim(shard)
            if claim is not None:
                yield claim

    def claim(self, shard: int) -> Claim | None:
        """Claim one shard; None if somebody has done or is doing it."""
        if self.is_done(shard):
            return None
        lock = try_lock(self.draft.lock_path(f"shard-{shard:05d}"))
        if lock is None:
            return None
        if self.is_done(shard):
            lock.release()
            return None
        return Claim(shard, lock)

    def is_free(self, shard: int) -> bool:
        """Whether nobody has done or is doing a shard now."""
        lock = self.draft.lock_path(f"shard-{shard:05d}")
        return not self.is_done(shard) and not is_locked(lock)

    def missing(self) -> list[int]:
        """The selected shards that are not finished."""
        shards = range(self.num_shards)
        return [shard for shard in shards if shard in self.selection and not self.is_done(shard)]

    def commit(self, claim: Claim, data: bytes | memoryview, record: Mapping[str, Any]) -> None:
        """Write a claimed shard and its sidecar, and give the claim back."""
        path = self.data_path(claim.shard)
        atomic.write_bytes(path, data)
        sidecar = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), **record}
        atomic.write_json(self.sidecar_path(claim.shard), sidecar)
        claim.lock.release()

    def record(self, shard: int) -> dict[str, Any]:
        """The sidecar of a finished shard."""
        text = self.sidecar_path(shard).read_text(encoding="utf-8")
        return dict(json.loads(text))

    def records(self) -> Iterator[dict[str, Any]]:
        """Every sidecar, in shard order."""
        return (self.record(shard) for shard in range(self.num_shards))

    def item_counts(self, total: int) -> dict[str, int]:
        """Items done and failed in the shards that are finished, of `total` in all."""
        counts = {"total": total, "done": 0, "failed": 0}
        for shard in filter(self.is_done, range(self.num_shards)):
            for name, value in self.record(shard)["counts"].items():
                if name in ("done", "failed"):
                    counts[name] += value
        return counts

    def run_passes(self, run_pass: Callable[[Iterator[Claim]], int]) -> None:
        """Call `run_pass` with claims until every selected shard is done by somebody.

        Args:
            run_pass: Builds and commits the claimed shards; returns how many.
        """
        while self.missing():
            if run_pass(self.claims()) == 0:
                time.sleep(POLL_SECONDS)

    def finish_if_complete(self, finish: Callable[[], Artifact]) -> Artifact | None:
        """Write the manifest if all shards are done and nobody has; None while some are missing."""
        with locked(self.draft.lock_path()):
            done = self.draft.workspace.existing(self.draft.request)
            if done is not None:
                return done
            if self.num_done() < self.num_shards:
                return None
            for shard, record in enumerate(self.records()):
                self.draft.expected[self.data_path(shard).name] = record["sha256"]
            return finish()


def reusable(workspace: Workspace, request: Request, runtime: Runtime) -> Artifact | None:
    """The finished artifact of `request`, unless it is to be rebuilt.

    Raises:
        UsageError: A part of the shards is to be rebuilt by force, which would delete the others'.
    """
    if runtime.force and not runtime.shards.is_all:
        raise UsageError("--force and --shard cannot be combined", "use --force without --shard")
    return None if runtime.force else workspace.existing(request)


def split_into_shards(num_items: int, per_shard: int) -> list[range]:
    """Consecutive item ranges; at least one shard, so that an empty input is still an artifact."""
    starts = range(0, max(num_items, 1), per_shard)
    return [range(start, min(start + per_shard, num_items)) for start in starts]
