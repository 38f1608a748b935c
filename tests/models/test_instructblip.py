"""The InstructBLIP adapter: traps closed, batches equal to loops, one pass equal to generation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from stages.core.errors import ConfigError, DataError, MissingInput
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.frozen_t5 import Encoded, assert_head_untied, restrict_options
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.text import TextBatch

Features = Callable[..., Tensor]


def encode(backbone: InstructBlip, features: Tensor, text: TextBatch) -> Encoded:
    return backbone.encode(backbone.visual_tokens(backbone.normalise(features), text), text)


def prefer_option(backbone: InstructBlip, encoded: Encoded) -> None:
    """Make `Option` the first greedy token, as fine-tuning does."""
    with torch.no_grad():
        start = torch.zeros(len(encoded.hidden), 1, dtype=torch.long)
        hidden = backbone._decode(encoded, start)[:, 0]
        head = backbone.language_model.lm_head.weight
        head[backbone.answer_tokens.option] = 10 * hidden.mean(0) / hidden.mean(0).norm()


# --- traps of loading ----------------------------------------------------------------------------


def test_head_is_not_tied_after_loading(tiny_folder: BackboneFolder) -> None:
    t5 = InstructBlip.load(tiny_folder).language_model
    stored = load_file(tiny_folder.path / "model.safetensors")
    assert torch.equal(t5.lm_head.weight, stored["language_model.lm_head.weight"])
    assert torch.equal(t5.shared.weight, stored["language_model.shared.weight"])
    assert not torch.equal(t5.lm_head.weight, t5.shared.weight)


def test_a_later_tie_weights_does_not_tie_the_head(tiny_folder: BackboneFolder) -> None:
    t5 = InstructBlip.load(tiny_folder).language_model
    t5.tie_weights()
    assert_head_untied(t5)
    assert t5.encoder.embed_tokens.weight is t5.shared.weight


def test_guard_fires_on_a_tied_head(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    state = load_file(folder / "model.safetensors")
    state["language_model.lm_head.weight"] = state["language_model.shared.weight"].clone()
    save_file(state, folder / "model.safetensors")
    with pytest.raises(DataError, match="tied"):
        InstructBlip.load(BackboneFolder(folder))


def test_guard_fires_on_one_tensor_under_two_names(tiny_backbone: InstructBlip) -> None:
    assert_head_untied(tiny_backbone.language_model)
    tiny_backbone.language_model.lm_head.weight = tiny_backbone.language_model.shared.weight
    with pytest.raises(DataError, match="tied"):
        assert_head_untied(tiny_backbone.language_model)


def test_activation_scaling_and_norm_are_the_references(tiny_backbone: InstructBlip) -> None:
    config = tiny_backbone.language_model.config
    assert config.dense_act_fn == "gelu"
    assert config.scale_decoder_outputs is False
    assert tiny_backbone.ln_vision.eps == 1e-5
    activation = tiny_backbone.language_model.encoder.block[0].layer[1].DenseReluDense.act
    x = torch.linspace(-3, 3, 50)
    assert torch.equal(activation(x), torch.nn.functional.gelu(x))


def test_config_saved_by_transformers_5_loads_the_same(
    make_folder: Callable[..., Path], make_features: Features, prompts: list[str]
) -> None:
    folder = make_folder()
    config = json.loads((folder / "config.json").read_text())
    logits = []
    for text_config in (
        config["text_config"],
        config["text_config"] | {"tie_word_embeddings": True, "scale_decoder_outputs": False},
    ):
        (folder / "config.json").write_text(json.dumps(config | {"text_config": text_config}))
        backbone = InstructBlip.load(BackboneFolder(folder)).eval()
        text = backbone.read_text(prompts)
        logits.append(backbone.letter_logits(encode(backbone, make_features(), text)))
    assert torch.equal(*logits)


def test_language_model_is_frozen_but_its_dropout_follows_train_mode(
    tiny_backbone: InstructBlip,
) -> None:
    tiny_backbone.train()
    assert not any(p.requires_grad for p in tiny_backbone.language_model.parameters())
    assert tiny_backbone.language_model.encoder.dropout.training
    assert tiny_backbone.language_model.encoder.dropout.p == 0.1


def test_other_layouts_are_refused(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="InstructBLIP"):
        InstructBlip.load(BackboneFolder(make_folder_of_type(make_folder, "blip-2")))
    with pytest.raises(ConfigError):
        InstructBlip.from_config({}, dtype_policy="float8")  # type: ignore[arg-type]


def make_folder_of_type(make_folder: Callable[..., Path], kind: str) -> Path:
    folder = make_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    return folder


# --- text ----------------------------------------------------------------------------------------


def test_answer_tokens_come_from_the_tokenizer(tiny_backbone: InstructBlip) -> None:
    tokens = tiny_backbone.answer_tokens
    pieces = tiny_backbone.text.t5.convert_ids_to_tokens([tokens.option, *tokens.letters])
    assert pieces == ["▁Option", "▁A", "▁B", "▁C", "▁D", "▁E"]
    assert (tokens.eos, tokens.pad) == (1, 0)


def test_published_ids_are_demanded_of_a_flan_t5_vocabulary_only(
    tiny_backbone: InstructBlip,
) -> None:
    from stages.models.backbones.text import read_answer_tokens

    t5 = tiny_backbone.text.t5
    assert read_answer_tokens(t5, 64) == tiny_backbone.answer_tokens
    for vocabulary in (32_100, 32_128):
        with pytest.raises(DataError, match="Flan-T5"):
            read_answer_tokens(t5, vocabulary)


def test_prompts_are_cut_on_the_left_and_t5_only_in_training(tiny_backbone: InstructBlip) -> None:
    prompt = "red " * 200 + "circle"
    training = tiny_backbone.text.encode([prompt], training=True)
    evaluation = tiny_backbone.text.encode([prompt], training=False)
    assert training.qformer_ids.shape == evaluation.qformer_ids.shape == (1, 128)
    assert training.t5_ids.shape == (1, 128)
    assert evaluation.t5_ids.shape[1] > 200
    t5, qformer = tiny_backbone.text.t5, tiny_backbone.text.qformer
    assert t5.convert_ids_to_tokens(training.t5_ids[0, -2:].tolist()) == ["▁circle", "</s>"]
    kept = qformer.convert_ids_to_tokens(training.qformer_ids[0].tolist())
    assert (kept[0], kept[-2:]) == ("[CLS]", ["circle", "[SEP]"])


def test_a_trailing_space_stays_a_piece(tiny_backbone: InstructBlip) -> None:
    t5 = tiny_backbone.text.t5
    assert t5.convert_ids_to_tokens(t5("Frame 1: ")["input_ids"])[-2:] == ["▁", "</s>"]


def test_targets_end_in_eos_and_padding_does_not_count(tiny_backbone: InstructBlip) -> None:
    labels = tiny_backbone.text.encode_targets(["Option A", "red"])
    tokens = tiny_backbone.answer_tokens
    assert labels[0].tolist() == [tokens.option, tokens.letters[0], 1]
    assert labels[1, 1:].tolist() == [1, -100]


def test_damaged_and_absent_tokenizers_are_explained(make_folder: Callable[..., Path]) -> None:
    folder = make_folder()
    (folder / "qformer_tokenizer/tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="tokenizer"):
        InstructBlip.load(BackboneFolder(folder))
    (folder / "qformer_tokenizer/tokenizer.json").unlink()
    with pytest.raises(MissingInput, match="tokenizer"):
        InstructBlip.load(BackboneFolder(folder))


# --- seeing and answering ------------------------------------------------------------------------


def test_all_frames_in_one_call_equal_a_loop_over_frames(
    tiny_backbone: InstructBlip, make_features: Features, text: TextBatch
) -> None:
    frames = tiny_backbone.normalise(make_features())
    together = tiny_backbone.visual_tokens(frames, text)
    one_by_one = [
        tiny_backbone.visual_tokens(frames[:, i : i + 1], text) for i in range(frames.shape[1])
    ]
    assert torch.allclose(together, torch.cat(one_by_one, dim=1), atol=1e-6)
    assert (together[:, :3] - together[:, 3:6]).abs().max() > 1e-3


def test_a_batch_equals_its_questions_one_by_one(
    tiny_backbone: InstructBlip, make_features: Features, prompts: list[str], text: TextBatch
) -> None:
    features = make_features()
    options = [["red", "the blue circle"], ["left", "right", "square"]]
    batch = encode(tiny_backbone, features, text)
    letters = tiny_backbone.letter_logits(batch)
    ranks = tiny_backbone.rank_scores(batch, options)
    for i, prompt in enumerate(prompts):
        single = encode(tiny_backbone, features[i : i + 1], tiny_backbone.read_text([prompt]))
        assert torch.allclose(tiny_backbone.letter_logits(single)[0], letters[i], atol=1e-5)
        alone = tiny_backbone.rank_scores(single, [options[i]])[0]
        assert torch.allclose(alone, ranks[i, : len(options[i])], atol=1e-4)


def test_more_padding_changes_nothing(
    tiny_backbone: InstructBlip, make_features: Features, text: TextBatch
) -> None:
    def pad(ids: Tensor) -> Tensor:
        return torch.nn.functional.pad(ids, (0, 7))

    wider = TextBatch(*(pad(part) for part in vars(text).values()))
    narrow = tiny_backbone.letter_logits(encode(tiny_backbone, make_features(), text))
    padded = tiny_backbone.letter_logits(encode(tiny_backbone, make_features(), wider))
    assert torch.allclose(narrow, padded, atol=1e-5)


def test_forced_prefix_equals_the_second_step_of_greedy_generation(
    tiny_backbone: InstructBlip, make_features: Features, text: TextBatch
) -> None:
    encoded = encode(tiny_backbone, make_features(), text)
    prefer_option(tiny_backbone, encoded)
    generated = tiny_backbone.language_model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=encoded.hidden),
        attention_mask=encoded.mask,
        max_new_tokens=4,
        num_beams=1,
        do_sample=False,
        repetition_penalty=1.5,
        output_scores=True,
        return_dict_in_generate=True,
    )
    tokens = tiny_backbone.answer_tokens
    assert (generated.sequences[:, 1] == tokens.option).all()
    second = generated.scores[1][:, list(tokens.letters)]
    assert torch.allclose(tiny_backbone.letter_logits(encoded), second, atol=1e-5)
    followed = tiny_backbone.greedy_letters(encoded)
    assert torch.allclose(followed.scores_step0, generated.scores[0], atol=1e-5)
    assert torch.allclose(followed.scores_step1, generated.scores[1], atol=1e-5)


def test_rank_scores_are_summed_log_probabilities_of_the_text_and_its_end(
    tiny_backbone: InstructBlip, make_features: Features, text: TextBatch
) -> None:
    encoded = encode(tiny_backbone, make_features(), text)
    options = [["red", "the blue circle", "left"], ["green"]]
    scores = tiny_backbone.rank_scores(encoded, options)
    means = tiny_backbone.rank_scores(encoded, options, norm="mean")
    for b, row in enumerate(options):
        for o, option in enumerate(row):
            labels = tiny_backbone.text.encode_targets([option])
            one = Encoded(encoded.hidden[b : b + 1], encoded.mask[b : b + 1])
            logp = tiny_backbone.target_logits(one, labels).log_softmax(-1)
            by_hand = logp.gather(-1, labels[..., None]).sum()
            assert scores[b, o].item() == pytest.approx(by_hand.item(), abs=1e-4)
            assert means[b, o].item() == pytest.approx(by_hand.item() / labels.numel(), abs=1e-4)
    assert scores[1, 1:].tolist() == [-torch.inf, -torch.inf]


def test_options_that_do_not_exist_cannot_be_chosen() -> None:
    scores = torch.tensor([[0.0, 1.0, 9.0], [0.0, 1.0, 9.0]])
    restricted = restrict_options(scores, [2, 3])
    assert restricted.argmax(-1).tolist() == [1, 2]


def test_target_loss_is_the_mean_over_all_label_tokens(
    tiny_backbone: InstructBlip, make_features: Features, text: TextBatch
) -> None:
    encoded = encode(tiny_backbone, make_features(), text)
    targets = ["red", "the blue circle"]
    labels = tiny_backbone.text.encode_targets(targets)
    logp = tiny_backbone.target_logits(encoded, labels).log_softmax(-1)
    real = labels != -100
    picked = logp.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    expected = -picked[real].mean()
    assert torch.allclose(tiny_backbone.target_loss(encoded, targets), expected, atol=1e-6)


def test_generation_gives_text(
    tiny_backbone: InstructBlip, make_features: Features, text: TextBatch
) -> None:
    answers = tiny_backbone.generate(encode(tiny_backbone, make_features(), text))
    assert len(answers) == 2
    assert all("</s>" not in answer and "<pad>" not in answer for answer in answers)


def test_frame_prefixes_enter_the_encoder_before_each_frame(
    tiny_backbone: InstructBlip, make_features: Features, text: TextBatch
) -> None:
    visual = tiny_backbone.visual_tokens(tiny_backbone.normalise(make_features()), text)
    plain = tiny_backbone.encode(visual, text)
    prefixed = tiny_backbone.encode(visual, text, frame_prefixes=True)
    words = [len(tiny_backbone.text.plain_ids(f"Frame {i}: ")) for i in range(1, 5)]
    assert prefixed.hidden.shape[1] == plain.hidden.shape[1] + sum(words)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
@pytest.mark.parametrize("training", [True, False])
def test_half_precision_policies_stay_near_float32(
    tiny_folder: BackboneFolder,
    make_features: Features,
    prompts: list[str],
    policy: Any,
    training: bool,
) -> None:
    exact = InstructBlip.load(tiny_folder).eval()
    half = InstructBlip.load(tiny_folder, dtype_policy=policy).eval()
    for module in (half, half.qformer, half.language_model) if training else ():
        module.training = training  # the policy of training, without its dropout
    text = exact.read_text(prompts)
    assert half.language_model.lm_head.weight.dtype == torch.bfloat16
    assert half.query_tokens.dtype == torch.float32
    logits = half.letter_logits(encode(half, make_features(), text))
    expected = exact.letter_logits(encode(exact, make_features(), text))
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
    loss = half.target_loss(encode(half, make_features(), text), ["Option A", "Option B"])
    loss.backward()
    assert half.query_tokens.grad is not None
    assert half.query_tokens.grad.dtype == torch.float32
