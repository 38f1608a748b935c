"""The vectors beside the rows: read alone, in any order, and never out of other files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.artifacts.rows import (
    CLS_DATASET,
    VectorReader,
    check_rows_file,
    encode_rows,
    read_rows_with_h5py,
)
from stages.core.errors import DataError

WIDTH = 3


def write_shards(folder: Path, sizes: list[int]) -> tuple[VectorReader, np.ndarray]:
    """Files of `sizes` rows; row i's vector is [3i, 3i + 1, 3i + 2]."""
    vectors = np.arange(sum(sizes) * WIDTH, dtype=np.float16).reshape(-1, WIDTH)
    files, start = [], 0
    for number, size in enumerate(sizes):
        rows = np.full((size, 4, 5), number, dtype=np.float16)
        files.append(folder / f"{number}.h5")
        files[-1].write_bytes(encode_rows(rows, cls=vectors[start : start + size]).image)
        start += size
    shards = np.repeat(np.arange(len(sizes)), sizes)
    return VectorReader(files, shards, (WIDTH,), np.dtype(np.float16), CLS_DATASET), vectors


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.data())
def test_any_rows_in_any_order_have_their_own_vectors(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    reader, vectors = write_shards(tmp_path_factory.mktemp("cls"), sizes)
    total = sum(sizes)
    wanted = data.draw(st.lists(st.integers(0, total - 1), max_size=9)) if total else []
    assert np.array_equal(reader.read(wanted), vectors[wanted])
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(again.read(wanted), vectors[wanted])


def test_rows_beside_vectors_stay_the_plain_rows(tmp_path: Path) -> None:
    reader, _ = write_shards(tmp_path, [2, 3])
    shape, dtype = check_rows_file(reader.files[1])
    assert (shape, dtype) == ((3, 4, 5), np.float16)
    assert (read_rows_with_h5py(reader.files[1], [0, 2]) == 1).all()


def test_files_without_vectors_have_the_bytes_that_they_had(tmp_path: Path) -> None:
    rows = np.ones((2, 3), dtype=np.float16)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", track_order=False) as file:
        made = file.create_dataset("rows", (2, 3), "f2", chunks=(1, 3), track_times=False)
        made[...] = rows
    assert bytes(encode_rows(rows).image) == buffer.getvalue()


def test_a_missing_or_misshapen_table_is_refused(tmp_path: Path) -> None:
    reader, _ = write_shards(tmp_path, [2])
    wider = VectorReader(
        reader.files, reader.shards, (WIDTH + 1,), np.dtype(np.float16), CLS_DATASET
    )
    with pytest.raises(DataError, match="no plain dataset"):
        wider.read([0])
    reader.files[0].write_bytes(encode_rows(np.zeros((2, 4, 5), dtype=np.float16)).image)
    with pytest.raises(DataError, match="no plain dataset"):
        reader.read([0])


def test_vectors_in_another_file_are_refused(tmp_path: Path) -> None:
    reader, _ = write_shards(tmp_path, [2])
    elsewhere = tmp_path / "elsewhere.bin"
    elsewhere.write_bytes(bytes(2 * WIDTH * 2))
    with h5py.File(reader.files[0], "a") as file:
        del file["cls"]
        file.create_dataset("cls", (2, WIDTH), "f2", external=[(str(elsewhere), 0, 12)])
    with pytest.raises(DataError, match="no plain dataset"):
        reader.read([0])
    with h5py.File(reader.files[0], "a") as file:
        del file["cls"]
        file["cls"] = h5py.ExternalLink(str(elsewhere), "/x")
    with pytest.raises(DataError, match="link to elsewhere"):
        reader.read([0])


def test_a_table_without_storage_is_refused(tmp_path: Path) -> None:
    """HDF5 gives a declared dataset its place in the file only when it is written to."""
    reader, _ = write_shards(tmp_path, [2])
    with h5py.File(reader.files[0], "a") as file:
        del file["cls"]
        file.create_dataset("cls", (2, WIDTH), "f2")
    with pytest.raises(DataError, match="outside the file"):
        reader.read([0])
