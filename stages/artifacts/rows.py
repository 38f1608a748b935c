"""Equal-shaped arrays, one per frame, in HDF5 files that can also be read through a memory map.

A file holds one dataset `rows` of shape (N, ...), uncompressed, one chunk per row, so that row i
lies at one byte range of the file. The index keeps these offsets: readers copy straight from the
mapped file (plain h5py costs about a millisecond a call), and h5py remains the checked way in.
Beside it may lie `cls` or `pooled`, a few short vectors per row in one piece, which are read
without the rows.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from stages.core.errors import DataError, MissingInput

DATASET = "rows"
SCALE_DATASET = "scale"
CLS_DATASET = "cls"
POOLED_DATASET = "pooled"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EncodedRows:
    """A finished HDF5 image in memory, and where each row lies in it.

    Attributes:
        image: The file's bytes.
        offsets: Byte offset of each row.
    """

    image: memoryview
    offsets: list[int]


def encode_rows(
    rows: Array,
    attributes: dict[str, str] | None = None,
    scale: Array | None = None,
    cls: Array | None = None,
    pooled: Array | None = None,
) -> EncodedRows:
    """Build the HDF5 file of `rows` (N, ...) in memory; equal input gives equal bytes.

    Args:
        rows: The arrays, any numeric dtype.
        attributes: Text attributes of the dataset.
        scale: With int8 rows, the factors that restore the values, first axis N.
        cls: A vector (N, C) per row, stored in one piece apart from the rows.
        pooled: Vectors (N, ..., C) per row, stored in the same way.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=False) as file:
        dataset = file.create_dataset(
            DATASET,
            shape=rows.shape,
            dtype=rows.dtype,
            chunks=(1, *rows.shape[1:]) if len(rows) else None,
            track_times=False,
        )
        dataset[...] = rows
        apart = {SCALE_DATASET: scale, CLS_DATASET: cls, POOLED_DATASET: pooled}
        for name, values in apart.items():
            if values is not None:
                file.create_dataset(name, data=values, track_times=False)
        for name, value in sorted((attributes or {}).items()):
            dataset.attrs[name] = value
        file.flush()
        offsets = _chunk_offsets(dataset) if len(rows) else []
    return EncodedRows(buffer.getbuffer(), offsets)


def _chunk_offsets(dataset: Any) -> list[int]:
    """Byte offset of each row's chunk, in row order."""
    offsets = [0] * dataset.shape[0]
    for number in range(dataset.id.get_num_chunks()):
        info = dataset.id.get_chunk_info(number)
        offsets[info.chunk_offset[0]] = info.byte_offset
    return offsets


