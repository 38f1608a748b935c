"""The directory of a zip archive that `torch.save` wrote, read without unpacking anything.

`torch.save` stores its members uncompressed, one after the other. Whatever an archive has beyond
that (compression, encryption, members over each other, a directory larger than any model's) is
refused before a byte of it is unpacked, so a zip bomb costs nothing.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stages.core.errors import DataError

MAX_MEMBERS = 100_000
MAX_DIRECTORY_BYTES = 32 << 20
END_RECORD = struct.Struct("<4sHHHHLLH")
END_LOCATOR = struct.Struct("<4sLQL")
END_RECORD_64 = struct.Struct("<4sQHHLLQQQQ")
LOCAL_HEADER = struct.Struct("<4sHHHHHLLLHH")
CUT_SHORT = "the file is damaged or cut short; copy or download it again"
NOT_TORCH = "no archive that torch.save writes looks like this"
_ZIP_ERRORS = (
    zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """Where the bytes of one member lie in the archive."""

    begin: int
    size: int


def read_members(file: Path) -> dict[str, Member]:
    """Name below the archive's one folder -> member, for every member.

    Raises:
        DataError: Not a whole zip archive, or one that `torch.save` does not write.
    """
    with file.open("rb") as opened:
        _check_directory_size(file, opened)
        try:
            with zipfile.ZipFile(opened) as archive:
                infos = archive.infolist()
        except _ZIP_ERRORS as error:
            raise DataError(f"{file} is not a whole zip archive ({error})", CUT_SHORT) from None
        size = file.stat().st_size
        members = {info.filename: _member(file, opened, info, size) for info in infos}
    if len(members) != len(infos):
        raise DataError(f"{file}: two members of one name; refused", NOT_TORCH)
    _check_apart(file, members)
    return _below_folder(file, members)


def read_member(file: Path, member: Member) -> bytes:
    """All bytes of a member; its size is known before."""
    with file.open("rb") as opened:
        opened.seek(member.begin)
        return opened.read(member.size)


def _check_directory_size(file: Path, opened: BinaryIO) -> None:
    """The end record without a comment, which torch never writes: one place to look, not many."""
    size = file.stat().st_size
    if size < END_RECORD.size:
        raise DataError(f"{file} is too short to be a checkpoint ({size} bytes)", CUT_SHORT)
    opened.seek(size - END_RECORD.size)
    mark, _, _, _, count, length, _, comment = END_RECORD.unpack(opened.read(END_RECORD.size))
    if mark != b"PK\x05\x06" or comment:
        raise DataError(f"{file} is not a whole zip archive (no directory at its end)", CUT_SHORT)
    if 0xFFFF in (count,) or 0xFFFFFFFF in (length,):
        count, length = _large_directory(file, opened, size)
    if count > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES:
        raise DataError(
            f"{file} declares {count:,} members in a directory of {length:,} bytes; refused",
            NOT_TORCH,
        )


def _large_directory(file: Path, opened: BinaryIO, size: int) -> tuple[int, int]:
    """Count and bytes from the zip64 end record, where the plain one has no room for them."""
    at = size - END_RECORD.size - END_LOCATOR.size - END_RECORD_64.size
    if at < 0:
        raise DataError(f"{file} is not a whole zip archive (no zip64 directory)", CUT_SHORT)
    opened.seek(at)
    record = END_RECORD_64.unpack(opened.read(END_RECORD_64.size))
    if record[0] != b"PK\x06\x06":
        raise DataError(f"{file} is not a whole zip archive (no zip64 directory)", CUT_SHORT)
    return int(record[7]), int(record[8])


def _member(file: Path, opened: BinaryIO, info: zipfile.ZipInfo, size: int) -> Member:
    where = f"{file}: member {info.filename!r}"
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise DataError(
            f"{where} is compressed ({info.compress_size:,} bytes that unpack to "
            f"{info.file_size:,}); refused",
            "torch.save stores its members as they are; a compressed one may be a zip bomb",
        )
    if info.flag_bits & 0x1:
        raise DataError(f"{where} is encrypted; refused", NOT_TORCH)
    if not 0 <= info.header_offset < size:
        raise DataError(f"{where} is not where the directory says", CUT_SHORT)
    opened.seek(info.header_offset)
    raw = opened.read(LOCAL_HEADER.size)
    if len(raw) < LOCAL_HEADER.size or raw[:4] != b"PK\x03\x04":
        raise DataError(f"{where} is not where the directory says", CUT_SHORT)
    fields = LOCAL_HEADER.unpack(raw)
    if opened.read(fields[9]) != info.orig_filename.encode("utf-8", "replace"):
        raise DataError(f"{where} has another name where it lies", CUT_SHORT)
    begin = info.header_offset + LOCAL_HEADER.size + fields[9] + fields[10]
    if begin + info.file_size > size:
        raise DataError(f"{where} ends beyond the file's {size:,} bytes", CUT_SHORT)
    return Member(begin, info.file_size)


def _check_apart(file: Path, members: dict[str, Member]) -> None:
    end, before = 0, ""
    for name, member in sorted(members.items(), key=lambda item: item[1].begin):
        if member.begin < end:
            raise DataError(f"{file}: member {name!r} lies over {before!r}; refused", NOT_TORCH)
        end, before = member.begin + member.size, name


def _below_folder(file: Path, members: dict[str, Member]) -> dict[str, Member]:
    folders = {name.partition("/")[0] for name in members}
    if len(folders) != 1:
        raise DataError(f"{file}: {len(folders)} folders where torch.save writes one", NOT_TORCH)
    return {name.partition("/")[2]: member for name, member in members.items()}
