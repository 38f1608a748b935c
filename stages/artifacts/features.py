"""The features artifact: what a frozen vision tower says of every frame.

HDF5 shards `features-00000.h5` of one row per frame (tokens, width), taken before the tower's
last LayerNorm, with the index tables of `clips`. Stored as float16, float32, bfloat16 (uint16 with
the attribute `stored_as`), int8, or float8 (e4m3 as uint8); the last two with one scale per token
in the dataset `scale`.
CLIP's rows are patches alone: the frame CLS, taken after that norm, is a vector per row in the
dataset `cls` of the same file, which is read without touching the rows. With a scale it is float16,
because frames are chosen by it and it is small. For the same reason other towers' rows may have
`pooled` beside them, float16 [2, width] (`stages.models.pooled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from stages.artifacts.clips import ClipIndex, ClipKey, ClipRows
from stages.artifacts.rows import (
    CLS_DATASET,
    POOLED_DATASET,
    SCALE_DATASET,
    Array,
    VectorReader,
    check_rows_file,
)
from stages.artifacts.store import Artifact
from stages.core.errors import DataError

STEM = "features"
StoredDtype = Literal["float16", "float32", "bfloat16", "int8", "float8"]
SCALED = ("int8", "float8")
"""Types of one byte, with a scale per token."""
POOLED_VECTORS = 2
"""Vectors of a frame in the pooled tier: its first token, and the mean of the others."""
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
    "float8": np.dtype(np.uint8),
}
INT8_LIMIT = 127.0
FLOAT8_LIMIT = 448.0
"""Largest value of float8 e4m3, which has no infinity."""


def encode_values(features: Array, stored: StoredDtype) -> tuple[Array, Array | None]:
    """Features float32 [N, P, C] as they are stored, and for `SCALED` types the scales [N, P]."""
    if stored == "bfloat16":
        return _to_bfloat16(features), None
    if stored in SCALED:
        limit = INT8_LIMIT if stored == "int8" else FLOAT8_LIMIT
        scale = np.abs(features).max(axis=-1).astype(np.float32) / limit
        scaled = features / np.where(scale == 0, 1, scale)[..., None]
        return np.rint(scaled).astype(np.int8) if stored == "int8" else _to_float8(scaled), scale
    with np.errstate(over="ignore"):  # overflow becomes inf, which the caller looks for
        return features.astype(NUMPY_DTYPES[stored]), None


def cls_dtype(stored: StoredDtype) -> StoredDtype:
    """How the frame CLS is stored beside rows of `stored`."""
    return "float16" if stored in SCALED else stored


def decode_values(values: Array, stored: str, scale: Array | None = None) -> Array:
    """Stored values as float16 or float32 numbers, the same shape."""
    if stored == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if stored in SCALED:
        assert scale is not None
        numbers = values.astype(np.float32) if stored == "int8" else _FLOAT8_VALUES[values]
        return np.asarray(numbers * scale[..., None])
    return values


def _to_bfloat16(features: Array) -> Array:
    """The upper half of float32, rounded to nearest even."""
    bits = np.ascontiguousarray(features, dtype=np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)


def _to_float8(scaled: Array) -> Array:
    """Codes uint8 of float8 e4m3, rounded to nearest even."""
    import torch

    values = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))
    clamped = values.clamp(-FLOAT8_LIMIT, FLOAT8_LIMIT)
    return np.asarray(clamped.to(torch.float8_e4m3fn).view(torch.uint8).numpy())


def _float8_values() -> Array:
    """What each of the 256 codes of float8 e4m3 means, float32; a table needs no torch to read."""
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent, fraction = (codes >> 3) & 0xF, (codes & 7) / 8
    normal = (1 + fraction) * 2.0 ** (exponent - 7.0)
    values = sign * np.where(exponent == 0, fraction * 2.0**-6, normal)
    values[[0x7F, 0xFF]] = np.nan
    return values.astype(np.float32)


_FLOAT8_VALUES = _float8_values()


def representable(values: Array, stored: str) -> Array:
    """Per row: whether every stored value is finite, bool [N]."""
    if stored in SCALED:
        return np.ones(len(values), dtype=bool)
    numbers = decode_values(values, stored)
    return np.asarray(np.isfinite(numbers).all(axis=(1, 2)))


@dataclass(frozen=True)
class StoredValues:
    """Features of N frames as they are stored.

    Attributes:
        tokens: [N, P, C].
        scale: With `SCALED` types, the factors [N, P] that restore them.
        cls: Frame CLS [N, C], where it is stored apart.
        pooled: The pooled tier [N, 2, C], where there is one.
    """

    tokens: Array
    scale: Array | None
    cls: Array | None
    pooled: Array | None = None

    def only(self, rows: Array) -> StoredValues:
        """The rows that a mask or numbers choose."""
        return StoredValues(
            self.tokens[rows],
            None if self.scale is None else self.scale[rows],
            None if self.cls is None else self.cls[rows],
            None if self.pooled is None else self.pooled[rows],
        )

    @staticmethod
    def join(parts: Sequence[StoredValues]) -> StoredValues:
        """All parts, which are stored alike, one after the other."""

        def joined(found: Sequence[Array | None]) -> Array | None:
            arrays = [item for item in found if item is not None]
            return np.concatenate(arrays) if arrays else None

        return StoredValues(
            np.concatenate([part.tokens for part in parts]),
            joined([part.scale for part in parts]),
            joined([part.cls for part in parts]),
            joined([part.pooled for part in parts]),
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
        self._cls = self._vectors((self.cls_width,), self._cls_stored, CLS_DATASET)
        self.has_pooled = bool(config.get("pooled", False))
        self._pooled = self._vectors((POOLED_VECTORS, self.width), "float16", POOLED_DATASET)

    def _vectors(self, shape: tuple[int, ...], stored: str, dataset: str) -> VectorReader:
        rows = self.index.reader
        return VectorReader(rows.files, rows.shards, shape, NUMPY_DTYPES[stored], dataset)

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
        scale = self._row_scales(rows) if self.stored in SCALED else None
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

    def read_pooled(self, rows: Array) -> Array | None:
        """The pooled tier of `rows`, float16 [len(rows), 2, width]; none: it was not stored."""
        return self._pooled.read(rows) if self.has_pooled else None

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
            raise DataError(
                f"{path}: no scales for its rows of one byte", "vqa artifacts verify --repair"
            )
        if scale.external or scale.is_virtual:
            raise DataError(f"{path}: {SCALE_DATASET} keeps its data in other files; refused")
        return np.asarray(scale[...])
