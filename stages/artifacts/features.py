"""The features artifact: what a frozen vision tower says of every frame.

HDF5 shards `features-00000.h5` of one row per frame (tokens, width), taken before the tower's
last LayerNorm, with the index tables of `clips`. Stored as float16, float32, bfloat16 (uint16 with
the attribute `stored_as`) or int8 (one scale per token in the dataset `scale`).
CLIP's rows are patches alone: the frame CLS, taken after that norm, is a vector per row in the
dataset `cls` of the same file, which is read without touching the rows. With int8 it is float16,
because frames are chosen by it and it is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from stages.artifacts.clips import ClipIndex, ClipKey, ClipRows
from stages.artifacts.rows import SCALE_DATASET, Array, ClsReader, check_rows_file
from stages.artifacts.store import Artifact
from stages.core.errors import DataError

STEM = "features"
StoredDtype = Literal["float16", "float32", "bfloat16", "int8"]
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
}
INT8_LIMIT = 127.0


def encode_values(features: Array, stored: StoredDtype) -> tuple[Array, Array | None]:
    """Features float32 [N, P, C] as they are stored, and for int8 the scales [N, P]."""
    if stored == "bfloat16":
        return _to_bfloat16(features), None
    if stored == "int8":
        scale = np.abs(features).max(axis=-1).astype(np.float32) / INT8_LIMIT
        safe = np.where(scale == 0, 1, scale)[..., None]
        return np.rint(features / safe).astype(np.int8), scale
    with np.errstate(over="ignore"):  # overflow becomes inf, which the caller looks for
        return features.astype(NUMPY_DTYPES[stored]), None


def cls_dtype(stored: StoredDtype) -> StoredDtype:
    """How the frame CLS is stored beside rows of `stored`."""
    return "float16" if stored == "int8" else stored


def decode_values(values: Array, stored: str, scale: Array | None = None) -> Array:
    """Stored values as float16 or float32 numbers, the same shape."""
    if stored == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if stored == "int8":
        assert scale is not None
        return values.astype(np.float32) * scale[..., None]
    return values


def _to_bfloat16(features: Array) -> Array:
    """The upper half of float32, rounded to nearest even."""
    bits = np.ascontiguousarray(features, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)


def representable(values: Array, stored: str) -> Array:
    """Per row: whether every stored value is finite, bool [N]."""
    if stored == "int8":
        return np.ones(len(values), dtype=bool)
    numbers = decode_values(values, stored)
    return np.asarray(np.isfinite(numbers).all(axis=(1, 2)))


@dataclass(frozen=True)
class StoredValues:
    """Features of N frames as they are stored.

    Attributes:
        tokens: [N, P, C].
        scale: With int8, the factors [N, P] that restore them.
        cls: Frame CLS [N, C], where it is stored apart.
    """

    tokens: Array
    scale: Array | None
    cls: Array | None

    def only(self, rows: Array) -> StoredValues:
        """The rows that a mask or numbers choose."""
        return StoredValues(
            self.tokens[rows],
            None if self.scale is None else self.scale[rows],
            None if self.cls is None else self.cls[rows],
        )

    @staticmethod
    def join(parts: Sequence[StoredValues]) -> StoredValues:
        """All parts, which are stored alike, one after the other."""
        scales = [part.scale for part in parts if part.scale is not None]
        vectors = [part.cls for part in parts if part.cls is not None]
        return StoredValues(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate(scales) if scales else None,
            np.concatenate(vectors) if vectors else None,
        )


def store_values(
    tokens: Array, cls: Array | None, stored: StoredDtype
) -> tuple[StoredValues, Array]:
    """Tokens float32 [N, P, C] and frame CLS [N, C] as stored, and which rows can be, bool [N]."""
    values, scale = encode_values(tokens, stored)
    good: Array = np.isfinite(tokens).all(axis=(1, 2)) & representable(values, stored)
    if cls is None:
        return StoredValues(values, scale, None), good
    vectors, _ = encode_values(cls[:, None], cls_dtype(stored))
    good &= np.isfinite(cls).all(axis=1) & representable(vectors, cls_dtype(stored))
    return StoredValues(values, scale, vectors[:, 0]), good


class FeatureReader:
    """A finished features artifact, opened for random reads of clips."""

    def __init__(self, artifact: Artifact) -> None:
        config = artifact.config
        self.artifact = artifact
        self.stored = str(config["dtype"])
        self.tokens = int(artifact.manifest["tokens"])
        self.width = int(artifact.manifest["width"])
        shape = (self.tokens, self.width)
        self.index = ClipIndex(artifact, STEM, shape, NUMPY_DTYPES[self.stored])
        self._scales: dict[int, Array] = {}
        self.cls_width = int(artifact.manifest.get("cls_width", 0))
        self._cls_stored = cls_dtype(artifact.config["dtype"])
        self._cls = ClsReader(
            self.index.reader.files,
            self.index.reader.shards,
            self.cls_width,
            NUMPY_DTYPES[self._cls_stored],
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_scales": {}}

    def has(self, key: ClipKey, frames: int, view: int = 0) -> bool:
        """Whether this sampling of the clip is stored."""
        return self.index.has(key, frames, view)

    def clip(self, key: ClipKey, frames: int, view: int = 0) -> ClipRows:
        """Rows, frame indices and times of one sampling; `KeyError` if it is not stored."""
        return self.index.clip(key, frames, view)

    def read(self, rows: Array) -> Array:
        """Features of `rows`: float16 or float32 [len(rows), tokens, width]."""
        values = self.index.reader.read(rows)
        scale = self._row_scales(rows) if self.stored == "int8" else None
        return decode_values(values, self.stored, scale)

    @property
    def has_cls(self) -> bool:
        """Whether the frame CLS is stored apart from the tokens (CLIP)."""
        return self.cls_width > 0

    def read_cls(self, rows: Array) -> Array:
        """Frame CLS of `rows`: float16 or float32 [len(rows), cls_width]; no token is read.

        Raises:
            DataError: These features have none.
        """
        if not self.has_cls:
            raise DataError(
                f"{self.artifact.id} has no frame CLS apart from its tokens",
                "extract features with a CLIP backbone",
            )
        return decode_values(self._cls.read(rows), self._cls_stored)

    def _row_scales(self, rows: Array) -> Array:
        reader = self.index.reader
        return np.stack([self._shard_scales(int(reader.shards[row]))[
            row - int(np.searchsorted(reader.shards, reader.shards[row]))] for row in rows]
        )  # fmt: skip

    def _shard_scales(self, shard: int) -> Array:
        if shard not in self._scales:
            self._scales[shard] = _read_scales(self.index.reader.files[shard])
        return self._scales[shard]


def _read_scales(path: Path) -> Array:
    shape, _ = check_rows_file(path)
    with h5py.File(path, "r", locking=False) as file:
        scale = file.get(SCALE_DATASET)
        if not isinstance(scale, h5py.Dataset) or (scale.shape, scale.dtype) != (shape[:2], "f4"):
            raise DataError(f"{path}: no scales for its int8 rows", "vqa artifacts verify --repair")
        if scale.external or scale.is_virtual:
            raise DataError(f"{path}: {SCALE_DATASET} keeps its data in other files; refused")
        return np.asarray(scale[...])
