"""Locks that die with their owner: `flock` on small files under `<workspace>/.locks/`.

A lock file is never deleted and never read: only the kernel's lock on it counts, and the kernel
drops it when the process ends, however it ends. So there is no stale lock to clean up.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stages.artifacts.atomic import explain_disk_error, make_directory


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock `path`, waiting for it."""
    handle = _open(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        handle.close()


class HeldLock:
    """A lock taken without waiting; `release` or the process's end gives it back."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle

    def release(self) -> None:
        """Give the lock back."""
        self._handle.close()


def try_lock(path: Path) -> HeldLock | None:
    """Take the lock `path` if nobody holds it, else None."""
    handle = _open(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return HeldLock(handle)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock `path` now."""
    if not path.exists():
        return False
    lock = try_lock(path)
    if lock is None:
        return True
    lock.release()
    return False


def _open(path: Path) -> IO[bytes]:
    make_directory(path.parent)
    try:
        return path.open("ab")
    except OSError as error:
        raise explain_disk_error(error, path, needed=0) from error
