"""What an accelerator without room says, told apart from other errors and brought to one type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stages.core.errors import OutOfMemory

WORDS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Of CUDA and MPS, of torch's allocator on a CPU, of the library that needs room for products."""


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Raise `OutOfMemory` where what is computed here finds no memory.

    Args:
        what: What was to fit at once, such as `16 questions`.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        words = str(error).strip().splitlines() or [type(error).__name__]
        raise OutOfMemory(
            f"out of memory computing {what} at once ({words[0]})",
            "see what else uses the device, or choose a smaller model or --device cpu",
        ) from None


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch says that it found no memory; other errors have types of their own."""
    known = isinstance(error, torch.OutOfMemoryError)
    return known or any(words in str(error) for words in WORDS)


def release_memory() -> None:
    """Give back what an attempt that failed has left: cycles first, then the allocator's blocks."""
    from accelerate.utils.memory import clear_device_cache  # rarely needed, slow to import

    clear_device_cache(garbage_collection=True)
