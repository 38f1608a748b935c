"""A shard as a row that travels through pools of actors: what each actor makes of it.

An actor takes one row and gives one row, whatever happens: errors travel too.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from stages.artifacts.shards import ShardedDraft
from stages.core.errors import VqaError
from stages.core.runtime import Runtime
from stages.engines.elsewhere import Ticket
from stages.engines.work import Built


@dataclass(frozen=True)
class Answer:
    """What has become of a shard so far; without anything else, somebody else has it.

    Attributes:
        shard: Its number.
        made: What the first half made, on its way to the second.
        built: What it cost, once it is committed.
        error: Why the run has to stop.
    """

    shard: int
    made: Any = None
    built: Built | None = None
    error: VqaError | None = None


@dataclass
class RowActor:
    """One actor of a pool: opens its part of the work for the first shard, then keeps it open.

    Args:
        ticket: What this process must see and be.
        runtime: How the part is opened.
        open: Opens the part.
        run: What the part does with a row: `first_half`, `second_half` or `whole`.
        own_process: Whether the process is this actor's own, to be ended with the run.
    """

    ticket: Ticket
    runtime: Runtime
    open: Callable[[Runtime], AbstractContextManager[Any]]
    run: Callable[[ShardedDraft, Any, Answer], Answer]
    own_process: bool = False
    entered: bool = False
    part: Any = None
    stack: ExitStack = field(default_factory=ExitStack)

    def __call__(self, table: pa.Table) -> pa.Table:
        """One row in, one row out."""
        answer = unpacked(table)
        try:
            return packed(self._answer(answer))
        except VqaError as error:
            error.message += f" (shard {answer.shard} on {socket.gethostname()})"
            return packed(Answer(answer.shard, error=error))

    def _answer(self, answer: Answer) -> Answer:
        if not self.entered:
            self.ticket.enter()
            self.entered = True
            if self.own_process:
                self.ticket.end_with_run()
        sharded = self.ticket.sharded
        if answer.error is not None:
            return answer
        if sharded.is_done(answer.shard):
            return Answer(answer.shard)
        with self.ticket.attempt(answer.shard, self.run.__name__):
            if self.part is None:
                self.part = self.stack.enter_context(self.open(self.runtime))
            return self.run(sharded, self.part, answer)


def first_half(sharded: ShardedDraft, make: Callable[[int], Any], answer: Answer) -> Answer:
    """What the second half needs, unless somebody else is building the shard."""
    made = make(answer.shard) if sharded.is_free(answer.shard) else None
    return Answer(answer.shard, made=made)


def second_half(sharded: ShardedDraft, build: Any, answer: Answer) -> Answer:
    """The shard, claimed and committed, from what the first half made."""
    claim = None if answer.made is None else sharded.claim(answer.shard)
    if claim is None:
        return Answer(answer.shard)
    try:
        return Answer(answer.shard, built=build(claim, answer.made))
    finally:
        claim.lock.release()


def whole(sharded: ShardedDraft, build: Any, answer: Answer) -> Answer:
    """The shard, claimed and committed."""
    claim = sharded.claim(answer.shard)
    if claim is None:
        return Answer(answer.shard)
    (built,) = build(iter([claim]))
    return Answer(answer.shard, built=built)


def packed(answer: Answer) -> pa.Table:
    """A table of one row."""
    return pa.table({"answer": pa.array([pickle.dumps(answer, protocol=5)], pa.large_binary())})


def unpacked(table: pa.Table) -> Answer:
    """The row of such a table."""
    answer: Answer = pickle.loads(table["answer"][0].as_buffer())
    return answer
