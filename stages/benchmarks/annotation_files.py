"""Annotation files as streams of records: CSV, a JSON list, JSON lines; gzipped or not.

Reads files that anyone may have written, so sizes are bounded: a line, a record and what a gzip
file may unfold to. A record that cannot be read is yielded as the reason, with its number, and
the stream goes on where the format allows it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import stat
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, cast

from stages.core.errors import DataError, MissingInput

Container = Literal["csv", "json", "jsonl"]
Record = dict[str, Any]
Numbered = tuple[int, Record | str]
"""Number of the record, from 1, and the record, or why it cannot be read."""

MAX_RECORD = 16 * 2**20
"""Characters in a line or in one record of a JSON list."""
MAX_GZIP_RATIO = 200
"""Text seldom shrinks below a twentieth; beyond this the file is built to fill a machine."""
GZIP_RATIO_FROM = 64 * 2**20
CHUNK = 2**20
MAX_LINES_IN_RECORD = 64
"""Lines that a quoted CSV cell may run over."""
UNCLOSED = "unexpected end of data"
"""What the csv module says when a quote is still open at the end."""
WHITE = re.compile(r"[ \t\r\n]*")
SEPARATOR = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")


class _BoundedGzip(io.RawIOBase):
    """Bytes of a gzip file, refused when they outgrow the file beyond reason."""

    def __init__(self, source: BinaryIO, path: Path, packed_bytes: int) -> None:
        self._stream = gzip.GzipFile(fileobj=source, mode="rb")
        self._path = path
        self._limit = max(GZIP_RATIO_FROM, packed_bytes * MAX_GZIP_RATIO)
        self._seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._seen += len(data)
        if self._seen > self._limit:
            raise DataError(
                f"{self._path} unfolds to more than {self._limit:,} bytes, {MAX_GZIP_RATIO} times "
                "its size; it is refused",
                "unpack it yourself if you trust it",
            )
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The text of `path`, unpacked if its first bytes say gzip.

    Bytes that are not UTF-8 come out as lone surrogates, which `Question` refuses, so that they
    cost one row and not the file.

    Raises:
        MissingInput: no such file. DataError: not a regular file, damaged or oversized gzip.
    """
    with _explained(path), path.open("rb") as source:
        packed = source.read(2) == b"\x1f\x8b"
        source.seek(0)
        size = path.stat().st_size
        raw = io.BufferedReader(_BoundedGzip(source, path, size), CHUNK) if packed else source
        with io.TextIOWrapper(
            cast("BinaryIO", raw), encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as text:
            yield text


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Foreign errors of opening and unpacking, as ours; never blocks on a FIFO."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is not a regular file")
        yield
    except FileNotFoundError:
        raise MissingInput(f"annotation file not found: {path}", "check --annotations") from None
    except PermissionError as error:
        raise DataError(f"{path} may not be read: {error.strerror}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file: {error}", "download it again") from None


def container_of(path: Path) -> Container:
    """What `path` holds, from its first character and, for `{`, whether lines are objects."""
    with open_text(path) as text:
        head = text.read(CHUNK).lstrip()
    if not head:
        raise DataError(f"{path} is empty")
    if head.startswith("["):
        return "json"
    return "jsonl" if head.startswith("{") else "csv"


def records(path: Path, container: Container) -> Iterator[Numbered]:
    """The records of `path` one by one; memory does not grow with the file."""
    read = {"csv": _csv_records, "json": _json_records, "jsonl": _jsonl_records}[container]
    with open_text(path) as text:
        yield from read(text, path)


def csv_header(path: Path) -> list[str]:
    """The cells of the first line."""
    with open_text(path) as text:
        return _header(next(_bounded_lines(text, path), ""), path)


def _header(line: str, path: Path) -> list[str]:
    cells = _cells([line])
    if isinstance(cells, str):
        raise DataError(f"{path}: the header is not CSV: {cells}")
    if len(set(cells)) != len(cells):
        raise DataError(f"{path}: a column occurs twice in the header {cells}")
    return cells


