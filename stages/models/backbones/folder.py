"""A backbone on disk: a folder in Hugging Face layout, read tensor by tensor.

Reads `config.json`, `model.safetensors` (or its sharded index), `preprocessor_config.json` and the
tokenizers' `tokenizer.json`. Nothing is ever unpickled, and only the tensors that are asked for
are read, so that a vision tower comes out of a composite checkpoint without its language model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from stages.core.errors import DataError, MissingInput, VqaError, read_text_or_explain
from stages.core.safetensors_header import read_header

SAMPLED_BYTES = 1 << 16
TOWER_FAMILY = ("instructblip", "blip-2")
TOWER_DEFAULTS: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 14,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
"""What a tower computes and its tensors' shapes do not say; transformers' own defaults."""
SECTION_SIZES: Mapping[str, tuple[str, ...]] = {
    "vision_config": (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "image_size", "patch_size",
    ),
    "qformer_config": (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "encoder_hidden_size", "cross_attention_frequency", "vocab_size",
        "max_position_embeddings",
    ),
    "text_config": ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size"),
}  # fmt: skip
"""Whole numbers above zero in the parts of a `config.json` of the BLIP-2 family."""
_VOLATILE_CONFIG_KEYS = {"_name_or_path", "transformers_version", "torch_dtype", "dtype"}
_CONVERT_HINT = (
    "pickled weights are not read, because a pickle can run any code; convert them once where "
    "you trust them, e.g. with `model.save_pretrained(folder, safe_serialization=True)`"
)


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies and what it is, from a safetensors header alone."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    begin: int
    """First byte in the file (absolute)."""
    end: int


class BackboneFolder:
    """A Hugging Face layout folder that hands out its config and chosen tensors.

    Raises:
        MissingInput: the folder, its config or its weights are not there.
        DataError: a file's content is wrong, or the weights are a pickle.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise MissingInput(
                f"backbone folder not found: {self.path}",
                "give a folder in Hugging Face layout with config.json and model.safetensors",
            )
        self.config = self.read_json("config.json")
        if self.config.get("model_type") in TOWER_FAMILY:
            check_sizes(self.config, str(self.path / "config.json"))
        self._entries: dict[str, TensorEntry] | None = None

    def read_json(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """The JSON object in file `name`; {} when `optional` and absent."""
        file = self.path / name
        if optional and not file.exists():
            return {}
        try:
            value = json.loads(read_text_or_explain(file, f"{name} of the backbone"))
        except VqaError:
            raise
        except OSError as error:
            raise DataError(f"{file} cannot be read ({type(error).__name__})") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise DataError(f"{file} must hold a JSON object, not a {type(value).__name__}")
        return value

    def keys_and_shapes(self) -> dict[str, TensorEntry]:
        """Every tensor's name and header entry; no tensor data is read."""
        if self._entries is None:
            entries: dict[str, TensorEntry] = {}
            for file in self._weight_files():
                for name, found in read_header(file).items():
                    entries[name] = TensorEntry(
                        file, found.shape, found.dtype, found.begin, found.end
                    )
            self._entries = entries
        return self._entries

    def tensors(
        self,
        names: Iterable[str],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Read the named tensors, each file opened once; floating ones are cast to `dtype`."""
        entries = self.keys_and_shapes()
        by_file: dict[Path, list[str]] = {}
        for name in names:
            if name not in entries:
                raise DataError(f"{self.path}: the weights have no tensor {name!r}")
            by_file.setdefault(entries[name].file, []).append(name)
        found: dict[str, Tensor] = {}
        for file, wanted in by_file.items():
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in wanted:
                        found[name] = _cast(opened.get_tensor(name), dtype, device)
            except (SafetensorError, OSError) as error:
                raise DataError(f"{file} cannot be read: {error}") from None
        return found

    def load_into(
        self,
        module: nn.Module,
        prefix: str,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        rename: Callable[[str], str] | None = None,
    ) -> None:
        """Give `module` (on meta or real) the tensors that lie under `prefix`.

        Args:
            module: filled in place; tensors that it shares under several names are read once.
            prefix: of the names in the file, e.g. `"qformer."`.
            dtype: floating tensors are cast to it; None keeps what is stored.
            device: where the tensors go.
            rename: from the module's own name to the name below `prefix`.

        Raises:
            DataError: a tensor is missing, unexpected or of another shape; all are named.
        """
        slots = _tensor_slots(module)
        entries = self.keys_and_shapes()
        chosen = self._match(slots, prefix, rename or (lambda name: name))
        problems = [f"missing {prefix}{slot[0]}" for slot in slots if slot[0] not in chosen]
        for slot in slots:
            stored = chosen.get(slot[0])
            if stored and entries[stored].shape != tuple(_get(module, slot[0]).shape):
                wanted = tuple(_get(module, slot[0]).shape)
                problems.append(f"{stored} has shape {entries[stored].shape}, expected {wanted}")
        problems += self._unexpected(module, prefix, rename or (lambda name: name))
        problems += self._different_aliases(slots, prefix, rename or (lambda name: name))
        if problems:
            raise DataError(
                f"{self.path}: weights under {prefix!r} do not fit: " + summarise(problems),
                "is config.json the one that these weights were saved with?",
            )
        loaded = self.tensors(set(chosen.values()), dtype=dtype, device=device)
        for slot in slots:
            _assign(module, slot, loaded[chosen[slot[0]]])

    def content_fingerprint(self, prefixes: Iterable[str]) -> str:
        """sha256 that identifies the weights under `prefixes` and the config; never the path.

        Per tensor, in name order: name, dtype, shape and its bytes, of which for tensors above
        128 KiB only the first and last 64 KiB count, so that ten gigabytes are identified in
        seconds. How the tensors are spread over files does not matter.
        """
        wanted = tuple(prefixes)
        digest = hashlib.sha256(canonical_config(self.config).encode())
        for name, entry in sorted(self.keys_and_shapes().items()):
            if name.startswith(wanted):
                digest.update(f"{name} {entry.dtype} {entry.shape}\n".encode())
                digest.update(_sampled_bytes(entry))
        return digest.hexdigest()

    def tower_fingerprint(self) -> str:
        """sha256 that identifies what stored features depend on: the vision tower.

        Features of the BLIP-2 family lie before the tower's last LayerNorm, which is trained with
        the Q-Former, so folders that differ in it alone share features: a BLIP-2 and an
        InstructBLIP with one tower do. A CLIP's tower counts with everything that belongs to it.
        """
        layout = self.config.get("model_type")
        if layout not in TOWER_FAMILY:
            return self.content_fingerprint(["vision_model."])
        vision = TOWER_DEFAULTS | dict(self.config.get("vision_config") or {})
        digest = hashlib.sha256(json.dumps([vision[name] for name in TOWER_DEFAULTS]).encode())
        for name, entry in sorted(self.keys_and_shapes().items()):
            if name.startswith("vision_model.") and ".post_layernorm." not in name:
                digest.update(f"{name} {entry.dtype} {entry.shape}\n".encode())
                digest.update(_sampled_bytes(entry))
        return digest.hexdigest()

    def _match(
        self, slots: list[list[str]], prefix: str, rename: Callable[[str], str]
    ) -> dict[str, str]:
        """First name of each slot -> the stored name that fills it."""
        entries = self.keys_and_shapes()
        chosen: dict[str, str] = {}
        for names in slots:
            stored = [prefix + rename(name) for name in names if prefix + rename(name) in entries]
            if stored:
                chosen[names[0]] = stored[0]
        return chosen

    def _different_aliases(
        self, slots: list[list[str]], prefix: str, rename: Callable[[str], str]
    ) -> list[str]:
        """Stored tensors that the module has as one (T5's embeddings), but that are not alike.

        Whichever was read last would win in silence (specs/vlap.md 7.3, trap 1).
        """
        entries, problems = self.keys_and_shapes(), []
        for names in slots:
            stored = [prefix + rename(name) for name in names if prefix + rename(name) in entries]
            if len(stored) > 1 and len({_sampled_bytes(entries[name]) for name in stored}) > 1:
                problems.append(f"{' and '.join(stored)} must be one tensor, but differ")
        return problems

    def _unexpected(
        self, module: nn.Module, prefix: str, rename: Callable[[str], str]
    ) -> list[str]:
        known = {prefix + rename(name) for name in _all_names(module)}
        return [
            f"unexpected {name}"
            for name in self.keys_and_shapes()
            if name.startswith(prefix) and name not in known
        ]

    def _weight_files(self) -> list[Path]:
        single = self.path / "model.safetensors"
        if single.exists():
            return [single]
        index = self.path / "model.safetensors.index.json"
        if index.exists():
            return self._shards(index)
        pickles = sorted(self.path.glob("pytorch_model*.bin")) + sorted(self.path.glob("*.pth"))
        if pickles:
            raise DataError(f"{pickles[0]} is a pickle and is refused", _CONVERT_HINT)
        raise MissingInput(
            f"no weights in {self.path}",
            "expected model.safetensors or model.safetensors.index.json",
        )

    def _shards(self, index: Path) -> list[Path]:
        weight_map = self.read_json(index.name).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise DataError(f"{index}: no weight_map", "the index of the shards is damaged")
        names = {str(name) for name in weight_map.values()}
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise DataError(f"{index}: refused shard name {name!r}")
            if not (self.path / name).exists():
                raise MissingInput(f"shard {name} of {index} is not there", "download it again")
        return [self.path / name for name in sorted(names)]


def check_sizes(config: Mapping[str, Any], where: str) -> None:
    """Raise `DataError` unless the sizes of a BLIP-2 family config are whole and fit together."""
    _check_size(config, "num_query_tokens", where, "")
    for section, sizes in SECTION_SIZES.items():
        values = config.get(section, {})
        if not isinstance(values, dict):
            raise DataError(f"{where}: {section} must be an object, not {repr(values)[:40]}")
        for name in sizes:
            _check_size(values, name, where, f"{section}.")
        width, heads = values.get("hidden_size"), values.get("num_attention_heads")
        if width is not None and heads is not None and width % heads:
            raise DataError(f"{where}: {section} divides a width of {width} among {heads} heads")


def _check_size(values: Mapping[str, Any], name: str, where: str, section: str) -> None:
    value = values.get(name, 1)
    if type(value) is not int or value < 1:
        shown = repr(value)[:40]
        raise DataError(f"{where}: {section}{name} must be a whole number above 0, not {shown}")


@contextmanager
def explained_config(where: str) -> Iterator[None]:
    """What a library says of a config that makes no network, as `DataError`."""
    try:
        yield
    except VqaError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, StrictDataclassError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(f"{where}: these values make no network ({reason[:200]})") from None


def canonical_config(config: Mapping[str, Any]) -> str:
    """The config as sorted JSON without keys that say nothing about the network."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: clean(v) for k, v in value.items() if k not in _VOLATILE_CONFIG_KEYS}
        return value

    return json.dumps(clean(config), sort_keys=True)


def summarise(problems: list[str], limit: int = 8) -> str:
    """The first `limit` problems and how many more there are."""
    more = f" and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(problems[:limit]) + more


def _sampled_bytes(entry: TensorEntry) -> bytes:
    length = entry.end - entry.begin
    with entry.file.open("rb") as opened:
        opened.seek(entry.begin)
        if length <= 2 * SAMPLED_BYTES:
            return opened.read(length)
        head = opened.read(SAMPLED_BYTES)
        opened.seek(entry.end - SAMPLED_BYTES)
        return head + opened.read(SAMPLED_BYTES)


def _cast(tensor: Tensor, dtype: torch.dtype | None, device: torch.device | str) -> Tensor:
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)


def _tensor_slots(module: nn.Module) -> list[list[str]]:
    """Names of each distinct tensor that a state dict of `module` would hold, aliases together."""
    persistent = module.state_dict(keep_vars=True)
    slots: dict[int, list[str]] = {}
    for name, tensor in persistent.items():
        slots.setdefault(id(tensor), []).append(name)
    return list(slots.values())


def _all_names(module: nn.Module) -> set[str]:
    """Names that a file may hold for `module`: non-persistent buffers are known but not read."""
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    return set(module.state_dict()) | buffers


def _get(module: nn.Module, name: str) -> Tensor:
    parent, _, leaf = name.rpartition(".")
    tensor = getattr(module.get_submodule(parent), leaf)
    assert isinstance(tensor, Tensor)
    return tensor


def _assign(module: nn.Module, names: list[str], tensor: Tensor) -> None:
    old = _get(module, names[0])
    new: Tensor = tensor
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(tensor, requires_grad=old.requires_grad)
    for name in names:
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, new)
