"""A checkpoint of any format as named tensors: what they are at once, their values on demand.

Reads `.pth` / `.pt` / `.bin` archives of `torch.save`, `.safetensors`, Hugging Face folders (single
or sharded) and weights artifacts of `vqa`. Opening one reads names, shapes and types only, without
torch; values are read by `torch.load(weights_only=True, mmap=True)` or from the file's bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.artifacts.atomic import sha256_file
from stages.artifacts.store import MANIFEST
from stages.checkpoints.pickle_structure import PickledTensor, PickleRefused, read_structure
from stages.checkpoints.zip_directory import Member, read_member, read_members
from stages.core.errors import DataError, MissingInput
from stages.core.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor

SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Types of a header under torch's names; others stay as they are written."""
SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
PTH, SAFETENSORS, FOLDER, ARTIFACT = "pth", "safetensors", "folder", "artifact"
MODEL_ENTRY = "model"
"""Where LAVIS, SeViLA and ViLA keep the weights in their files."""
CONVERT = (
    "convert it once, where you trust the file: "
    "torch.save(torch.load(FILE, weights_only=True), NEW)"
)


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint, without its values."""

    shape: tuple[int, ...]
    dtype: str
    """As torch calls it: `float32`, `bfloat16`, ..."""
    file: Path

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class LeftOver:
    """Something beside the weights in a training checkpoint: optimizer, scaler, config, epoch."""

    tensors: int
    elements: int


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors of a file or folder.

    Attributes:
        path: The file or folder.
        form: `pth`, `safetensors`, `folder` or `artifact`.
        tensors: Name to what is stored, in the order of the file.
        files: Every file that holds weights.
        left_overs: Name to what a training left beside the weights.
        config: `config.json` of a folder, the manifest of an artifact; else empty.
        nested: Whether the weights lie under `model` in the file.
    """

    path: Path
    form: str
    tensors: dict[str, Stored]
    files: list[Path]
    left_overs: dict[str, LeftOver] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    nested: bool = False

    @property
    def bytes(self) -> int:
        """Size of the files together."""
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Sha256 of each weights file, by file name."""
        return {file.name: sha256_file(file) for file in self.files}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Name and values of the named tensors, in the type they are stored in, one at a time."""
        wanted = list(names)
        reader = _read_pth if self.form == PTH else _read_safetensors
        yield from reader(self, wanted)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint at `path`: a file, a Hugging Face folder or a weights artifact.

    Raises:
        MissingInput: Nothing there, or a folder without weights.
        DataError: Damaged, or not of a kind that is read; nothing in it was executed.
    """
    if path.is_dir():
        return _open_artifact(path) if (path / MANIFEST).exists() else _open_folder(path)
    if not path.exists():
        raise MissingInput(f"no such checkpoint: {path}", "give a file, or a folder with weights")
    if not path.is_file():
        raise DataError(f"{path} is neither a file nor a folder", "a pipe or device is not read")
    with path.open("rb") as opened:
        start = opened.read(16)
    if start[:2] == b"PK":
        return _open_pth(path)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return Checkpoint(path, SAFETENSORS, _header_tensors(path), [path])
    if start[:1] == b"\x80":
        raise DataError(
            f"{path} is a bare pickle, as torch before 1.6 wrote it; refused unread", CONVERT
        )
    raise DataError(
        f"{path} is neither an archive of torch.save nor a safetensors file",
        "the file is damaged or cut short, or something else; copy or download it again",
    )


# --- archives of torch.save ----------------------------------------------------------------------


def _open_pth(path: Path) -> Checkpoint:
    value = _structure(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not a dict of tensors")
    inner = value.get(MODEL_ENTRY)
    nested = isinstance(inner, dict)
    state: dict[Any, Any] = inner if isinstance(inner, dict) else value
    tensors = {
        name: Stored(item.shape, item.storage.dtype, path)
        for name, item in state.items()
        if isinstance(name, str) and isinstance(item, PickledTensor)
    }
    if not tensors:
        raise DataError(f"{path} holds no tensors", "is it a checkpoint of weights?")
    others = value if nested else {k: v for k, v in value.items() if str(k) not in tensors}
    left_overs = {str(name): _left_over(item) for name, item in others.items() if item is not state}
    return Checkpoint(path, PTH, tensors, [path], left_overs, nested=nested)


def _structure(path: Path) -> Any:
    """The value that the archive's pickle describes, with tensors told and not made."""
    members = read_members(path)
    if "data.pkl" not in members:
        raise DataError(f"{path} is a zip archive, but not one of torch.save (no data.pkl)")
    order = members.get("byteorder", Member(0, 0))
    if order.size and read_member(path, order)[:6].strip() != b"little":
        raise DataError(f"{path} was written on a big-endian machine", CONVERT)
    sizes = {
        name.removeprefix("data/"): member.size
        for name, member in members.items()
        if name.startswith("data/")
    }
    try:
        return read_structure(read_member(path, members["data.pkl"]), sizes)
    except PickleRefused as error:
        raise DataError(
            f"{path} is refused: {error}",
            "only tensors and plain values are read from a pickle, because it can run any code; "
            "nothing in the file was executed",
        ) from None


