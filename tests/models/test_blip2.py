"""The BLIP-2 adapter: traps closed, batches equal to loops, two steps equal to generation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from stages.core.errors import ConfigError, DataError
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.frozen_t5 import Encoded
from stages.models.backbones.text import (
    FLAN_T5_LETTERS,
    BackboneText,
    PromptIds,
    assert_flan_t5_prompts,
    read_answer_tokens,
)

Features = Callable[..., Tensor]


def encode(backbone: Blip2, features: Tensor, prompts: list[str]) -> Encoded:
    tokens = backbone.frame_tokens(backbone.answerer, features, "answerer")
    prefixes = backbone.text.numbered_prefixes(features.shape[1])
    return backbone.encode(tokens, backbone.read_prompts(prompts), prefixes)


def make_first(backbone: Blip2, encoded: Encoded, token: int, row: int) -> None:
    """Change the head so that `token` is the first greedy token of a row."""
    start = torch.zeros(len(encoded), 1, dtype=torch.long)
    with torch.no_grad():
        hidden = backbone._decode(encoded, start)[row, 0]
        backbone.language_model.lm_head.weight[token] = 10 * hidden / hidden.norm()


# --- traps of loading ----------------------------------------------------------------------------


def test_weights_are_the_files_and_the_head_is_not_tied(blip2_folder: BackboneFolder) -> None:
    backbone = Blip2.load(blip2_folder)
    stored = load_file(blip2_folder.path / "model.safetensors")
    t5, side = backbone.language_model, backbone.answerer
    assert torch.equal(t5.lm_head.weight, stored["language_model.lm_head.weight"])
    assert torch.equal(t5.shared.weight, stored["language_model.shared.weight"])
    assert torch.equal(side.query_tokens, stored["query_tokens"])
    assert torch.equal(side.ln_vision.weight, stored["vision_model.post_layernorm.weight"])
    name = "encoder.layer.0.crossattention.attention.key.weight"
    assert torch.equal(side.qformer.get_parameter(name), stored[f"qformer.{name}"])
    assert side.ln_vision.eps == 1e-5
    assert not any(parameter.requires_grad for parameter in t5.parameters())


def test_a_tied_head_is_refused(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(model_type="blip-2")
    state = load_file(folder / "model.safetensors")
    state["language_model.lm_head.weight"] = state["language_model.shared.weight"].clone()
    save_file(state, folder / "model.safetensors")
    with pytest.raises(DataError, match="tied"):
        Blip2.load(BackboneFolder(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"dense_act_fn": "gelu_new"},
        {"scale_decoder_outputs": True},
        {"feed_forward_proj": "gelu", "is_gated_act": False},
    ],
)
def test_another_t5_than_blip2s_is_refused(
    make_folder: Callable[..., Path], change: dict[str, Any]
) -> None:
    folder = make_folder(model_type="blip-2")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="language model has"):
        Blip2.load(BackboneFolder(folder))


def test_other_layouts_and_precisions_are_refused(tiny_folder: BackboneFolder) -> None:
    with pytest.raises(DataError, match="no BLIP-2"):
        Blip2.load(tiny_folder)
    with pytest.raises(ConfigError):
        Blip2.from_config({}, dtype_policy="float8")  # type: ignore[arg-type]


def test_a_model_without_tokenizer_reads_no_text(blip2_folder: BackboneFolder) -> None:
    backbone = Blip2.from_config(blip2_folder.config)
    with pytest.raises(ConfigError, match="no tokenizers"):
        backbone.read_prompts(["what"])


# --- Flan-T5's tokenizer -------------------------------------------------------------------------


def flan_like(split: Any) -> PreTrainedTokenizerFast:
    """A vocabulary with Flan-T5's pieces at Flan-T5's ids and fillers elsewhere."""
    pieces = [f"<filler {number}>" for number in range(32_100)]
    named = {0: "<pad>", 1: "</s>", 2: "<unk>", 3: "▁", 10: ":", 11: "▁Option", 12: "▁Frame"}
    named |= dict(zip(FLAN_T5_LETTERS, ["▁A", "▁B", "▁C", "▁D", "▁E"], strict=True))
    named |= {4273: "▁yes", 150: "▁no", 13: "▁1"}
    for number, piece in named.items():
        pieces[number] = piece
    tokenizer = Tokenizer(models.Unigram([(piece, -2.0) for piece in pieces], unk_id=2))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def test_flan_t5s_prompts_are_demanded_piece_by_piece() -> None:
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    rebuilt = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    good, bad = flan_like(metaspace), flan_like(rebuilt)
    assert read_answer_tokens(good, 32_128).letters == FLAN_T5_LETTERS
    assert_flan_t5_prompts(good)
    text = BackboneText(good, None, vocabulary=32_128)
    assert text.frame_prefix().ids.tolist() == [[12, 10, 3]]
    assert text.numbered_prefixes(1).ids.tolist() == [[12, 13, 10, 3]]
    with pytest.raises(DataError, match=r"'Frame 1: ', 'Frame: '"):
        assert_flan_t5_prompts(bad)


# --- text ----------------------------------------------------------------------------------------


def test_prompts_are_cut_on_the_right_to_77_ids(tiny_blip2: Blip2) -> None:
    long = tiny_blip2.read_prompts(["red " * 200 + "circle"])
    assert long.ids.shape == (1, 77)
    pieces = tiny_blip2.text.t5.convert_ids_to_tokens(long.ids[0].tolist())
    assert (pieces[75:], set(pieces[:76])) == (["▁red", "</s>"], {"▁red"})
    whole = tiny_blip2.text.encode_plain(["red " * 200 + "circle"], limit=None)
    assert whole.ids.shape[1] > 200


def test_rows_of_prompts_lose_padding_that_none_needs(tiny_blip2: Blip2) -> None:
    text = tiny_blip2.read_prompts(["red", "red green blue circle", "red green"])
    some = text.rows(torch.tensor([2, 0, 2]))
    assert text.lengths.tolist() == [2, 5, 3]
    assert some.ids.shape == (3, 3)
    assert some.mask.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1]]


def test_prefixes_are_padded_to_the_longest_on_the_right(tiny_blip2: Blip2) -> None:
    """This tokenizer has pieces for 1 and 2 only; Flan-T5's prefixes differ from 10 frames on."""
    two, three = (tiny_blip2.text.numbered_prefixes(count) for count in (2, 3))
    assert bool(two.mask.all())
    assert three.ids.shape[1] == two.ids.shape[1] + 1
    assert three.mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert three.ids[:2, :4].tolist() == two.ids.tolist()
    assert three.ids[0, 4] == tiny_blip2.answer_tokens.pad


