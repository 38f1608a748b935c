"""Traps of transformers 5: each is shown to be real, and a guard of ours to fire or to avoid it.

specs/vlap.md 7.3 and specs/sevila.md 7.3. Guards that the backbones' own files test (a tied head,
BLIP-2's activation, features before the last norm, Flan-T5's pieces) are not repeated here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    InstructBlipForConditionalGeneration,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from stages.core.errors import DataError
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.clip import ClipTower
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.frozen_t5 import (
    assert_dtype,
    assert_flan_t5_layout,
    assert_head_untied,
)
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.text import FLAN_T5_LETTERS, BackboneText
from stages.models.backbones.vision import VisionTower, vision_config, vision_spec

MakeFolder = Callable[..., Path]
LAYOUTS: dict[str, Any] = {"instructblip": InstructBlip, "blip-2": Blip2}


def load(folder: Path, **options: Any) -> Any:
    """The answering side of a folder, whatever its layout."""
    found = BackboneFolder(folder)
    return LAYOUTS[found.config["model_type"]].load(found, **options)


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


def edit_config(folder: Path, part: str, change: dict[str, Any], *, without: str = "") -> Path:
    config = json.loads((folder / "config.json").read_text())
    config[part] = {k: v for k, v in (config[part] | change).items() if k != without}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- the tied head -------------------------------------------------------------------------------


def test_a_head_that_load_state_dict_tied_in_silence_is_refused(
    tiny_folder: BackboneFolder,
) -> None:
    model = T5ForConditionalGeneration(T5Config(**tiny_folder.config["text_config"]))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["lm_head.weight"] += 1
    model.load_state_dict(state, strict=True)
    assert model.lm_head.weight is model.shared.weight  # the trap: an untied file, no complaint
    with pytest.raises(DataError, match="tied") as raised:
        assert_head_untied(model)
    assert raised.value.hint


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_called_later_ties_the_head(make_folder: MakeFolder, layout: str) -> None:
    t5 = load(make_folder(model_type=layout)).language_model
    head = t5.lm_head.weight.clone()
    t5.resize_token_embeddings(70)
    t5.tie_weights()
    assert_head_untied(t5)
    assert torch.equal(t5.lm_head.weight[:64], head)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_without_a_head_is_refused(make_folder: MakeFolder, layout: str) -> None:
    folder = make_folder(model_type=layout)
    edit_weights(folder, lambda state: state.__delitem__("language_model.lm_head.weight"))
    with pytest.raises(DataError, match=r"missing language_model\.lm_head\.weight"):
        load(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_of_one_tensor_must_hold_one_tensor(make_folder: MakeFolder, layout: str) -> None:
    shared, alias = "language_model.shared.weight", "language_model.encoder.embed_tokens.weight"
    folder = make_folder(model_type=layout)
    edit_weights(folder, lambda state: state.update({alias: state[shared].clone()}))
    assert torch.equal(
        load(folder).language_model.encoder.embed_tokens.weight, load_file_tensor(folder, shared)
    )
    edit_weights(folder, lambda state: state.update({alias: state[shared] + 1}))
    with pytest.raises(DataError, match="must be one tensor, but differ"):
        load(folder)


def load_file_tensor(folder: Path, name: str) -> Tensor:
    return load_file(folder / "model.safetensors")[name]


# --- activation and scaling ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"dense_act_fn": "gelu_new"},
        {"scale_decoder_outputs": True},
        {"feed_forward_proj": "gelu", "is_gated_act": False},
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_activation_or_scale_is_refused(
    make_folder: MakeFolder, layout: str, change: dict[str, Any]
) -> None:
    folder = edit_config(make_folder(model_type=layout), "text_config", change)
    with pytest.raises(DataError, match="language model has") as raised:
        load(folder)
    assert "text_config" in raised.value.hint


def test_tied_names_in_a_config_do_not_scale_the_logits(make_folder: MakeFolder) -> None:
    tied = {"tie_word_embeddings": True}
    folder = edit_config(make_folder(), "text_config", tied)
    config = json.loads((folder / "config.json").read_text())["text_config"]
    assert T5Config(**config).scale_decoder_outputs  # the trap
    assert load(folder).language_model.config.scale_decoder_outputs is False


def test_a_layer_with_another_activation_than_its_config_is_found(
    tiny_backbone: InstructBlip,
) -> None:
    t5 = tiny_backbone.language_model
    assert_flan_t5_layout(t5, "here")
    t5.decoder.block[0].layer[2].DenseReluDense.act = torch.nn.GELU(approximate="tanh")
    with pytest.raises(DataError, match=r"activation of decoder\.block\.0.* is not exact GELU"):
        assert_flan_t5_layout(t5, "here")


# --- precision -----------------------------------------------------------------------------------


def test_transformers_mixes_or_casts_precisions_and_ours_does_neither(
    make_folder: MakeFolder,
) -> None:
    folder = make_folder()
    theirs: Any = InstructBlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float16)
    with pytest.raises(DataError, match=r"must be torch\.float16 throughout.*wo\.weight"):
        assert_dtype(theirs.language_model, torch.float16, "the language model")
    theirs = InstructBlipForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
    with pytest.raises(DataError, match=r"must be torch\.float32 throughout") as raised:
        assert_dtype(theirs.qformer, torch.float32, "the Q-Former's side")
    assert raised.value.hint
    for policy in ("bfloat16", "float16"):
        ours = load(folder, dtype_policy=policy)
        assert_dtype(ours.language_model, torch.bfloat16, "the language model")
        assert_dtype(ours.qformer, torch.float32, "the Q-Former's side")


def test_a_load_that_left_a_part_in_another_precision_fails(
    tiny_folder: BackboneFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = InstructBlip._read_weights

    def casting(self: InstructBlip, *arguments: Any) -> None:
        plain(self, *arguments)
        self.qformer.to(torch.bfloat16)

    monkeypatch.setattr(InstructBlip, "_read_weights", casting)
    with pytest.raises(DataError, match=r"Q-Former's side must be torch\.float32"):
        InstructBlip.load(tiny_folder)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
@torch.no_grad()
def test_a_padded_batch_runs_with_eager_attention_in_half_precision(
    blip2_folder: BackboneFolder,
    make_features: Callable[..., Tensor],
    prompts: list[str],
    policy: Any,
) -> None:
    """Without autocast float32 inputs and a float32 mask fail before a bfloat16 T5."""
    model = Blip2.load(blip2_folder, dtype_policy=policy, attention="eager").eval()
    tokens = model.frame_tokens(model.answerer, make_features(), "localizer")
    text = model.read_prompts(prompts)
    assert not text.mask.all()
    encoded = model.encode(tokens, text, model.text.numbered_prefixes(tokens.shape[1]))
    assert model.greedy_letters(encoded).letters.isfinite().all()


# --- the Q-Former --------------------------------------------------------------------------------


def test_the_default_vocabulary_of_the_qformer_is_refused(make_folder: MakeFolder) -> None:
    folder = edit_config(make_folder(), "qformer_config", {}, without="vocab_size")
    with pytest.raises(DataError, match=r"word_embeddings.*expected \(30522, 24\)"):
        load(folder)


# --- the vision tower ----------------------------------------------------------------------------


def test_a_composite_folder_gives_its_own_tower_and_never_a_random_one(
    make_folder: MakeFolder,
) -> None:
    folder, name = make_folder(), "embeddings.patch_embedding.weight"
    theirs = InstructBlipVisionModel.from_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    assert not torch.equal(theirs.get_parameter(name), stored[f"vision_model.{name}"])  # the trap
    ours = VisionTower.load(BackboneFolder(folder)).model.state_dict()
    for key, tensor in ours.items():
        assert torch.equal(tensor, stored[f"vision_model.{key}"]), key


def test_a_tower_that_lacks_a_tensor_or_its_prefix_is_refused(make_folder: MakeFolder) -> None:
    name = "vision_model.encoder.layers.1.mlp.fc2.weight"
    folder = edit_weights(make_folder(), lambda state: state.__delitem__(name))
    with pytest.raises(DataError, match=f"missing {name}"):
        VisionTower.load(BackboneFolder(folder))

    def strip(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if key.startswith("vision_model.")]:
            state[key.removeprefix("vision_model.")] = state.pop(key)

    with pytest.raises(DataError, match=r"missing vision_model\.embeddings\.class_embedding"):
        VisionTower.load(BackboneFolder(edit_weights(make_folder(), strip)))


def test_a_folder_of_a_tower_alone_is_not_taken_for_a_composite_one(
    tiny_folder: BackboneFolder, tmp_path: Path
) -> None:
    VisionTower.load(tiny_folder).model.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="no vision tower that vqa reads"):
        VisionTower.load(BackboneFolder(tmp_path))


def random_tower(folder: BackboneFolder, **changes: Any) -> tuple[InstructBlipVisionModel, Any]:
    values = {k: v for k, v in folder.config["vision_config"].items() if k != "initializer_range"}
    config = InstructBlipVisionConfig(**(values | changes))
    return InstructBlipVisionModel(config), vision_spec(config)


def test_a_random_tower_by_the_default_spread_is_refused(tiny_folder: BackboneFolder) -> None:
    torch.manual_seed(0)
    model, spec = random_tower(tiny_folder)
    assert model.config.initializer_range == 1e-10  # the trap
    with pytest.raises(DataError, match=r"patch_embedding\.weight is degenerate") as raised:
        VisionTower(model, spec, "float32")
    assert "initializer_range" in raised.value.hint
    model, spec = random_tower(tiny_folder, initializer_range=0.02)
    tower = VisionTower(model, spec, "float16")
    features = tower.features(torch.randn(2, 3, 16, 16))
    assert features.half().std() > 1e-3


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_a_stored_tower_with_an_empty_or_broken_layer_is_refused(
    make_folder: MakeFolder, value: float
) -> None:
    name = "vision_model.encoder.layers.1.self_attn.qkv.weight"

    def broken(tensor: Tensor) -> Tensor:
        return torch.full_like(tensor, value)

    folder = edit_weights(make_folder(), lambda state: state.update({name: broken(state[name])}))
    with pytest.raises(DataError, match=r"layers\.1\.self_attn\.qkv\.weight is degenerate"):
        VisionTower.load(BackboneFolder(folder))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_tower_cast_as_a_whole_is_refused(
    tiny_folder: BackboneFolder, dtype: torch.dtype
) -> None:
    model = VisionTower.load(tiny_folder).model.to(dtype)
    spec = vision_spec(vision_config(tiny_folder.config, "here"))
    for kind in (VisionTower, ClipTower):
        with pytest.raises(DataError, match="embeddings must stay float32") as raised:
            kind(model, spec, "float16")
        assert "precision" in raised.value.hint


# --- the tokenizer -------------------------------------------------------------------------------


def test_the_t5_tokenizer_class_drops_a_trailing_space_and_ours_keeps_it(
    tiny_folder: BackboneFolder,
) -> None:
    theirs = T5Tokenizer.from_pretrained(tiny_folder.path)
    ours = BackboneText.load(tiny_folder)
    space = ours.plain_ids(" ")
    rebuilt = theirs("Frame 1: ", add_special_tokens=False)["input_ids"]
    assert ours.plain_ids("Frame 1: ") == [*rebuilt, *space]  # the trap


def flan_without_the_space() -> PreTrainedTokenizerFast:
    """Flan-T5's ids for answers, with the pre-tokenizer that loses trailing spaces."""
    pieces = [f"<filler {number}>" for number in range(32_100)]
    letters = dict(zip(FLAN_T5_LETTERS, ["▁A", "▁B", "▁C", "▁D", "▁E"], strict=True))
    named = {0: "<pad>", 1: "</s>", 2: "<unk>", 3: "▁", 10: ":", 11: "▁Option", 12: "▁Frame"}
    for number, piece in (named | letters | {4273: "▁yes", 150: "▁no", 13: "▁1"}).items():
        pieces[number] = piece
    tokenizer = Tokenizer(models.Unigram([(piece, -2.0) for piece in pieces], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def test_prefixes_from_a_rebuilt_flan_t5_tokenizer_are_refused(
    tiny_folder: BackboneFolder,
    make_folder: MakeFolder,
    make_features: Callable[..., Tensor],
    prompts: list[str],
) -> None:
    tokenizer = flan_without_the_space()
    config = tiny_folder.config["text_config"] | {"vocab_size": 32_128}

    folder = make_folder(model_type="blip-2", text_config=config)
    tokenizer.save_pretrained(folder)
    with pytest.raises(DataError, match="'Frame 1: ', 'Frame: '") as raised:
        load(folder)
    assert "tokenizer.json" in raised.value.hint

    qformer = BackboneText.load(tiny_folder).qformer
    model = InstructBlip(
        tiny_folder.config | {"text_config": config},
        text=BackboneText(tokenizer, qformer, vocabulary=32_128),
    ).eval()
    text = model.read_text(prompts)
    visual = model.visual_tokens(model.normalise(make_features()), text)
    model.encode(visual, text)  # VLAP's own prompts do not end in a space
    with pytest.raises(DataError, match="'Frame 1: '"):
        model.encode(visual, text, frame_prefixes=True)
