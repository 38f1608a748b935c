"""Writing checkpoints: safetensors tensor by tensor, `.pth` archives, backbone folders.

A file appears under its name when it is whole; a folder gets its `config.json` last.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stages.artifacts import atomic
from stages.checkpoints.tensor_files import SAFETENSORS_TYPES, SINGLE_FILE
from stages.core.errors import DataError, MachineError, UsageError
from stages.core.safetensors_header import encode_header, item_bytes

if TYPE_CHECKING:
    from torch import Tensor

HEADER_TYPES = {torch_name: name for name, torch_name in SAFETENSORS_TYPES.items()}
Declared = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name to type (as torch calls it) and shape."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".h5", ".msgpack", ".index.json")


def write_safetensors(path: Path, declared: Declared, values: Iterable[tuple[str, Tensor]]) -> None:
    """Write `values`, which may come in any order, one at a time.

    Args:
        path: The file.
        declared: Every tensor, in the order of the file.
        values: Name and values of each of them, once.

    Raises:
        DataError: A value is not of the type or shape that was declared; no file is left.
    """
    header = {name: (HEADER_TYPES[dtype], shape) for name, (dtype, shape) in declared.items()}
    start = encode_header(header)
    places = _places(declared, len(start))
    temporary = path.with_name(path.name + atomic.TEMPORARY_SUFFIX)
    try:
        with temporary.open("wb") as file:
            file.write(start)
            for name, value in values:
                file.seek(places.pop(name))
                file.write(_as_declared(name, value, declared[name]))
            assert not places, f"no values for {sorted(places)[:3]}"
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        atomic.fsync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise atomic.explain_disk_error(error, path, needed=0) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _places(declared: Declared, start: int) -> dict[str, int]:
    """First byte of each tensor."""
    places, position = {}, start
    for name, (dtype, shape) in declared.items():
        places[name] = position
        position += math.prod(shape) * item_bytes(HEADER_TYPES[dtype])
    return places


def _as_declared(name: str, value: Tensor, declared: tuple[str, tuple[int, ...]]) -> memoryview:
    """The bytes of a tensor; they must fill its place and no other's."""
    dtype, shape = declared
    found = (str(value.dtype).removeprefix("torch."), tuple(value.shape))
    raw = _raw(value)
    if found != declared or len(raw) != math.prod(shape) * item_bytes(HEADER_TYPES[dtype]):
        raise DataError(f"{name} is {found[0]} {found[1]}, and was declared as {dtype} {shape}")
    return raw


def _raw(value: Tensor) -> memoryview:
    """The bytes of a tensor, of whatever type."""
    import torch

    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def write_pth(path: Path, state: Mapping[str, Tensor]) -> None:
    """`{"model": state}` as LAVIS, SeViLA and ViLA read it."""
    import torch

    temporary = path.with_name(path.name + atomic.TEMPORARY_SUFFIX)
    try:
        own = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
        torch.save({"model": own}, temporary)
        temporary.replace(path)
        atomic.fsync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise atomic.explain_disk_error(error, path, needed=0) from error
        raise MachineError(f"{path} cannot be written ({error})") from None


def new_folder(path: Path) -> Path:
    """An empty folder at `path`.

    Raises:
        UsageError: There is something in it already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} exists and is not empty", "give a new folder with --out")
    atomic.make_directory(path)
    return path


def copy_companions(source: Path, target: Path) -> list[str]:
    """Tokenizers and preprocessor settings of a backbone folder: all but config and weights.

    Nothing hidden is copied: `.git` and `.cache` of a clone or a download are no part of a model.
    """
    copied = []
    for file in sorted(item for item in source.rglob("*") if item.is_file()):
        inside = file.relative_to(source)
        name = inside.as_posix()
        if name == "config.json" or name.endswith(WEIGHT_SUFFIXES):
            continue
        if any(part.startswith(".") for part in inside.parts):
            continue
        if file.name.lower() == "readme.md":
            continue
        atomic.make_directory((target / name).parent)
        shutil.copyfile(file, target / name)
        copied.append(name)
    return copied


WEIGHTS_NAME = SINGLE_FILE
