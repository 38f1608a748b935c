"""Teacher and student as a whole: options, modes, weights, and that training learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from stages.core.errors import DataError
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.text import TextBatch
from stages.models.backbones.vision import VisionTower
from stages.models.losses import token_mean_mse
from stages.models.parameters import parameter_counts
from stages.models.pooled import pool_tokens
from stages.models.qformer_distiller import DistillDecoder
from stages.models.vlap import (
    PRESETS,
    LoraConfig,
    VlapConfig,
    VlapStudent,
    VlapTeacher,
    frame_likelihoods,
    load_trained_state,
    trainable_parameters,
    trained_state,
)

Features = Callable[..., Tensor]
TARGETS = ["Option A", "Option C"]


def config(**changes: Any) -> VlapConfig:
    return VlapConfig(**({"frames": 4, "keep": 2} | changes))


def student_of(folder: BackboneFolder, **changes: Any) -> VlapStudent:
    torch.manual_seed(0)
    return VlapStudent(InstructBlip.load(folder), config(**changes), tokens=5)


def without_dropout(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return module


# --- distillation decoder ------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["fc_ln", "fc", "fc_ln_fc"])
@pytest.mark.parametrize(("keep", "frames"), [(1, 4), (2, 6), (4, 8), (4, 4)])
def test_decoder_maps_tokens_of_kept_frames_to_tokens_of_all(
    variant: Any, keep: int, frames: int
) -> None:
    torch.manual_seed(0)
    decoder = DistillDecoder(3 * keep, 3 * frames, variant)
    tokens = torch.randn(2, 3 * keep, 7)
    output = decoder(tokens)
    assert output.shape == (2, 3 * frames, 7)
    for channel in range(7):  # the same map for every channel, none between channels
        alone = decoder(tokens[..., channel : channel + 1])
        assert torch.allclose(alone[..., 0], output[..., channel], atol=1e-6)


def test_decoder_variants_are_the_ones_of_the_ablation() -> None:
    torch.manual_seed(0)
    decoder, tokens = DistillDecoder(6, 12, "fc_ln"), torch.randn(2, 6, 7)
    linear = torch.einsum("rm,bmd->brd", decoder.fc.weight, tokens) + decoder.fc.bias[:, None]
    centred = (linear - linear.mean(1, keepdim=True)) / (
        linear.var(1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    assert torch.allclose(decoder(tokens), centred, atol=1e-5)
    assert set(DistillDecoder(6, 12, "fc").state_dict()) == {"fc.weight", "fc.bias"}
    assert len(DistillDecoder(6, 12, "fc_ln_fc").state_dict()) == 6


@pytest.mark.parametrize(
    ("keep", "frames", "count"),
    [(1, 32, 35_840), (2, 32, 68_608), (4, 32, 134_144), (8, 32, 265_216), (4, 8, 33_536)],
)
def test_decoder_has_the_published_sizes(keep: int, frames: int, count: int) -> None:
    decoder = DistillDecoder(32 * keep, 32 * frames)
    assert sum(p.numel() for p in decoder.parameters()) == count


def test_token_mean_loss_compares_mean_tokens() -> None:
    student, teacher = torch.randn(2, 6, 5), torch.randn(2, 12, 5)
    expected = ((student.mean(1) - teacher.mean(1)) ** 2).mean()
    assert torch.allclose(token_mean_mse(student, teacher), expected)


# --- options -------------------------------------------------------------------------------------


def test_config_refuses_unknown_keys_and_impossible_counts() -> None:
    for wrong in ({"keep": 3}, {"promter": "visual"}, {"distill_weight": -1}, {"teacher": "x"}):
        with pytest.raises((ValidationError, ValueError)):
            config(**wrong)
    with pytest.raises(ValidationError):
        VlapConfig()  # type: ignore[call-arg]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_valid_options(preset: str) -> None:
    assert config(**PRESETS[preset]).teacher in ("frozen", "shared")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompter": "question"},
        {"prompter": "uniform_mid"},
        {"prompter": "random_segment"},
        {"select": "soft"},
        {"teacher": "shared", "teacher_mode": "train"},
        {"teacher": "shared"},
        {"teacher": "none"},
        {"distill": "fc"},
        {"distill": "fc_ln_fc"},
        {"distill": "token_mean"},
        {"distill_space": "qformer"},
        {"train_ln_vision": False},
        {"frame_prefix_text": True},
        {"keep": 4},
        {"keep": 1},
    ],
)
def test_every_option_trains_and_answers(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch, changes: dict[str, Any]
) -> None:
    student = student_of(tiny_folder, **changes).train()
    noise = student.draw_noise(2, torch.Generator().manual_seed(0))
    output = student(make_features(), text, TARGETS, noise=noise, tau=0.5)
    expected = output.task_loss + student.config.distill_weight * output.distill_loss
    expected = expected + student.config.relevance * output.relevance_loss
    assert torch.allclose(output.loss, expected)
    assert (output.distill_loss > 0) == (student.config.teacher != "none")
    output.loss.backward()
    for name, parameter in trainable_parameters(student):
        assert parameter.grad is not None, name
    student.eval()
    answer = student.answer(make_features(), text, mode="letter", num_options=[2, 3])
    assert answer.scores.shape == (2, 5)
    assert answer.scores[0, 2:].isinf().all()
    assert answer.indices.shape == (2, student.config.keep)
    ranked = student.answer(
        make_features(), text, mode="rank", options=[["red", "blue"], ["circle", "square", "red"]]
    )
    assert ranked.scores.shape == (2, 3)


def test_evaluation_without_noise_is_deterministic_and_with_noise_is_not(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    quiet, noisy = student_of(tiny_folder).eval(), student_of(tiny_folder, eval_noise=True).eval()
    features = make_features()
    assert torch.equal(quiet.select(features, text).indices, quiet.select(features, text).indices)
    draws = {str(noisy.select(features, text).indices.tolist()) for _ in range(30)}
    assert len(draws) > 1
    seeded = [
        noisy.select(features, text, torch.Generator().manual_seed(3)).indices for _ in range(2)
    ]
    assert torch.equal(*seeded)


def test_visual_prompter_selects_alike_for_every_question(
    tiny_folder: BackboneFolder, make_features: Features, prompts: list[str]
) -> None:
    student = student_of(tiny_folder).eval()
    features = make_features(batch=1)
    picks = [
        student.select(features, student.backbone.read_text([prompt])).logits for prompt in prompts
    ]
    assert torch.equal(*picks)
    student = student_of(tiny_folder, prompter="question").eval()
    picks = [
        student.select(features, student.backbone.read_text([prompt])).logits for prompt in prompts
    ]
    assert not torch.equal(*picks)


def test_a_prompter_of_the_pooled_tier_chooses_by_it_alone_and_learns(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    student = student_of(tiny_folder, prompter="question", prompter_reads="pooled").eval()
    features = make_features()
    from_tokens = student.select(features, text)
    from_tier = student.select_pooled(pool_tokens(features), text)
    assert torch.equal(from_tokens.logits, from_tier.logits)
    assert torch.equal(from_tokens.indices, from_tier.indices)
    mixed = features.clone()
    mixed[:, :, 1:] = features[:, :, 1:].flip(2)  # the same first token, the same mean
    assert torch.allclose(student.select(mixed, text).logits, from_tier.logits, atol=1e-3)
    student.train()
    student(features, text, TARGETS, noise=student.draw_noise(2)).loss.backward()
    assert student.frame_prompter.patch_key.weight.grad.abs().max() > 0


def test_frames_chosen_elsewhere_are_used(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    from stages.models.selectors import indices_selection

    student = student_of(tiny_folder).eval()
    features, ask = make_features(), {"mode": "letter", "num_options": [5, 5]}
    own = student.select(features, text)
    same = student.answer(features, text, selection=indices_selection(own.indices, 4), **ask)
    assert torch.allclose(same.scores, student.answer(features, text, **ask).scores, atol=1e-5)
    other = indices_selection(own.indices ^ 1, 4)
    moved = student.answer(features, text, selection=other, **ask)
    assert not torch.allclose(moved.scores, same.scores, atol=1e-5)


def test_batch_of_students_answers_equals_single_ones(
    tiny_folder: BackboneFolder, make_features: Features, prompts: list[str]
) -> None:
    student = student_of(tiny_folder, prompter="question").eval()
    features = make_features()
    both = student.answer(
        features, student.backbone.read_text(prompts), mode="letter", num_options=[2, 3]
    )
    for i, count in enumerate((2, 3)):
        text = student.backbone.read_text([prompts[i]])
        one = student.answer(features[i : i + 1], text, mode="letter", num_options=[count])
        assert torch.equal(one.indices[0], both.indices[i])
        assert torch.allclose(one.scores[0], both.scores[i], atol=1e-5)


def test_cached_features_answer_like_pixels(
    tiny_folder: BackboneFolder, prompts: list[str]
) -> None:
    student, tower = student_of(tiny_folder).eval(), VisionTower.load(tiny_folder)
    frames = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    text = student.backbone.read_text(prompts[:1])
    direct = tower.features(tower.preprocess(frames))[None]
    one_by_one = torch.stack([tower.features(tower.preprocess(f[None]))[0] for f in frames])[None]
    a = student.answer(direct, text, mode="letter", num_options=[2])
    b = student.answer(one_by_one, text, mode="letter", num_options=[2])
    assert torch.equal(a.indices, b.indices)
    assert torch.allclose(a.scores, b.scores, atol=1e-4)
    half = student.answer(direct.half(), text, mode="letter", num_options=[2])
    assert torch.allclose(a.scores[:, :2], half.scores[:, :2], atol=0.05)


def test_questions_that_cannot_be_answered_are_explained(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    student = student_of(tiny_folder).eval()
    with pytest.raises(DataError, match="frames"):
        student.answer(make_features(frames=3), text, mode="letter", num_options=[2, 2])
    with pytest.raises(DataError, match="letters A to E"):
        student.answer(make_features(), text, mode="letter", num_options=[2, 6])
    with pytest.raises(DataError, match="options"):
        student.answer(make_features(), text, mode="rank")


# --- teacher branch ------------------------------------------------------------------------------


def test_frozen_teacher_is_quiet_in_training_and_shared_one_is_not(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    frozen = student_of(tiny_folder).train()
    assert frozen.teacher is not None
    assert not frozen.teacher.training
    a, b = (frozen.teacher_targets(make_features(), text) for _ in range(2))
    assert torch.equal(a, b)
    shared = student_of(tiny_folder, teacher="shared", teacher_mode="train").train()
    a, b = (shared.teacher_targets(make_features(), text) for _ in range(2))
    assert not torch.equal(a, b)  # dropout of the live Q-Former
    assert shared.backbone.qformer.training


def test_shared_targets_move_with_the_student_and_frozen_ones_do_not(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    for teacher, moves in (("frozen", False), ("shared", True)):
        student = student_of(tiny_folder, teacher=teacher).eval()
        before = student.teacher_targets(make_features(), text)
        with torch.no_grad():
            for parameter in student.backbone.qformer.parameters():
                parameter.mul_(1.1)
        after = student.teacher_targets(make_features(), text)
        assert torch.equal(before, after) != moves


def test_teacher_weights_come_from_the_teacher(
    tiny_folder: BackboneFolder,
    make_folder: Callable[..., Any],
    make_features: Features,
    text: TextBatch,
) -> None:
    other = BackboneFolder(make_folder(seed=7))
    teacher = VlapTeacher(InstructBlip.load(other), config(keep=4))
    student = student_of(tiny_folder).eval()
    student.load_teacher(trained_state(teacher))
    frames = student.backbone.normalise(make_features())
    expected = teacher.eval().backbone.visual_tokens(frames, text)
    assert torch.allclose(student.teacher_targets(make_features(), text), expected, atol=1e-6)
    with pytest.raises(DataError, match="missing"):
        student.load_teacher({})


def test_relevance_is_each_frames_own_log_probability_of_the_answer(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    student = student_of(tiny_folder, prompter="question").train()
    backbone, features = student.backbone, make_features()
    relevance = student.relevance_targets(features, text, TARGETS)
    assert relevance.shape == (2, 4)
    assert backbone.language_model.training  # only for a moment in eval mode
    backbone.eval()
    for frame in range(4):
        alone = backbone.normalise(features[:, frame : frame + 1])
        encoded = backbone.encode(backbone.visual_tokens(alone, text), text)
        scores = backbone.rank_scores(encoded, [[target] for target in TARGETS])[:, 0]
        assert torch.allclose(relevance[:, frame], scores, atol=1e-4)
    rows = frame_likelihoods(
        backbone,
        backbone.visual_tokens(backbone.normalise(features), text).reshape(2, 4, 3, 32),
        text,
        backbone.labels(TARGETS),
        rows=3,
    )
    assert torch.allclose(relevance, rows, atol=1e-4)


def test_relevance_teaches_frame_scores_and_nothing_else_but_the_norm_before_them(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    student = student_of(tiny_folder, prompter="question").train()
    output = student(make_features(), text, TARGETS)
    output.relevance_loss.backward()
    touched = {name for name, p in trainable_parameters(student) if p.grad is not None}
    assert {name.split(".")[0] for name in touched} == {"frame_prompter", "ln_vision"}
    assert student_of(tiny_folder, prompter="visual").config.relevance == 0
    off = student_of(tiny_folder, prompter="question", relevance_weight=0.0).train()
    assert off(make_features(), text, TARGETS).relevance_loss == 0
    with pytest.raises(ValidationError):
        config(prompter="uniform_mid", relevance_weight=1.0)
    with pytest.raises(ValidationError):
        config(prompter="question", teacher="none", relevance_weight=1.0)


def test_kept_targets_save_the_teachers_pass(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    student = without_dropout(student_of(tiny_folder, prompter="question").train())
    assert isinstance(student, VlapStudent)
    features = make_features()
    kept = {
        "teacher_targets": student.teacher_targets(features, text),
        "relevance_targets": student.relevance_targets(features, text, TARGETS),
    }
    live = student(features, text, TARGETS).loss
    student.teacher = None  # whoever needs it now fails
    assert torch.allclose(student(features, text, TARGETS, **kept).loss, live, atol=1e-5)
    with pytest.raises(DataError, match="teacher"):
        student(features, text, TARGETS, teacher_targets=kept["teacher_targets"])


def test_language_model_and_teacher_never_train(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    student = student_of(tiny_folder).train()
    names = [name for name, _ in trainable_parameters(student)]
    assert not any(name.startswith(("language_model.", "teacher.")) for name in names)
    assert {"query_tokens", "ln_vision.weight", "frame_prompter.fc1.weight"} <= set(names)
    student(make_features(), text, TARGETS).loss.backward()
    assert all(p.grad is None for p in student.backbone.language_model.parameters())


# --- teacher and start ---------------------------------------------------------------------------


def test_teacher_uses_all_frames(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    teacher = VlapTeacher(InstructBlip.load(tiny_folder), config(keep=4)).eval()
    answer = teacher.answer(make_features(), text, mode="letter", num_options=[2, 3])
    assert answer.indices.tolist() == [[0, 1, 2, 3]] * 2
    changed = make_features()
    changed[:, 3] += 1
    again = teacher.answer(changed, text, mode="letter", num_options=[2, 3])
    assert not torch.equal(answer.scores, again.scores)
    with pytest.raises(DataError):
        teacher(make_features(frames=3), text, TARGETS)


def test_start_draws_in_training_and_takes_the_middle_in_evaluation(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    start = VlapTeacher(InstructBlip.load(tiny_folder), config(keep=2)).eval()
    answer = start.answer(make_features(), text, mode="letter", num_options=[2, 3])
    assert answer.indices.tolist() == [[1, 3]] * 2
    noise = torch.tensor([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]]])
    output = start(make_features(), text, TARGETS, noise=noise)
    assert output.indices is not None
    assert output.indices.tolist() == [[0, 3], [1, 2]]


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompter", ["visual", "question"])
def test_trained_weights_go_out_and_in(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch, prompter: str
) -> None:
    trained = student_of(tiny_folder, prompter=prompter).eval()
    with torch.no_grad():
        for _, parameter in trainable_parameters(trained):
            parameter.add_(0.01)
    state = {name: tensor.clone() for name, tensor in trained_state(trained).items()}
    assert not any(n.startswith(("teacher.", "language_model.", "backbone.")) for n in state)
    bare = VlapStudent(
        InstructBlip.load(tiny_folder), trained.config, tokens=5, with_teacher=False
    ).eval()
    load_trained_state(bare, state)
    ask = {"mode": "letter", "num_options": [2, 3]}
    expected = trained.answer(make_features(), text, **ask).scores
    assert torch.equal(bare.answer(make_features(), text, **ask).scores, expected)


def test_weights_that_do_not_fit_are_named(tiny_folder: BackboneFolder) -> None:
    student = student_of(tiny_folder)
    state = trained_state(student)
    with pytest.raises(DataError, match=r"missing backbone\.query_tokens"):
        load_trained_state(student, {k: v for k, v in state.items() if k != "query_tokens"})
    with pytest.raises(DataError, match="unexpected"):
        load_trained_state(student, state | {"surprise": torch.zeros(1)})
    wrong = state | {"query_tokens": torch.zeros(1, 9, 24)}
    with pytest.raises(DataError, match="shape"):
        load_trained_state(student, wrong)


def test_a_start_fills_a_student_without_its_new_parts(tiny_folder: BackboneFolder) -> None:
    start = VlapTeacher(InstructBlip.load(tiny_folder), config(keep=2))
    with torch.no_grad():
        start.backbone.query_tokens.add_(1)
    student = student_of(tiny_folder)
    prompter = {k: v.clone() for k, v in student.frame_prompter.state_dict().items()}
    load_trained_state(student, trained_state(start), start=True)
    assert torch.equal(student.backbone.query_tokens, start.backbone.query_tokens)
    assert all(torch.equal(v, prompter[k]) for k, v in student.frame_prompter.state_dict().items())
    with pytest.raises(DataError, match="missing"):
        load_trained_state(student, {}, start=True)


def test_parameter_counts_add_up(tiny_folder: BackboneFolder) -> None:
    counts = parameter_counts(student_of(tiny_folder))
    parts = sum(n for name, n in counts.items() if name not in ("trainable", "total"))
    assert parts == counts["total"]
    assert 0 < counts["trainable"] < counts["total"]


def test_lora_trains_adapters_and_starts_as_the_base(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    pytest.importorskip("peft")
    plain = student_of(tiny_folder).eval()
    adapted = student_of(tiny_folder, lora=LoraConfig(rank=2)).eval()
    ask = {"mode": "letter", "num_options": [2, 3]}
    before = plain.answer(make_features(), text, **ask).scores
    assert torch.allclose(adapted.answer(make_features(), text, **ask).scores, before, atol=1e-5)
    names = [n for n, _ in trainable_parameters(adapted) if n.startswith("language_model.")]
    assert names
    assert all("lora_" in name for name in names)
    # q and v of 2 encoder layers and of self- and cross-attention of 1 decoder layer, A and B each
    assert len(names) == 2 * 2 * (2 + 2)
    adapted.train()(make_features(), text, TARGETS).loss.backward()
    touched = [p.grad for n, p in trainable_parameters(adapted) if "lora_B" in n]
    assert all(grad is not None and grad.abs().max() > 0 for grad in touched)
    state = trained_state(adapted)
    assert sum("lora_" in name for name in state) == len(names)
    load_trained_state(student_of(tiny_folder, lora=LoraConfig(rank=2)), state)


# --- learning ------------------------------------------------------------------------------------


def test_equal_seeds_train_to_equal_bytes(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    def train() -> dict[str, Tensor]:
        student = student_of(tiny_folder).train()
        torch.manual_seed(1)
        optimizer = torch.optim.AdamW([p for _, p in trainable_parameters(student)], lr=1e-3)
        generator = torch.Generator().manual_seed(2)
        for _ in range(3):
            optimizer.zero_grad()
            noise = student.draw_noise(2, generator)
            student(make_features(), text, TARGETS, noise=noise).loss.backward()
            optimizer.step()
        return trained_state(student)

    one, two = train(), train()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_student_learns_the_answers_of_a_batch(
    tiny_folder: BackboneFolder, make_features: Features, text: TextBatch
) -> None:
    student = without_dropout(student_of(tiny_folder, prompter="question").train())
    assert isinstance(student, VlapStudent)
    optimizer = torch.optim.AdamW([p for _, p in trainable_parameters(student)], lr=3e-3)
    targets = student.teacher_targets(make_features(), text)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        output = student(make_features(), text, TARGETS, teacher_targets=targets)
        output.loss.backward()
        optimizer.step()
        losses.append((output.task_loss.item(), output.distill_loss.item()))
    assert losses[-1][0] < 0.7 * losses[0][0]
    assert losses[-1][1] < losses[0][1]
