"""The questions artifact: what is asked, of which video, and what each video is.

    questions.parquet   one row a question (columns: docs/artifacts.md)
    videos.parquet      one row a video: where it was found, what it holds, or why not
    failures.parquet    bad annotation rows and unusable videos
    videos/             the files themselves, only where `vqa` generated them

Folders given by the user are kept in the manifest's `host` part, never in the tables.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.artifacts import atomic
from stages.artifacts.clips import FAILURES_SCHEMA, FAILURES_TABLE, Failure, read_table, write_table
from stages.artifacts.locks import locked
from stages.artifacts.store import Artifact, Workspace
from stages.core.errors import DataError, MissingInput

QUESTIONS_TABLE = "questions.parquet"
VIDEOS_TABLE = "videos.parquet"
GENERATED_VIDEOS = "videos"

VIDEOS_SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("root", pa.int32()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("digest", pa.string()),
        ("num_frames", pa.int32()),
        ("duration", pa.float64()),
        ("average_fps", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int32()),
        ("codec", pa.string()),
    ]
)
"""`status` is `found`, `missing`, `undecodable` or `refused`."""

ROWS_PER_GROUP = 65536
SPOOLS = "spool-*" + atomic.TEMPORARY_SUFFIX
"""Names of question tables that have no artifact yet."""


@contextmanager
def question_spool(workspace: Workspace) -> Iterator[QuestionSpool]:
    """A question table to be written before its artifact has a name; gone unless it is kept.

    An artifact's directory carries its fingerprint, the fingerprint covers the videos, and which
    videos there are is known when the last row has been read. Until then rows are spooled into
    `<workspace>/questions/spool-....tmp`, held under a lock on the file itself, so that the next
    run can remove what a killed one left and nothing else.
    """
    folder = workspace.root / "questions"
    atomic.make_directory(folder)
    path = folder / f"spool-{os.getpid()}-{secrets.token_hex(4)}{atomic.TEMPORARY_SUFFIX}"
    with locked(workspace.lock_path("questions", "spool", "new")):
        _remove_abandoned(folder)
        atomic.boundary(f"open {QUESTIONS_TABLE}")
        file = _SpoolFile(path)
    spool = QuestionSpool(file)
    try:
        yield spool
    finally:
        spool.discard()


def _remove_abandoned(folder: Path) -> None:
    """Delete spools whose writers are gone; call it under the lock that new ones are made under."""
    for path in folder.glob(SPOOLS):
        # Blocking: its writer is alive. Not found: its writer has just finished with it.
        with contextlib.suppress(BlockingIOError, FileNotFoundError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


class _SpoolFile:
    """What the Parquet writer writes to: a locked file that explains a full disk.

    After an error it swallows what follows, because the writer adds a footer when it is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False
        self._position = 0
        self._failed = False
        try:
            self._file: IO[bytes] = path.open("xb", buffering=0)
        except OSError as error:
            raise atomic.explain_disk_error(error, path, needed=0) from error
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: Any) -> int:
        """All of `data`; a file without a buffer may take it in pieces."""
        view = memoryview(data).cast("B")
        left = view
        while len(left) and not self._failed:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                self._failed = True
                raise atomic.explain_disk_error(error, self.path, needed=len(left)) from error
        self._position += len(view)
        return len(view)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is held back."""

    def sync(self) -> None:
        """Make the bytes survive a power cut."""
        os.fsync(self._file)

    def close(self) -> None:
        self._file.close()
        self.closed = True


class QuestionSpool:
    """A `questions.parquet` that grows row group by row group; see `question_spool`.

    Equal rows give equal bytes, however they are cut into batches.
    """

    def __init__(self, file: _SpoolFile) -> None:
        self._file = file
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._num_waiting = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; the first batch decides the schema.

        Raises:
            MachineError: The disk is full.
        """
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, batch.schema, compression="zstd")
        self._waiting.append(batch)
        self._num_waiting += batch.num_rows
        while self._num_waiting >= ROWS_PER_GROUP:
            self._write_group(ROWS_PER_GROUP)

    def _write_group(self, num_rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, self._writer.schema)
        # One chunk: page borders would follow the batches otherwise.
        self._writer.write_table(table.slice(0, num_rows).combine_chunks())
        self._waiting = table.slice(num_rows).to_batches()
        self._num_waiting -= num_rows

    def keep(self, directory: Path) -> None:
        """Finish the table and rename it to `questions.parquet` in `directory`; it must have rows.

        Raises:
            MachineError: The disk is full.
        """
        path = directory / QUESTIONS_TABLE
        self._write_group(self._num_waiting)
        self._writer.close()
        atomic.boundary(f"write {path.name}")
        self._file.sync()
        atomic.boundary(f"fsync {path.name}")
        self._file.path.replace(path)
        atomic.boundary(f"rename {path.name}")
        atomic.fsync_directory(directory)
        atomic.fsync_directory(self._file.path.parent)
        atomic.boundary(f"fsync directory of {path.name}")

    def discard(self) -> None:
        """Close the file; unless it was kept, nothing is left of it."""
        self._file.path.unlink(missing_ok=True)
        if self._writer is not None:
            self._writer.close()
        self._file.close()


def write_videos(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write `videos.parquet`."""
    write_table(path, pa.Table.from_pylist(list(records), schema=VIDEOS_SCHEMA))


def write_failures(directory: Path, failures: Sequence[Failure]) -> None:
    """Write `failures.parquet` into `directory`."""
    rows = [failure.as_json() for failure in failures]
    write_table(directory / FAILURES_TABLE, pa.Table.from_pylist(rows, schema=FAILURES_SCHEMA))


def question_records(artifact: Artifact) -> list[dict[str, Any]]:
    """Every row of `questions.parquet`."""
    return list(read_table(artifact.path / QUESTIONS_TABLE).to_pylist())


def question_columns(artifact: Artifact, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, row by row; memory does not grow with the number of questions."""
    path = artifact.path / QUESTIONS_TABLE
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=list(columns)):
                yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)
    except (OSError, pa.ArrowException) as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DataError(f"{path} {why}", "vqa artifacts verify --repair") from None


def video_records(artifact: Artifact) -> dict[str, dict[str, Any]]:
    """Video name to its row of `videos.parquet`."""
    table = read_table(artifact.path / VIDEOS_TABLE)
    return {record["video"]: record for record in table.to_pylist()}


def video_roots(artifact: Artifact) -> list[Path]:
    """The folders that the videos were found in.

    Raises:
        MissingInput: A folder is no longer there.
    """
    if artifact.config["benchmark"] == "shapes":
        return [artifact.path / GENERATED_VIDEOS]
    roots = [Path(root) for root in artifact.manifest["host"]["video_roots"]]
    for root in roots:
        if not root.is_dir():
            raise MissingInput(
                f"video folder {root} of {artifact.id} is gone",
                "run `vqa prepare` again with the new --videos folder (same questions, same id)",
            )
    return roots