def test_wrong_numbers_of_rows_are_refused(tiny_blip2: Blip2, make_features: Features) -> None:
    with pytest.raises(DataError, match="prefixes"):
        encode(tiny_blip2, make_features(batch=2), ["red"])
    with pytest.raises(DataError, match=r"\[B, F, N, C\]"):
        tiny_blip2.answerer(make_features()[0])


# --- seeing --------------------------------------------------------------------------------------


@torch.no_grad()
def test_frames_in_one_call_equal_a_loop_over_frames(
    tiny_blip2: Blip2, make_features: Features
) -> None:
    features, side = make_features(batch=3, frames=5), tiny_blip2.answerer
    together = side(features)
    for b in range(3):
        for f in range(5):
            alone = side(features[b : b + 1, f : f + 1])
            assert torch.allclose(alone[0, 0], together[b, f], atol=1e-6)


@torch.no_grad()
def test_attention_kernels_agree_in_float32(
    blip2_folder: BackboneFolder, make_features: Features, prompts: list[str]
) -> None:
    letters = []
    for attention in ("sdpa", "eager"):
        backbone = Blip2.load(blip2_folder, attention=attention).eval()
        assert backbone.language_model.config._attn_implementation == attention
        letters.append(backbone.forced_letters(encode(backbone, make_features(), prompts)))
    assert torch.allclose(*letters, atol=1e-5)


def test_half_precisions_are_the_references(
    blip2_folder: BackboneFolder, make_features: Features, prompts: list[str]
) -> None:
    """float32 localizer and baseline, bfloat16 answerer, so that T5's residual stream follows."""
    backbone = Blip2.load(blip2_folder, dtype_policy="bfloat16").eval()
    assert {p.dtype for p in backbone.language_model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in backbone.answerer.parameters()} == {torch.float32}
    text, features = backbone.read_prompts(prompts), make_features()
    prefixes = backbone.text.numbered_prefixes(features.shape[1])
    expected = {"localizer": torch.float32, "uniform": torch.float32, "answerer": torch.bfloat16}
    for part, dtype in expected.items():
        tokens = backbone.frame_tokens(backbone.answerer, features, part)  # type: ignore[arg-type]
        assert tokens.dtype == dtype
        assert backbone.encoder_input(tokens, text, prefixes)[0].dtype == dtype
    tokens = backbone.train().frame_tokens(backbone.answerer, features, "localizer")
    assert tokens.dtype == torch.bfloat16
    mixed = backbone.encoder_input(tokens.to(torch.float16), text, prefixes)[0]
    assert mixed.dtype == torch.float32  # float16 beside bfloat16, in the reference's training
    exact = Blip2.load(blip2_folder).train()
    tokens = exact.frame_tokens(exact.answerer, features, "answerer")
    assert tokens.dtype == torch.float32


