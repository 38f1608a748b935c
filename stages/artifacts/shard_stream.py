"""Items of claimed shards as one stream, and the results back in shards.

A stage that works through shards one by one lets its pipeline run dry at every border. Here the
items of the next claimed shard follow the last ones of the one before, so decoding ahead goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from stages.artifacts.shards import Claim

Item = TypeVar("Item")
Result = TypeVar("Result")


def stream_shards(
    claims: Iterator[Claim],
    items_of: Callable[[int], list[Item]],
    process: Callable[[Iterable[Item]], Iterator[Result]],
) -> Iterator[tuple[Claim, list[Result]]]:
    """Each claimed shard with its results, as soon as they are complete.

    Args:
        claims: Shards that this process may build; taken only as items are needed.
        items_of: Items of a shard, at least one.
        process: Turns items into results, one each, in order, reading ahead as it likes.
    """
    active: deque[tuple[Claim, int]] = deque()

    def items() -> Iterator[Item]:
        for claim in claims:
            shard_items = items_of(claim.shard)
            active.append((claim, len(shard_items)))
            yield from shard_items

    done: list[Result] = []
    try:
        for result in process(items()):
            done.append(result)
            claim, count = active[0]
            if len(done) == count:
                yield claim, done
                active.popleft()
                done = []
    finally:
        for claim, _ in active:  # claims of shards that an error kept from being committed
            claim.lock.release()
