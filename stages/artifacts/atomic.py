"""Writing a file so that it is complete or absent, whatever kills us in between.

A file is written beside its final place under a name ending in `.tmp`, flushed, fsynced and
renamed, and its directory is fsynced. Between these steps `boundary` is called with the step's
name; it does nothing here, and the reliability tests replace it to kill the process at each one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.core.errors import MachineError

TEMPORARY_SUFFIX = ".tmp"


def _no_boundary(step: str) -> None:
    """Called between two steps of a write."""


boundary: Callable[[str], None] = _no_boundary


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` atomically and durably.

    Raises:
        MachineError: The disk is full; names the bytes needed and the bytes free, and leaves
            nothing half-written behind.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    boundary(f"open {path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            boundary(f"write {path.name}")
            file.flush()
            os.fsync(file.fileno())
        boundary(f"fsync {path.name}")
        temporary.replace(path)
        boundary(f"rename {path.name}")
        fsync_directory(path.parent)
        boundary(f"fsync directory of {path.name}")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise explain_disk_error(error, path, needed=len(data)) from error


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON with sorted keys, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def make_directory(path: Path) -> None:
    """Create `path` and its parents, or explain why the disk refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain_disk_error(error, path, needed=0) from error


def fsync_tree(directory: Path) -> None:
    """Make files that others wrote below `directory`, and their names, survive a power cut."""
    for path in [directory, *directory.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain_disk_error(error: OSError, path: Path, needed: int) -> OSError:
    """`MachineError` for a full disk, a quota or a file size limit; any other error as it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    free = free_bytes(path.parent)
    if error.errno == errno.EFBIG:
        return MachineError(
            f"file too large for this machine's limit: {path}: {needed:,} bytes needed, "
            f"{free:,} bytes free",
            "raise the limit (ulimit -f) and run the same command again: finished shards are kept",
        )
    return MachineError(
        f"disk full while writing {path}: {needed:,} bytes needed, {free:,} bytes free",
        "free some space and run the same command again: finished shards are kept",
    )


def free_bytes(directory: Path) -> int:
    """Bytes free on the file system of `directory` or of its nearest existing parent."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def remove_temporaries(directory: Path) -> None:
    """Delete what an interrupted run left half-written; call it holding the directory's lock."""
    for leftover in directory.rglob("*" + TEMPORARY_SUFFIX):
        leftover.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of `value` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
