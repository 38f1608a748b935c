"""A tiny random CLIP in a real Hugging Face folder, tokenizer included; loaded by path by tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import CLIPConfig, CLIPModel

START, END = "<|startoftext|>", "<|endoftext|>"
TEXT = "a the red green blue circle square what color is on left right ?"
WORDS = TEXT.split()
CONFIG: dict[str, Any] = {
    "model_type": "clip",
    "architectures": ["CLIPModel"],
    "projection_dim": 12,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    },
    "text_config": {
        "vocab_size": len(WORDS) + 4,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "bos_token_id": len(WORDS) + 2,
        "eos_token_id": len(WORDS) + 3,
    },
}


def clip_tokenizer() -> Tokenizer:
    """Lower-cased whole words between start and end, which have the last two ids as in CLIP."""
    pieces = ["<pad>", "<unk>", *WORDS, START, END]
    tokenizer = Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.Fuse()
    ids = [(START, len(pieces) - 2), (END, len(pieces) - 1)]
    tokenizer.post_processor = TemplateProcessing(single=f"{START} $A {END}", special_tokens=ids)
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in (START, END)])
    return tokenizer


def random_model(config: dict[str, Any], seed: int) -> CLIPModel:
    """Random weights whose norms are not the identity, in eval mode."""
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(**{k: v for k, v in config.items() if k != "model_type"}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "layrnorm" in name:
                parameter += 0.3 * torch.randn_like(parameter)
            elif parameter.ndim > 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def write_clip_folder(path: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write the folder; `changes` are merged into the entries of the config."""
    config = json.loads(json.dumps(CONFIG))
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    state = {n: t.clone() for n, t in random_model(config, seed).state_dict().items()}
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    clip_tokenizer().save(str(path / "tokenizer.json"))
    return path
