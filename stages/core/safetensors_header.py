"""What a safetensors file declares, checked against the file before anything is believed.

Reads the header only and needs no torch, so a file of any size is looked at in a few megabytes.
The format: 8 bytes of header length, a JSON object from name to dtype, shape and byte range, then
the bytes of the tensors without gaps or overlaps.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import DataError

MAX_HEADER_BYTES = 8 << 20
"""Some eighty thousand tensors; a larger header is not that of a model, but costs memory."""
MAX_SIZE = 1 << 63
MAX_DIMENSIONS = 64
"""torch's own limit; it keeps the product of the sizes short."""
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class HeaderEntry:
    """Where one tensor lies and what it is."""

    shape: tuple[int, ...]
    dtype: str
    begin: int
    """First byte in the file (absolute)."""
    end: int


def read_header(file: Path) -> dict[str, HeaderEntry]:
    """The tensors of `file`, in the order of their bytes.

    Raises:
        DataError: The file is cut short, its header is no JSON, is too long or declares tensors
            that lie outside the file or over each other, or a name that cannot be printed.
    """
    size = file.stat().st_size
    raw = _raw_header(file, size)
    base = 8 + len(raw)
    try:
        header = json.loads(raw, object_pairs_hook=_without_duplicates)
        entries = {
            _printable(name): _entry(value, base)
            for name, value in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{file}: the safetensors header is damaged ({reason})") from None
    ordered = dict(sorted(entries.items(), key=lambda item: item[1].begin))
    _check_ranges(file, ordered, base, size)
    return ordered


def item_bytes(dtype: str) -> int:
    """Bytes of one element.

    Raises:
        ValueError: No such type.
    """
    if dtype not in ITEM_BYTES:
        raise ValueError(f"the type {dtype!r} is unknown")
    return ITEM_BYTES[dtype]


def encode_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """Length and header of a file that holds `tensors` (name to dtype and shape) in that order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, (dtype, shape) in tensors.items():
        end = begin + math.prod(shape) * item_bytes(dtype)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def _raw_header(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        prefix = opened.read(8)
        if len(prefix) < 8:
            raise DataError(f"{file} is too short to be a safetensors file ({size} bytes)")
        (length,) = struct.unpack("<Q", prefix)
        if length > MAX_HEADER_BYTES or 8 + length > size:
            raise DataError(
                f"{file} declares a header of {length:,} bytes, the file has {size:,}",
                f"the file is damaged or cut short; headers above {MAX_HEADER_BYTES:,} bytes are "
                "refused",
            )
        return opened.read(length)


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is declared twice")
        found[name] = value
    return found


def _printable(name: str) -> str:
    """Names are shown to people: control characters would command their terminal."""
    if not name.isprintable():
        raise ValueError(f"the name {name[:80]!a} cannot be printed")
    return name


def _entry(value: dict[str, Any], base: int) -> HeaderEntry:
    if len(value["shape"]) > MAX_DIMENSIONS:
        raise ValueError(f"a shape of {len(value['shape']):,} dimensions")
    shape = tuple(_whole(n) for n in value["shape"])
    begin, end = (_whole(offset) for offset in value["data_offsets"])
    if math.prod(shape) * item_bytes(value["dtype"]) != end - begin:
        raise ValueError(f"shape {shape} does not fill bytes {begin} to {end}")
    return HeaderEntry(shape, value["dtype"], base + begin, base + end)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_SIZE:
        raise ValueError(f"{repr(value)[:40]} is no size")
    return value


def _check_ranges(file: Path, entries: Mapping[str, HeaderEntry], base: int, size: int) -> None:
    position, before = base, "the header"
    for name, entry in entries.items():
        if entry.begin < position:
            raise DataError(f"{file}: tensor {name!r} lies over {before!r}")
        if entry.end > size:
            raise DataError(
                f"{file}: tensor {name!r} ends at byte {entry.end:,}, the file has {size:,}",
                "the file is cut short; copy or download it again",
            )
        position, before = entry.end, name
