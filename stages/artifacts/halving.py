"""A stage that finds no room on its device goes on with half the batch, as another version.

The batch belongs to the compute shape and so to the fingerprint: what is finished of the larger
version stays as it is, and the smaller one is an artifact beside it (docs/artifacts.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar

from stages.artifacts.result import StageResult
from stages.core.errors import OutOfMemory
from stages.core.memory import Peak
from stages.core.out_of_memory import release_memory

log = logging.getLogger(__name__)


class HasBatchSize(Protocol):
    """A config of questions per forward pass."""

    @property
    def batch_size(self) -> int:
        """Questions per forward pass."""
        ...

    def model_copy(self, *, update: dict[str, Any]) -> Self:
        """The same with other values."""
        ...


Batched = TypeVar("Batched", bound=HasBatchSize)
Chosen = TypeVar("Chosen")
Smaller = Callable[[Chosen], "tuple[Chosen, str] | None"]
"""The same with half the batch, and what that is called (`batch_size=8`); none: no smaller one."""


def in_smaller_batches(
    run: Callable[[Chosen], StageResult],
    chosen: Chosen,
    smaller: Smaller[Chosen],
    peak_of: Callable[[Chosen], Peak],
) -> StageResult:
    """`run(chosen)`; where there is no room, the same with half the batch, down to one.

    Args:
        run: The stage.
        chosen: Its configuration, or whatever holds the batch.
        smaller: Halves the batch.
        peak_of: The memory that it will take, estimated.

    Returns:
        The result; `memory` is what was estimated, and where batches were halved, `halved` is what
        they became.

    Raises:
        OutOfMemory: There is no smaller batch.
    """
    halved: list[str] = []
    while True:
        try:
            result = run(chosen)
            break
        except OutOfMemory as error:
            # Only the words: the error itself holds on to what the attempt had on the device.
            message, hint = error.message, error.hint
        found = smaller(chosen)
        if found is None:
            raise OutOfMemory(f"{message}; there is no smaller batch to try", hint)
        chosen, name = found
        halved.append(name)
        release_memory()
        log.warning("%s; going on with %s, which is another version", message, name)
    if result.reused and not halved:
        return result  # nothing ran, and what would have run may not even be here
    details = {**result.details, "memory": peak_of(chosen).as_json()}
    if not halved:
        return replace(result, details=details)
    note = f"out of memory: {halved[-1]} in place of what was asked; --set it to begin there"
    return replace(result, notes=[*result.notes, note], details={**details, "halved": halved})


def smaller_batch_size(config: Batched) -> tuple[Batched, str] | None:
    """A config with half its `batch_size`, rounded down; none where that is one."""
    size = config.batch_size // 2
    return (config.model_copy(update={"batch_size": size}), f"batch_size={size}") if size else None