# --- answering -----------------------------------------------------------------------------------


@torch.no_grad()
def test_padding_changes_nothing(
    tiny_blip2: Blip2, make_features: Features, prompts: list[str]
) -> None:
    features = make_features()
    together = tiny_blip2.forced_letters(encode(tiny_blip2, features, prompts))
    for b, prompt in enumerate(prompts):
        alone = tiny_blip2.forced_letters(encode(tiny_blip2, features[b : b + 1], [prompt]))
        assert torch.allclose(alone[0], together[b], atol=1e-5)


def generated(backbone: Blip2, encoded: Encoded) -> Any:
    return backbone.language_model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded.hidden),
        attention_mask=encoded.mask,
        max_new_tokens=2,
        num_beams=1,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )


@torch.no_grad()
def test_two_steps_equal_generation(
    tiny_blip2: Blip2, make_features: Features, prompts: list[str]
) -> None:
    encoded = encode(tiny_blip2, make_features(), prompts)
    steps, output = tiny_blip2.greedy_letters(encoded), generated(tiny_blip2, encoded)
    assert torch.equal(steps.first_token, output.sequences[:, 1])
    assert torch.allclose(steps.first_logits, output.scores[0], atol=1e-5)
    letters = output.scores[1][:, list(tiny_blip2.answer_tokens.letters)]
    assert torch.allclose(steps.letters, letters, atol=1e-5)


@torch.no_grad()
def test_letters_are_read_after_an_early_end(
    tiny_blip2: Blip2, make_features: Features, prompts: list[str]
) -> None:
    encoded = encode(tiny_blip2, make_features(), prompts)
    eos = tiny_blip2.answer_tokens.eos
    make_first(tiny_blip2, encoded, eos, row=0)
    steps = tiny_blip2.greedy_letters(encoded)
    assert steps.first_token[0] == eos
    ids = torch.stack([torch.zeros_like(steps.first_token), steps.first_token], dim=1)
    logits = tiny_blip2.decoder_logits(encoded, ids)[:, 1]
    letters = logits[:, list(tiny_blip2.answer_tokens.letters)]
    assert torch.allclose(steps.letters, letters, atol=1e-5)


@torch.no_grad()
def test_forced_letters_equal_free_ones_after_the_word_option(
    tiny_blip2: Blip2, make_features: Features, prompts: list[str]
) -> None:
    encoded = encode(tiny_blip2, make_features(), prompts)
    option = tiny_blip2.answer_tokens.option
    make_first(tiny_blip2, encoded, option, row=1)
    steps, forced = tiny_blip2.greedy_letters(encoded), tiny_blip2.forced_letters(encoded)
    said = steps.first_token == option
    assert said[1]
    assert torch.allclose(steps.letters[said], forced[said], atol=1e-5)


@torch.no_grad()
def test_first_logits_are_columns_of_the_whole_head(
    tiny_blip2: Blip2, make_features: Features, prompts: list[str]
) -> None:
    encoded = encode(tiny_blip2, make_features(), prompts)
    whole = tiny_blip2.decoder_logits(encoded, torch.zeros(2, 1, dtype=torch.long))[:, 0]
    for exact in (False, True):
        some = tiny_blip2.first_logits(encoded, (9, 4), exact=exact)
        assert torch.allclose(some, whole[:, [9, 4]], atol=1e-5)


@torch.no_grad()
def test_logits_in_half_precision_are_rounded_unless_asked_otherwise(
    blip2_folder: BackboneFolder, make_features: Features, prompts: list[str]
) -> None:
    backbone = Blip2.load(blip2_folder, dtype_policy="float16").eval()
    encoded = encode(backbone, make_features(), prompts)
    rounded = backbone.first_logits(encoded, range(64))
    assert torch.equal(rounded, rounded.to(torch.bfloat16).float())
    exact = backbone.first_logits(encoded, range(64), exact=True)
    assert not torch.equal(exact, exact.to(torch.bfloat16).float())
    assert torch.allclose(rounded, exact, rtol=0.01, atol=0.01)


def test_ready_ids_are_taken_as_they_are(tiny_blip2: Blip2) -> None:
    ready = PromptIds(torch.tensor([[5, 1]]), torch.tensor([[1, 1]]))
    assert torch.equal(tiny_blip2.read_prompts(ready).ids, ready.ids)
