"""The default engine: this process, which reads ahead from one shard into the next."""

from __future__ import annotations

from collections.abc import Iterator

from stages.artifacts.shards import Claim
from stages.core.runtime import Runtime
from stages.engines.work import ShardWork, Spent


def run_here(work: ShardWork, runtime: Runtime) -> Spent:
    """Build every selected shard that nobody else is building, and wait for those of others."""
    spent = Spent()
    with work.open(runtime) as build:

        def run_pass(claims: Iterator[Claim]) -> int:
            before = spent.shards
            for built in build(claims):
                spent.add(built)
            return spent.shards - before

        work.sharded.run_passes(run_pass)
    return spent
