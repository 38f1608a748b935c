"""How many rows a data file holds, from its footer or header alone."""

from __future__ import annotations

from pathlib import Path

import h5py
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_DATASET = "rows"


def count_rows(path: Path) -> int | None:
    """Rows of a Parquet, HDF5 or JSON lines file; None for files that have no rows."""
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix == ".h5":
        return _hdf5_rows(path)
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            return sum(1 for _ in file)
    return None


def _parquet_rows(path: Path) -> int | None:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException):
        return None


def _hdf5_rows(path: Path) -> int | None:
    try:
        with h5py.File(path, "r", locking=False) as file:
            link = file.get(ROWS_DATASET, getlink=True)
            return len(file[ROWS_DATASET]) if isinstance(link, h5py.HardLink) else None
    except OSError:
        return None
