"""Files in exactly the layouts of SeViLA, ViLA, LAVIS and EVA, at tiny size, with random values."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.reference_names import (
    ours_from_huggingface_name,
    reference_from_ours,
    sevila_from_huggingface_name,
    teacher_name,
)
from stages.models.vlap import VlapConfig, VlapStudent

FRAMES, KEEP, TOKENS = 4, 2, 5
TOWERS = ("visual_encoder.", "t5_model.")
TRAINING = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3, 4)}}}, "epoch": 7}


@dataclass(frozen=True)
class Published:
    """Two bases, and the state dicts of every published layout on them, under reference names.

    Attributes:
        root: Where files go.
        instructblip: A tiny InstructBLIP folder.
        blip2: A tiny BLIP-2 folder.
        states: Layout to state dict.
    """

    root: Path
    instructblip: Path
    blip2: Path
    states: dict[str, dict[str, Tensor]]

    def file(self, layout: str, *, training: bool = False, **changes: Tensor) -> Path:
        """Write a layout as its code base writes it; `changes` replace tensors."""
        state = self.states[layout] | changes
        path = self.root / f"{layout}{len(list(self.root.glob('*.pth')))}.pth"
        if layout == "eva":
            torch.save(state, path)
        else:
            torch.save({"model": state, **(TRAINING if training else {})}, path)
        return path


def models_conftest() -> Any:
    """The module that writes random backbones; test folders are not packages."""
    path = Path(__file__).parents[1] / "models/conftest.py"
    spec = importlib.util.spec_from_file_location("models_conftest_for_checkpoints", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_biases(folder: Path) -> Path:
    """The folder with q and v biases in its tower, as published ones have them; no key bias."""
    generator = torch.Generator().manual_seed(9)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith(".self_attn.qkv.bias"):
            q_bias, v_bias = torch.randn(2, len(weights[name]) // 3, generator=generator)
            weights[name] = torch.cat([q_bias, torch.zeros_like(q_bias), v_bias])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without_towers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(TOWERS)}


def noisy(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Other values of the same shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {n: t + torch.randn(t.shape, generator=generator) for n, t in state.items()}


def vlap_states(folder: Path) -> dict[str, dict[str, Tensor]]:
    weights = load_file(folder / "model.safetensors")
    whole = reference_from_ours({ours_from_huggingface_name(n): t for n, t in weights.items()})
    own = without_towers(whole)
    teacher, start = noisy(own, 1), noisy(own, 2)
    counters = {"Qformer.bert.embeddings.position_ids": torch.arange(140).expand(1, -1)}
    aliases = {
        f"t5_model.{part}.embed_tokens.weight": whole["t5_model.shared.weight"].bfloat16()
        for part in ("encoder", "decoder")
    }
    copies = {teacher_name(n): t for n, t in teacher.items() if not n.startswith("ln_")}
    torch.manual_seed(5)
    network = VlapStudent(
        InstructBlip.from_config(BackboneFolder(folder).config),
        VlapConfig(frames=FRAMES, keep=KEEP),
        tokens=TOKENS,
    )
    extra = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name.startswith(("frame_prompter.", "distill_decoder."))
    }
    return {
        "vlap-whole": whole,
        "instructblip": own,
        "teacher": teacher | counters | aliases,
        "start": start | counters,
        "merged": start | copies | counters,
        "student": noisy(own, 3) | copies | counters | reference_from_ours(extra),
    }


def sevila_states(folder: Path) -> dict[str, dict[str, Tensor]]:
    weights = load_file(folder / "model.safetensors")
    whole = reference_from_ours({sevila_from_huggingface_name(n): t for n, t in weights.items()})
    own = without_towers(whole)
    side = noisy(own, 4)
    localizer = {localizer_name(name): tensor for name, tensor in noisy(own, 5).items()}
    text = {
        "Qformer.bert.embeddings.word_embeddings.weight": torch.randn(9, 24),
        "Qformer.bert.embeddings.position_embeddings.weight": torch.randn(9, 24),
        "Qformer.bert.encoder.layer.0.intermediate.dense.weight": torch.randn(32, 24),
        "Qformer.bert.encoder.layer.0.output.dense.weight": torch.randn(24, 32),
        "Qformer.cls.predictions.bias": torch.randn(9),
        "vision_proj.weight": torch.randn(8, 24),
        "itm_head.bias": torch.randn(2),
        "temp": torch.tensor(0.07),
    }
    projection = ("t5_proj.weight", "t5_proj.bias")
    tower = {
        name.removeprefix("visual_encoder."): tensor
        for name, tensor in whole.items()
        if name.startswith("visual_encoder.")
    }
    tower = noisy(tower, 6)
    last = {n.replace("blocks.1.", "blocks.2."): t for n, t in tower.items() if "blocks.1." in n}
    return {
        "blip2-whole": whole,
        "sevila": side | localizer,
        "localizer": localizer,
        "stage2": side,
        "stage1": {n: t for n, t in side.items() if n not in projection} | text,
        "eva": tower | last | {"norm.weight": torch.ones(16), "head.bias": torch.zeros(4)},
    }


def localizer_name(name: str) -> str:
    first, dot, rest = name.partition(".")
    return f"{first}_loc{dot}{rest}"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("published")
    write = models_conftest().write_folder
    instructblip = with_biases(write(root / "tiny-instructblip", seed=0))
    blip2 = with_biases(write(root / "tiny-blip2", seed=1, model_type="blip-2"))
    states = vlap_states(instructblip) | sevila_states(blip2)
    return Published(root, instructblip, blip2, states)