def _left_over(value: Any) -> LeftOver:
    """How many tensors lie below `value`; each counts once, however often it is referred to."""
    seen: set[int] = set()
    waiting, tensors, elements = [value], 0, 0
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, PickledTensor):
            tensors, elements = tensors + 1, elements + item.elements
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple):
            waiting.extend(item)
    return LeftOver(tensors, elements)


def _read_pth(checkpoint: Checkpoint, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """The archive was followed step by step when it was opened; torch checks it again."""
    import torch

    try:
        value = torch.load(checkpoint.path, map_location="cpu", weights_only=True, mmap=True)
        state = value[MODEL_ENTRY] if checkpoint.nested else value
        found = {name: state[name].detach() for name in names}
    except Exception as error:  # torch raises any kind for an archive that it reads otherwise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{checkpoint.path} cannot be read by torch ({reason})", CONVERT) from None
    for name, tensor in found.items():
        told = checkpoint.tensors[name]
        if (tuple(tensor.shape), tensor.dtype) != (told.shape, getattr(torch, told.dtype)):
            raise DataError(f"{checkpoint.path}: torch reads {name!r} otherwise; damaged", CONVERT)
        yield name, tensor


# --- safetensors ---------------------------------------------------------------------------------


def _header_tensors(file: Path) -> dict[str, Stored]:
    return {
        name: Stored(entry.shape, SAFETENSORS_TYPES.get(entry.dtype, entry.dtype), file)
        for name, entry in read_header(file).items()
    }


def _read_safetensors(checkpoint: Checkpoint, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(checkpoint.tensors[name].file, []).append(name)
    for file, wanted in by_file.items():
        try:
            with safe_open(file, framework="pt") as opened:
                for name in wanted:
                    yield name, opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{file} cannot be read ({error})") from None


def _open_folder(path: Path) -> Checkpoint:
    config = read_json(path / "config.json")
    files = weight_files(path)
    tensors: dict[str, Stored] = {}
    for file in files:
        tensors |= _header_tensors(file)
    return Checkpoint(path, FOLDER, tensors, files, config=config)


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a Hugging Face folder.

    Raises:
        MissingInput: There are none, or a shard is not there.
        DataError: The weights are pickles, or the index names something else than its own shards.
    """
    if (path / SINGLE_FILE).exists():
        return [path / SINGLE_FILE]
    if (path / INDEX_FILE).exists():
        return _shards(path)
    pickles = sorted([*path.glob("*.bin"), *path.glob("*.pth"), *path.glob("*.pt")])
    if pickles:
        raise DataError(
            f"{path} holds pickled weights ({pickles[0].name}), no safetensors",
            "give the file itself, or save the folder with safe_serialization=True",
        )
    raise MissingInput(f"no weights in {path}", f"expected {SINGLE_FILE} or {INDEX_FILE}")


def _shards(path: Path) -> list[Path]:
    index = path / INDEX_FILE
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"{index}: no weight_map", "the index of the shards is damaged")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise DataError(f"{index}: refused shard name {name!r}")
        if not (path / name).exists():
            raise MissingInput(f"shard {name} of {index} is not there", "download it again")
    return [path / name for name in names]


def _open_artifact(path: Path) -> Checkpoint:
    manifest = read_json(path / MANIFEST)
    files = manifest.get("files", {})
    named = [name for name in files if name.endswith(".safetensors") and Path(name).name == name]
    if manifest.get("kind") != "weights" or len(named) != 1 or not (path / named[0]).exists():
        raise DataError(f"{path} is an artifact, but not finished weights", "vqa artifacts ls")
    file = path / named[0]
    return Checkpoint(path, ARTIFACT, _header_tensors(file), [file], config=manifest)


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`.

    Raises:
        MissingInput: No such file.
        DataError: No JSON object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInput(f"no {file.name} in {file.parent}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{file} must hold a JSON object, not a {type(value).__name__}")
    return value


def dtype_counts(tensors: Mapping[str, Stored]) -> dict[str, int]:
    """Type to number of tensors."""
    counts: dict[str, int] = {}
    for item in tensors.values():
        counts[item.dtype] = counts.get(item.dtype, 0) + 1
    return dict(sorted(counts.items()))