def _bounded_lines(text: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := text.readline(MAX_RECORD + 1):
        number += 1
        if len(line) > MAX_RECORD:
            raise DataError(f"{path}: line {number} is longer than {MAX_RECORD:,} characters")
        yield line


def _csv_records(text: TextIO, path: Path) -> Iterator[Numbered]:
    """Cells stay text: `None`, `NA` and `nan` are words in answers, not missing values.

    Line by line, so that a quote which is never closed costs its own line and not the rest of the
    file, as it would with one reader over everything.
    """
    lines = _bounded_lines(text, path)
    header = _header(next(lines, ""), path)
    ahead: deque[str] = deque()
    row = 0
    while line := (ahead.popleft() if ahead else next(lines, "")):
        if not line.strip():
            continue
        row += 1
        cells = _cells([line])
        if cells == UNCLOSED:
            cells = _continued(line, ahead, lines)
        if isinstance(cells, str):
            yield row, f"not CSV: {cells}"
        elif len(cells) != len(header):
            yield row, f"{len(cells)} cells where the header has {len(header)}"
        else:
            yield row, dict(zip(header, cells, strict=True))


def _cells(lines: list[str]) -> list[str] | str:
    """The cells of one record, or why they are none."""
    try:
        return next(csv.reader(lines, strict=True), [])
    except csv.Error as error:
        return str(error)


def _continued(line: str, ahead: deque[str], lines: Iterator[str]) -> list[str] | str:
    """The cells of a record whose quoted cell runs over the next lines, which are then used up."""
    taken = [line]
    cells: list[str] | str = UNCLOSED
    while cells == UNCLOSED and len(taken) < MAX_LINES_IN_RECORD:
        following = ahead.popleft() if ahead else next(lines, "")
        if not following:
            break
        taken.append(following)
        cells = _cells(taken)
    if isinstance(cells, str):
        ahead.extendleft(reversed(taken[1:]))
        return "a quote is not closed"
    return cells


def _jsonl_records(text: TextIO, path: Path) -> Iterator[Numbered]:
    for row, line in enumerate(_bounded_lines(text, path), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield row, f"not JSON: {error}"
        else:
            yield row, value if isinstance(value, dict) else "not a JSON object"


def _json_records(text: TextIO, path: Path) -> Iterator[Numbered]:
    """The objects of one JSON list, decoded while it is read (some are hundreds of megabytes)."""
    window = _Window(text)
    if not window.take("["):
        raise DataError(f"{path} does not begin with a JSON list")
    row = 0
    while not window.take("]"):
        row += 1
        value = window.decode(path, row)
        yield row, value if isinstance(value, dict) else "not a JSON object"
        window.skip(SEPARATOR)
    if not window.at_end():
        raise DataError(f"{path}: text follows after the list's end")


class _Window:
    """A sliding piece of a text in which one JSON value after another is decoded."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._piece = text.read(CHUNK)
        self._position = 0
        self._decoder = json.JSONDecoder()

    def _grow(self) -> bool:
        """Drop what was used and read on, at least as much as is kept: work stays linear."""
        kept = self._piece[self._position :]
        more = self._text.read(max(CHUNK, len(kept)))
        self._piece, self._position = kept + more, 0
        return bool(more)

    def skip(self, pattern: re.Pattern[str]) -> None:
        """Move past `pattern`, reading on while it reaches the end of the piece."""
        while True:
            match = pattern.match(self._piece, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._piece) or not self._grow():
                return

    def take(self, character: str) -> bool:
        """Move past white space, and past `character` if it is next."""
        self.skip(WHITE)
        found = self._piece.startswith(character, self._position)
        self._position += found
        return found

    def at_end(self) -> bool:
        """Whether nothing but white space is left."""
        self.skip(WHITE)
        return self._position == len(self._piece)

    def decode(self, path: Path, row: int) -> Any:
        """The JSON value that begins here; `DataError` if there is none within the size limit."""
        while True:
            try:
                value, self._position = self._decoder.raw_decode(self._piece, self._position)
                return value
            except (ValueError, RecursionError) as error:
                size = len(self._piece) - self._position
                if size > MAX_RECORD or isinstance(error, RecursionError) or not self._grow():
                    raise DataError(f"{path}: row {row} is not JSON: {error}") from None
