"""Reading tensors out of a Hugging Face folder: strictly, sparingly and without pickles."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stages.core.errors import DataError, MissingInput
from stages.core.safetensors_header import read_header
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)


def raw_safetensors(file: Path, header: object, data: bytes = b"") -> Path:
    raw = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return file


def test_headers_give_names_and_shapes_without_data(tiny_folder: BackboneFolder) -> None:
    entries = tiny_folder.keys_and_shapes()
    assert entries["query_tokens"].shape == (1, 3, 24)
    assert entries["language_model.lm_head.weight"].dtype == "F32"


def test_load_into_fills_a_meta_module_and_its_shared_tensors(
    tiny_folder: BackboneFolder,
) -> None:
    backbone = InstructBlip.load(tiny_folder)
    assert not any(p.is_meta for p in backbone.parameters())
    assert not any(b.is_meta for b in backbone.buffers())
    t5 = backbone.language_model
    assert t5.encoder.embed_tokens.weight is t5.shared.weight
    assert t5.decoder.embed_tokens.weight is t5.shared.weight


def test_load_into_names_missing_unexpected_and_misshapen_tensors(
    make_folder: Callable[..., Path],
) -> None:
    folder = make_folder()

    def damage(state: dict[str, torch.Tensor]) -> None:
        del state["language_projection.bias"]
        state["language_projection.weight"] = torch.zeros(3, 3)
        state["language_projection.extra"] = torch.zeros(1)

    edit_weights(folder, damage)
    with pytest.raises(DataError) as raised:
        BackboneFolder(folder).load_into(nn.Linear(24, 32), "language_projection.")
    message = str(raised.value)
    assert "missing language_projection.bias" in message
    assert "unexpected language_projection.extra" in message
    assert "(3, 3), expected (32, 24)" in message


def test_rename_maps_own_names_to_stored_ones(tiny_folder: BackboneFolder) -> None:
    layer = nn.Module()
    layer.gain, layer.shift = nn.Parameter(torch.ones(16)), nn.Parameter(torch.ones(16))
    names = {"gain": "weight", "shift": "bias"}
    tiny_folder.load_into(layer, "vision_model.post_layernorm.", rename=names.__getitem__)
    stored = tiny_folder.tensors(["vision_model.post_layernorm.weight"])
    assert torch.equal(layer.gain, stored["vision_model.post_layernorm.weight"])


def test_stored_position_counters_are_accepted_and_ignored(
    make_folder: Callable[..., Path],
) -> None:
    folder = make_folder()
    position_ids = torch.zeros(1, 140, dtype=torch.int64)
    edit_weights(folder, lambda s: s.update({"qformer.embeddings.position_ids": position_ids}))
    backbone = InstructBlip.load(BackboneFolder(folder))
    assert backbone.qformer.embeddings.position_ids[0, -1] == 139


def test_sharded_and_single_folders_load_alike_and_have_one_fingerprint(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    single, sharded = BackboneFolder(make_folder()), BackboneFolder(make_folder(shards=3))
    one, three = InstructBlip.load(single), InstructBlip.load(sharded)
    for (name, a), (_, b) in zip(one.named_parameters(), three.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    prefixes = ("qformer.", "vision_model.")
    assert single.content_fingerprint(prefixes) == sharded.content_fingerprint(prefixes)
    moved = shutil.copytree(single.path, tmp_path / "elsewhere")
    assert BackboneFolder(moved).content_fingerprint(prefixes) == single.content_fingerprint(
        prefixes
    )


def test_fingerprint_follows_the_asked_weights_and_the_config(
    make_folder: Callable[..., Path],
) -> None:
    base = BackboneFolder(make_folder()).content_fingerprint(["qformer."])
    other_seed = BackboneFolder(make_folder(seed=1))
    assert other_seed.content_fingerprint(["qformer."]) != base
    folder = make_folder()
    edit_weights(folder, lambda s: s["query_tokens"].add_(1))
    assert BackboneFolder(folder).content_fingerprint(["qformer."]) == base
    assert BackboneFolder(folder).content_fingerprint(["query_tokens"]) != BackboneFolder(
        make_folder()
    ).content_fingerprint(["query_tokens"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "9"}))
    assert BackboneFolder(folder).content_fingerprint(["qformer."]) == base
    (folder / "config.json").write_text(json.dumps(config | {"num_query_tokens": 9}))
    assert BackboneFolder(folder).content_fingerprint(["qformer."]) != base


def test_pickled_weights_are_refused_unopened(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(DataError, match="pickle and is refused") as raised:
        BackboneFolder(folder).keys_and_shapes()
    assert "convert" in raised.value.hint


def test_absent_folder_config_and_weights_are_missing_inputs(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        BackboneFolder(tmp_path / "absent")
    with pytest.raises(MissingInput):
        BackboneFolder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingInput):
        BackboneFolder(tmp_path).keys_and_shapes()
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DataError):
        BackboneFolder(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a.bin"])
def test_shard_names_cannot_leave_the_folder(make_folder: Callable[..., Path], name: str) -> None:
    folder = make_folder()
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"query_tokens": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="refused shard name"):
        BackboneFolder(folder).keys_and_shapes()


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}},
        {"a": {"dtype": "PICKLE", "shape": [2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}},
        {"a": {"dtype": "F32"}},
        {"a": 3},
        [1, 2],
        {"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 8]}},
    ],
)
def test_damaged_headers_are_data_errors(tmp_path: Path, header: object) -> None:
    file = raw_safetensors(tmp_path / "model.safetensors", header, b"12345678")
    with pytest.raises(DataError):
        read_header(file)


@pytest.mark.parametrize("content", [b"", b"123", struct.pack("<Q", 1 << 60) + b"{}"])
def test_truncated_files_are_data_errors(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(DataError):
        read_header(file)