def check_rows_file(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the rows of `path`, after refusing whatever could read other files.

    Raises:
        DataError: Not HDF5; external storage or links; a declared size beyond the file's.
    """
    if not path.is_file():
        raise MissingInput(f"data file not found: {path}", "vqa artifacts verify --repair")
    try:
        with h5py.File(path, "r", locking=False) as file:
            for name in file:
                if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                    raise DataError(f"{path}: {name!r} is a link to elsewhere; refused")
            if DATASET not in file or not isinstance(file[DATASET], h5py.Dataset):
                raise DataError(f"{path}: no dataset called {DATASET!r}")
            return _check_dataset(path, file[DATASET])
    except OSError as error:
        raise DataError(f"{path} is not a readable HDF5 file ({error})") from None


def _check_dataset(path: Path, dataset: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if dataset.external or dataset.is_virtual:
        raise DataError(f"{path}: {dataset.name} keeps its data in other files; refused")
    one_chunk_per_row = (1, *dataset.shape[1:]) if dataset.shape[0] else None
    if dataset.compression is not None or dataset.chunks != one_chunk_per_row:
        raise DataError(f"{path}: {dataset.name} is not stored as one plain chunk per row")
    declared = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    if declared > path.stat().st_size:
        raise DataError(
            f"{path}: {dataset.name} declares {declared:,} bytes, the file has "
            f"{path.stat().st_size:,}; refused"
        )
    return tuple(dataset.shape), dataset.dtype


def read_rows_with_h5py(path: Path, rows: Sequence[int]) -> Array:
    """Rows through h5py alone: the slow, checked way."""
    check_rows_file(path)
    with h5py.File(path, "r", locking=False) as file:
        return np.stack([file[DATASET][row] for row in rows])


class RowReader:
    """Random access to rows spread over several files, by memory map.

    Safe to hand to worker processes: maps are opened where they are first used.

    Args:
        files: Data files; `shards` are positions in this list.
        shards: File of each row.
        offsets: Byte offset of each row.
        shape: Shape of one row.
        dtype: Stored dtype of one row.
    """

    def __init__(
        self,
        files: Sequence[Path],
        shards: Array,
        offsets: Array,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.files = list(files)
        self.shards = np.asarray(shards, dtype=np.int32)
        self.offsets = np.asarray(offsets, dtype=np.int64)
        self.shape = shape
        self.dtype = dtype
        self.row_bytes = int(np.prod(shape)) * dtype.itemsize
        self._maps: dict[int, Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self, rows: Sequence[int] | Array, out: Array | None = None) -> Array:
        """Copy `rows` into `out` (len(rows), *shape), allocating it if it is not given."""
        wanted = np.asarray(rows, dtype=np.int64)
        if out is None:
            out = np.empty((len(wanted), *self.shape), dtype=self.dtype)
        if not len(wanted):  # a video that failed has none
            return out
        flat = out.reshape(len(wanted), -1).view(np.uint8)
        start = 0
        for stop in [*(np.flatnonzero(self._breaks(wanted)) + 1), len(wanted)]:
            if stop > start:
                flat[start:stop] = self._run(wanted[start], stop - start)
            start = stop
        return out

    def _breaks(self, wanted: Array) -> Array:
        """Where the next wanted row does not follow the one before it in the same file."""
        follows = np.diff(self.offsets[wanted]) == self.row_bytes
        return ~(follows & (np.diff(self.shards[wanted]) == 0))

    def _run(self, first: int, count: int) -> Array:
        """`count` rows that lie one behind the other, as bytes (count, row_bytes)."""
        begin, size = int(self.offsets[first]), count * self.row_bytes
        mapped = self._map(int(self.shards[first]))
        if begin < 0 or begin + size > len(mapped):
            raise DataError(f"{self.files[self.shards[first]]}: the index points outside the file")
        return mapped[begin : begin + size].reshape(count, self.row_bytes)

    def _map(self, shard: int) -> Array:
        if shard not in self._maps:
            shape, dtype = check_rows_file(self.files[shard])
            if shape[1:] != self.shape or dtype != self.dtype:
                raise DataError(
                    f"{self.files[shard]} holds rows {shape[1:]} {dtype}, "
                    f"the index says {self.shape} {self.dtype}"
                )
            self._maps[shard] = np.memmap(self.files[shard], dtype=np.uint8, mode="r")
        return self._maps[shard]


class VectorReader:
    """Random access to the short vectors of rows, by a memory map of those vectors alone.

    Safe to hand to worker processes, as `RowReader` is.

    Args:
        files: Data files; `shards` are positions in this list.
        shards: File of each row; the rows of a file follow one another.
        shape: Shape of one row's vectors.
        dtype: Stored dtype.
        dataset: Their name in the file.
    """

    def __init__(
        self,
        files: Sequence[Path],
        shards: Array,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        dataset: str,
    ) -> None:
        self.files = list(files)
        self.shards = np.asarray(shards, dtype=np.int32)
        self.starts = np.searchsorted(self.shards, np.arange(len(self.files) + 1))
        self.shape = shape
        self.dtype = dtype
        self.dataset = dataset
        self._maps: dict[int, Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def read(self, rows: Sequence[int] | Array) -> Array:
        """A copy of the vectors of `rows`, (len(rows), *shape)."""
        wanted = np.asarray(rows, dtype=np.int64)
        out = np.empty((len(wanted), *self.shape), dtype=self.dtype)
        of = self.shards[wanted]
        for shard in np.unique(of).tolist():
            here = of == shard
            out[here] = self._map(shard)[wanted[here] - self.starts[shard]]
        return out

    def _map(self, shard: int) -> Array:
        if shard not in self._maps:
            count = int(self.starts[shard + 1] - self.starts[shard])
            path, shape = self.files[shard], (count, *self.shape)
            offset = _find_vectors(path, self.dataset, shape, self.dtype)
            self._maps[shard] = np.memmap(path, self.dtype, "r", offset, shape)
        return self._maps[shard]


def _find_vectors(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Byte offset of the vectors called `name` in `path`, checked against its size.

    Raises:
        DataError: There are none of that shape in one plain piece.
    """
    check_rows_file(path)
    with h5py.File(path, "r", locking=False) as file:
        dataset = file.get(name)
        plain = isinstance(dataset, h5py.Dataset) and (dataset.shape, dataset.dtype) == (
            shape,
            dtype,
        )
        if not plain or dataset.chunks is not None or dataset.external or dataset.is_virtual:
            raise DataError(
                f"{path}: no plain dataset {name!r} of {shape} {dtype}",
                "vqa artifacts verify --repair",
            )
        offset = dataset.id.get_offset()
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if offset is None or offset + size > path.stat().st_size:
        raise DataError(f"{path}: {name} points outside the file")
    return int(offset)
