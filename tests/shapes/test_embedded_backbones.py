"""The shipped folders are real Hugging Face folders, small, and their tokenizers take any text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import (
    Blip2ForConditionalGeneration,
    InstructBlipForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from stages.benchmarks.shapes.questions import TEMPLATES, VALUES
from stages.benchmarks.shapes.scene import draw_frame
from stages.benchmarks.shapes.timeline import video_rng
from stages.core.errors import UsageError
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.vision import VisionTower
from stages.models.embedded import EMBEDDED, embedded_folder

LANGUAGE = ("tiny", "tiny-blip2")
"""Those with a language model; `tiny-clip` is in test_embedded_clip.py as well."""


def tokenizer_files() -> list[Path]:
    return sorted(
        path for name in EMBEDDED for path in embedded_folder(name).rglob("tokenizer.json")
    )


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(path.parent)


@pytest.fixture(scope="module")
def tokenizers() -> list[PreTrainedTokenizerFast]:
    return [load_tokenizer(path) for path in tokenizer_files()]


def test_all_folders_together_stay_small() -> None:
    files = [
        path for name in EMBEDDED for path in embedded_folder(name).rglob("*") if path.is_file()
    ]
    assert sum(path.stat().st_size for path in files) < 12 * 2**20


@pytest.mark.parametrize("name", EMBEDDED)
def test_weights_are_finite_halves_and_nothing_is_pickled(name: str) -> None:
    folder = embedded_folder(name)
    assert not list(folder.rglob("*.bin"))
    with safe_open(folder / "model.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118  (the handle is no mapping)
            tensor = file.get_tensor(key)
            assert tensor.dtype == torch.float16, key
            assert torch.isfinite(tensor).all(), key


@pytest.mark.parametrize(
    ("name", "model"),
    [("tiny", InstructBlipForConditionalGeneration), ("tiny-blip2", Blip2ForConditionalGeneration)],
)
def test_transformers_opens_the_folder_without_missing_weights(
    name: str, model: type[PreTrainedModel]
) -> None:
    _, info = model.from_pretrained(embedded_folder(name), output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


@pytest.mark.parametrize("name", LANGUAGE)
def test_the_head_is_not_the_word_embedding(name: str) -> None:
    with safe_open(embedded_folder(name) / "model.safetensors", "pt") as file:
        head = file.get_tensor("language_model.lm_head.weight")
        words = file.get_tensor("language_model.shared.weight")
    assert not torch.equal(head, words)


def test_both_layouts_share_one_tower_so_that_features_serve_both() -> None:
    towers = []
    for name in LANGUAGE:
        with safe_open(embedded_folder(name) / "model.safetensors", "pt") as file:
            names = [key for key in file.keys() if key.startswith("vision_model.")]  # noqa: SIM118
            towers.append({key: file.get_tensor(key) for key in names})
    assert all(tower.keys() == towers[0].keys() for tower in towers)
    for key, tensor in towers[0].items():
        assert all(torch.equal(tensor, tower[key]) for tower in towers), key


@pytest.mark.parametrize("name", LANGUAGE)
def test_the_tower_tells_pictures_apart(name: str) -> None:
    tower = VisionTower.load(BackboneFolder(embedded_folder(name)), "cpu", "float32")
    rng = video_rng(0, "pictures", 0, "tower")
    pictures = np.stack([draw_frame(rng, None)[::2, ::2] for _ in range(2)])
    assert pictures.shape[1] == tower.spec.image_size
    with torch.no_grad():
        features = tower.features(tower.preprocess(torch.from_numpy(pictures)))
    assert torch.isfinite(features).all()
    assert (features[0] - features[1]).abs().mean() > 0.01
    assert features.abs().max() < 1000  # far from the largest half


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_goes_in_and_comes_back(text: str) -> None:
    for path in tokenizer_files():
        tokenizer = _opened(path)
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


_CACHE: dict[Path, PreTrainedTokenizerFast] = {}


def _opened(path: Path) -> PreTrainedTokenizerFast:
    if path not in _CACHE:
        _CACHE[path] = load_tokenizer(path)
    return _CACHE[path]


@pytest.mark.parametrize(
    "text", ["</s>", "<pad> x", "[CLS]", "a  b ", "▁Ġ", "\x00\n", "日本語 😀", ""]
)
def test_texts_that_look_like_tokens_come_back_too(
    tokenizers: list[PreTrainedTokenizerFast], text: str
) -> None:
    for tokenizer in tokenizers:
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_vocabularies_are_small_and_fit_the_config(
    tokenizers: list[PreTrainedTokenizerFast],
) -> None:
    config = json.loads((embedded_folder("tiny") / "config.json").read_text())
    for tokenizer in tokenizers:
        assert len(tokenizer) <= 1000
        assert len(tokenizer) == config["text_config"]["vocab_size"]


def test_answers_and_letters_are_single_pieces() -> None:
    tokenizer = load_tokenizer(embedded_folder("tiny") / "tokenizer.json")
    for word in ("yes", "no", "Option", *(value for values in VALUES.values() for value in values)):
        assert len(tokenizer(word).input_ids) == 2, word
    for letter in "ABCDE":
        ids = tokenizer(f"Option {letter}").input_ids
        assert len(ids) == 3
        assert ids[-1] == tokenizer.eos_token_id == 1
    assert tokenizer.pad_token_id == 0


def test_every_word_of_the_templates_is_one_piece() -> None:
    tokenizer = load_tokenizer(embedded_folder("tiny") / "tokenizer.json")
    for template in TEMPLATES:
        for wording in template.wordings:
            question = "Question: " + wording.format(VALUES[template.named][0])
            pieces = tokenizer(question, add_special_tokens=False).input_ids
            assert len(pieces) == len(question.split()) + 2  # the colon and the question mark


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        embedded_folder("huge")
    assert "tiny" in caught.value.hint


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_model_card_says_where_the_weights_come_from(name: str) -> None:
    card = (embedded_folder(name) / "README.md").read_text()
    for word in ("python tools/train_tiny", "accuracy", "parameters", "seed", "Apache-2.0"):
        assert word in card
