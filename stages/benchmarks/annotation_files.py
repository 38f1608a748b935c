"""Annotation files as streams of records, whatever their container; gzipped or not.

    csv     a header and rows; the delimiter (`,` `;` or tab) is seen from the first rows
    rows    the same without a header: cells are called `column 1`, `column 2`, ...
    json    one JSON list of objects
    keyed   one JSON object {id: object}; the id is given with the object under `KEY`
    jsonl   one JSON object a line, or the rows of a Parquet file
    object  one JSON object that is not a collection of records: a single record

Reads files that anyone may have written, so sizes are bounded: a line, a record and what a gzip
file may unfold to. A record that cannot be read is yielded as the reason, with its number, and
the stream goes on where the format allows it. Nothing is held but the record at hand, so a file
of several gigabytes reads in the memory of a small one.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import stat
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from stages.core.errors import DataError, MissingInput

Container = Literal["csv", "rows", "json", "keyed", "jsonl", "object"]
Record = dict[str, Any]
Numbered = tuple[int, Record | str]
"""Number of the record, from 1, and the record, or why it cannot be read."""

KEY = "<id>"
"""Under this name a record of a keyed object has its key."""
DELIMITERS = ("\t", ";", ",")
SNIFFED_RECORDS = 20
SURPLUS = "a surplus bracket at the end of the file is ignored"

MAX_RECORD = 16 * 2**20
"""Characters in a line or in one record of a JSON list."""
MAX_GZIP_RATIO = 200
"""Text seldom shrinks below a twentieth; beyond this the file is built to fill a machine."""
GZIP_RATIO_FROM = 64 * 2**20
CHUNK = 2**20
PARQUET = b"PAR1"
PARQUET_ROWS = 4096
"""Rows in memory at a time."""
MAX_LINES_IN_RECORD = 64
"""Lines that a quoted CSV cell may run over."""
UNCLOSED = "unexpected end of data"
"""What the csv module says when a quote is still open at the end."""
BLANK = frozenset(["", " ", "\t", "\r", "\n"])
WHITE = re.compile(r"[ \t\r\n]*")
SEPARATOR = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")
CLOSERS = re.compile(r"[ \t\r\n\]}]*")


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
    """What `path` holds, from its content; header-less tables count as `csv` here."""
    if is_parquet(path):
        return "jsonl"
    with open_text(path) as text:
        head = text.read(CHUNK).lstrip()
    if not head:
        raise DataError(f"{path} is empty")
    if head.startswith("["):
        return "json"
    return _object_container(path) if head.startswith("{") else "csv"


def is_parquet(path: Path) -> bool:
    """Whether the first bytes of `path` are those of a Parquet file."""
    with _explained(path), path.open("rb") as source:
        return source.read(len(PARQUET)) == PARQUET


def _object_container(path: Path) -> Container:
    """Tell lines of objects, one object by id and one single object from each other.

    A first line that is a whole object followed by another object means lines. A file with one
    line only is by id where every value is an object. Otherwise the object runs over lines, and
    its first value decides.
    """
    with open_text(path) as text:
        lines = (line for line in iter(lambda: text.readline(MAX_RECORD + 1), "") if line.strip())
        first = next(lines)
        following = next(lines, "").lstrip()
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        if first.endswith("\n") and first.rstrip().endswith("}"):
            return "jsonl"
        return _runs_over_lines(path)
    if following.startswith("{"):
        return "jsonl"
    return "keyed" if value and all(isinstance(item, dict) for item in value.values()) else "jsonl"


def _runs_over_lines(path: Path) -> Container:
    with open_text(path) as text:
        window = _Window(text)
        window.take("{")
        window.skip(WHITE)
        try:
            key = window.decode(path, 1)
        except DataError:
            return "jsonl"
        if not isinstance(key, str):
            return "jsonl"
        window.take(":")
        return "keyed" if window.take("{") else "object"


def records(
    path: Path, container: Container, odd: Counter[str] | None = None
) -> Iterator[Numbered]:
    """The records of `path` one by one; memory does not grow with the file.

    Args:
        odd: Counts what is strange but harmless, in words.
    """
    odd = Counter() if odd is None else odd
    if container == "jsonl" and is_parquet(path):
        yield from _parquet_records(path)
        return
    delimiter = delimiter_of(path) if container in ("csv", "rows") else ""
    with open_text(path) as text:
        if container == "csv":
            yield from _csv_records(text, path, delimiter)
        elif container == "rows":
            yield from _headerless_records(text, path, delimiter)
        elif container == "jsonl":
            yield from _jsonl_records(text, path)
        elif container == "json":
            yield from _json_records(text, path, odd)
        elif container == "keyed":
            yield from _keyed_records(text, path, odd)
        else:
            yield 1, _Window(text).decode(path, 1)


def list_in_object(path: Path, member: str) -> Iterator[tuple[int, Any]]:
    """The items of the list that one JSON object has under `member`, one by one.

    Raises:
        DataError: no such list, or a part of the file is not JSON.
    """
    with open_text(path) as text:
        window = _Window(text)
        if not window.take("{"):
            raise DataError(f"{path} does not begin with a JSON object")
        while not window.take("}"):
            name = window.decode(path, 1)
            window.take(":")
            if name == member and window.take("["):
                yield from _items(window, path)
                return
            window.decode(path, 1)
            window.skip(SEPARATOR)
    raise DataError(f"{path} has no list named {member!r}")


def csv_header(path: Path) -> list[str]:
    """The cells of the first line."""
    delimiter = delimiter_of(path)
    with open_text(path) as text:
        return _header(next(_bounded_lines(text, path), ""), path, delimiter)


def delimiter_of(path: Path) -> str:
    """Which of `DELIMITERS` separates the cells: the one that cuts the largest share of the first
    records into equally many, and of several such the one that gives most cells."""
    scores = {}
    for delimiter in DELIMITERS:
        with open_text(path) as text:
            first = list(itertools.islice(_split_records(text, path, delimiter), SNIFFED_RECORDS))
        widths = Counter(len(cells) for _, cells in first if not isinstance(cells, str))
        width, count = max(widths.items(), key=lambda item: item[1], default=(1, 0))
        scores[delimiter] = (count / len(first) if width > 1 else 0.0, width)
    return max(scores, key=lambda delimiter: scores[delimiter])


def _header(line: str, path: Path, delimiter: str) -> list[str]:
    cells = _cells([line], delimiter)
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


def _csv_records(text: TextIO, path: Path, delimiter: str) -> Iterator[Numbered]:
    """Cells stay text: `None`, `NA` and `nan` are words in answers, not missing values."""
    lines = _bounded_lines(text, path)
    header = _header(next(lines, ""), path, delimiter)
    for row, cells in _split_lines(lines, delimiter):
        if isinstance(cells, str):
            yield row, cells
        elif len(cells) != len(header):
            yield row, f"{len(cells)} cells where the header has {len(header)}"
        else:
            yield row, dict(zip(header, cells, strict=True))


def _headerless_records(text: TextIO, path: Path, delimiter: str) -> Iterator[Numbered]:
    for row, cells in _split_records(text, path, delimiter):
        if isinstance(cells, str):
            yield row, cells
        else:
            yield row, {f"column {number}": cell for number, cell in enumerate(cells, 1)}


def _split_records(
    text: TextIO, path: Path, delimiter: str
) -> Iterator[tuple[int, list[str] | str]]:
    return _split_lines(_bounded_lines(text, path), delimiter)


def _split_lines(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """Number and cells of each record, or why it has none.

    Line by line, so that a quote which is never closed costs its own line and not the rest of the
    file, as it would with one reader over everything.
    """
    ahead: deque[str] = deque()
    row = 0
    while line := (ahead.popleft() if ahead else next(lines, "")):
        if not line.strip():
            continue
        row += 1
        cells = _cells([line], delimiter)
        if cells == UNCLOSED:
            cells = _continued(line, ahead, lines, delimiter)
        yield row, f"not CSV: {cells}" if isinstance(cells, str) else cells


def _cells(lines: list[str], delimiter: str) -> list[str] | str:
    """The cells of one record, or why they are none."""
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        return str(error)


def _continued(
    line: str, ahead: deque[str], lines: Iterator[str], delimiter: str
) -> list[str] | str:
    """The cells of a record whose quoted cell runs over the next lines, which are then used up."""
    taken = [line]
    cells: list[str] | str = UNCLOSED
    while cells == UNCLOSED and len(taken) < MAX_LINES_IN_RECORD:
        following = ahead.popleft() if ahead else next(lines, "")
        if not following:
            break
        taken.append(following)
        cells = _cells(taken, delimiter)
    if isinstance(cells, str):
        ahead.extendleft(reversed(taken[1:]))
        return "a quote is not closed"
    return cells


def _parquet_records(path: Path) -> Iterator[Numbered]:
    """Rows as objects, a batch at a time; empty cells are left out, as lines leave them out."""
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS):
                for record in batch.to_pylist():
                    row += 1
                    yield row, {name: cell for name, cell in record.items() if cell is not None}
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is a damaged Parquet file: {error}") from None


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


def _json_records(text: TextIO, path: Path, odd: Counter[str]) -> Iterator[Numbered]:
    """The objects of one JSON list, decoded while it is read (some are hundreds of megabytes)."""
    window = _Window(text)
    if not window.take("["):
        raise DataError(f"{path} does not begin with a JSON list")
    for row, value in _items(window, path):
        yield row, value if isinstance(value, dict) else "not a JSON object"
    _check_end(window, path, "list", odd)


def _items(window: _Window, path: Path) -> Iterator[tuple[int, Any]]:
    """The values up to the `]` of a list whose `[` was taken."""
    row = 0
    while not window.take("]"):
        row += 1
        yield row, window.decode(path, row)
        window.skip(SEPARATOR)


def _keyed_records(text: TextIO, path: Path, odd: Counter[str]) -> Iterator[Numbered]:
    """The objects of one JSON object, each with its key, decoded while it is read."""
    window = _Window(text)
    if not window.take("{"):
        raise DataError(f"{path} does not begin with a JSON object")
    row = 0
    while not window.take("}"):
        row += 1
        key = window.decode(path, row)
        window.take(":")
        value = window.decode(path, row)
        if isinstance(value, dict):
            value[KEY] = key
            yield row, value
        else:
            yield row, "not a JSON object"
        window.skip(SEPARATOR)
    _check_end(window, path, "object", odd)


def _check_end(window: _Window, path: Path, what: str, odd: Counter[str]) -> None:
    """Nothing but white space may follow; a bracket too many is known of published files."""
    if window.at_end():
        return
    window.skip(CLOSERS)
    if not window.at_end():
        raise DataError(f"{path}: text follows after the {what}'s end")
    odd[SURPLUS] += 1


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
        if self._piece[self._position : self._position + 1] in BLANK:
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
        # What was skipped last may have ended with the piece, before the blank that follows it.
        if self._piece[self._position : self._position + 1] in BLANK:
            self.skip(WHITE)
        while True:
            try:
                value, self._position = self._decoder.raw_decode(self._piece, self._position)
                return value
            except (ValueError, RecursionError) as error:
                size = len(self._piece) - self._position
                if size > MAX_RECORD or isinstance(error, RecursionError) or not self._grow():
                    raise DataError(f"{path}: row {row} is not JSON: {error}") from None
