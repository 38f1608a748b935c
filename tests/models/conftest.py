"""A tiny random InstructBLIP or BLIP-2 in a real Hugging Face folder, tokenizers included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.text import TextBatch

T5_TEXT = """
▁ ▁Option ▁A ▁B ▁C ▁D ▁E ▁yes ▁no ▁Question : ▁what ▁which ▁color ▁is ▁the ▁circle ▁square
▁red ▁green ▁blue ▁left ▁right ? . ▁Frame ▁1 ▁2 ▁select ▁Considering a b c d e
"""
BERT_TEXT = """
[UNK] [CLS] [SEP] [MASK] question : what which color is the circle square red green blue
left right ? . option a b c d e select considering
"""
T5_WORDS, BERT_WORDS = T5_TEXT.split(), BERT_TEXT.split()
CONFIG: dict[str, Any] = {
    "model_type": "instructblip",
    "architectures": ["InstructBlipForConditionalGeneration"],
    "num_query_tokens": 3,
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
        "initializer_range": 0.02,
    },
    "qformer_config": {
        "vocab_size": len(BERT_WORDS) + 2,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 140,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.2,
    },
    "text_config": {
        "model_type": "t5",
        "vocab_size": 64,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_decoder_layers": 1,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
}


def t5_tokenizer() -> Tokenizer:
    """Unigram with Metaspace, `</s>` appended, as Flan-T5's tokenizer.json is made."""
    scores = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(w, -2.0) for w in T5_WORDS]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(
        [AddedToken(word, special=True) for word in ("<pad>", "</s>", "<unk>")]
    )
    return tokenizer


def bert_tokenizer() -> Tokenizer:
    """Lower-cased word pieces with [CLS], [SEP] and the added [DEC]."""
    words = {word: i for i, word in enumerate(["[PAD]", *BERT_WORDS])}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])],
    )
    tokenizer.add_special_tokens([AddedToken("[DEC]", special=True)])
    return tokenizer


def random_weights(config: dict[str, Any], seed: int) -> dict[str, Tensor]:
    """A composite state dict as a checkpoint holds it: untied head, no alias names."""
    torch.manual_seed(seed)
    if config["model_type"] == "blip-2":
        model = Blip2ForConditionalGeneration(Blip2Config(**config))
    else:
        model = InstructBlipForConditionalGeneration(InstructBlipConfig(**config))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["language_model.lm_head.weight"] = torch.randn_like(state["language_model.shared.weight"])
    torch.nn.init.normal_(state["query_tokens"], std=0.5)
    for name in list(state):
        if name.endswith("embed_tokens.weight"):
            del state[name]  # the same tensor as shared
        elif "norm" in name.lower() and state[name].ndim == 1:
            state[name] = state[name] + 0.3 * torch.randn_like(state[name])
    return state


def write_folder(path: Path, *, seed: int = 0, shards: int = 1, **changes: Any) -> Path:
    """Write the folder; `changes` replace whole top-level config entries."""
    config = json.loads(json.dumps(CONFIG)) | changes
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    state = random_weights(config, seed)
    if shards == 1:
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    else:
        write_shards(path, state, shards)
    t5_tokenizer().save(str(path / "tokenizer.json"))
    (path / "qformer_tokenizer").mkdir(exist_ok=True)
    bert_tokenizer().save(str(path / "qformer_tokenizer/tokenizer.json"))
    return path


def write_shards(path: Path, state: dict[str, Tensor], shards: int) -> None:
    names = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {name: names[i % shards] for i, name in enumerate(sorted(state))}
    for file in names:
        save_file({n: state[n] for n, f in weight_map.items() if f == file}, path / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Factory of tiny folders: `make_folder(seed=1, shards=2, num_query_tokens=5)`."""

    def make(**options: Any) -> Path:
        return write_folder(tmp_path_factory.mktemp("backbone"), **options)

    return make


@pytest.fixture(scope="session")
def tiny_folder(make_folder: Callable[..., Path]) -> BackboneFolder:
    return BackboneFolder(make_folder())


@pytest.fixture
def tiny_backbone(tiny_folder: BackboneFolder) -> InstructBlip:
    """A fresh model in eval mode."""
    torch.set_num_threads(1)
    return InstructBlip.load(tiny_folder).eval()


@pytest.fixture(scope="session")
def blip2_folder(make_folder: Callable[..., Path]) -> BackboneFolder:
    return BackboneFolder(make_folder(model_type="blip-2"))


@pytest.fixture
def tiny_blip2(blip2_folder: BackboneFolder) -> Blip2:
    """A fresh model in eval mode."""
    torch.set_num_threads(1)
    return Blip2.load(blip2_folder).eval()


@pytest.fixture
def prompts() -> list[str]:
    """Two prompts of different length."""
    return [
        "Question: what color is the circle? Option A: red Option B: blue",
        "Question: which is left? Option A: circle Option B: square Option C: the red circle",
    ]


@pytest.fixture
def make_features() -> Callable[..., Tensor]:
    """Random features [B, T, 5, 16] as the tiny tower would give."""

    def make(batch: int = 2, frames: int = 4, seed: int = 0) -> Tensor:
        return torch.randn(batch, frames, 5, 16, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def text(tiny_backbone: InstructBlip, prompts: list[str]) -> TextBatch:
    return tiny_backbone.read_text(prompts)
