"""Rows come back as they went in, by memory map and by h5py; hostile files are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stages.artifacts.rows import RowReader, check_rows_file, encode_rows, read_rows_with_h5py
from stages.core.errors import DataError


def reader(path: Path, rows: np.ndarray) -> RowReader:
    encoded = encode_rows(rows)
    path.write_bytes(encoded.image)
    shards = np.zeros(len(rows), dtype=np.int32)
    return RowReader([path], shards, np.array(encoded.offsets), rows.shape[1:], rows.dtype)


@given(
    rows=arrays.arrays(
        st.sampled_from([np.uint8, np.float16, np.float32]),
        st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5)),
        elements=st.integers(0, 255),
    ),
    data=st.data(),
)
def test_any_rows_in_any_order_equal_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.h5"
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9))

    opened = reader(path, rows)

    assert np.array_equal(opened.read(wanted), rows[wanted])
    assert np.array_equal(read_rows_with_h5py(path, wanted), rows[wanted])
    assert np.array_equal(pickle.loads(pickle.dumps(opened)).read(wanted), rows[wanted])


def test_equal_rows_give_equal_bytes() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(4, 3, 2)

    assert bytes(encode_rows(rows).image) == bytes(encode_rows(rows.copy()).image)


def test_no_rows_are_rows_too(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(encode_rows(np.zeros((0, 3, 2), dtype=np.uint8)).image)

    assert check_rows_file(path) == ((0, 3, 2), np.dtype(np.uint8))


def test_reading_no_rows_gives_none_of_the_right_shape(tmp_path: Path) -> None:
    opened = reader(tmp_path / "x.h5", np.zeros((2, 3, 4), dtype=np.uint8))

    assert opened.read([]).shape == (0, 3, 4)


def test_external_storage_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"x" * 64)
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", (64,), dtype="u1", external=[(str(secret), 0, 64)])

    with pytest.raises(DataError, match="other files"):
        check_rows_file(path)


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.h5", "/rows"), h5py.SoftLink("/a")])
def test_links_are_refused(tmp_path: Path, link: object) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["rows"] = link

    with pytest.raises(DataError, match="link"):
        check_rows_file(path)


def test_a_virtual_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    layout = h5py.VirtualLayout(shape=(4,), dtype="u1")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "rows", shape=(4,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("rows", layout)

    with pytest.raises(DataError, match="other files"):
        check_rows_file(path)


def test_a_declared_size_beyond_the_file_is_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("rows", (2**33, 64), dtype="u1", chunks=(1, 64))

    with pytest.raises(DataError, match="declares"):
        check_rows_file(path)


def test_what_is_not_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(b"not hdf5 at all")

    with pytest.raises(DataError, match="not a readable HDF5"):
        check_rows_file(path)


@pytest.mark.parametrize("offset", [-1, 10**12])
def test_an_index_that_points_outside_the_file_is_refused(tmp_path: Path, offset: int) -> None:
    opened = reader(tmp_path / "x.h5", np.zeros((2, 3), dtype=np.uint8))
    opened.offsets = np.array([offset, 0])

    with pytest.raises(DataError, match="outside the file"):
        opened.read([0])


def test_an_index_of_another_shape_is_refused(tmp_path: Path) -> None:
    opened = reader(tmp_path / "x.h5", np.zeros((2, 3), dtype=np.uint8))
    opened.shape = (4,)

    with pytest.raises(DataError, match="the index says"):
        opened.read([0])
