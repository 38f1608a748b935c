"""What must not change a number, to stated tolerances: batches, padding, caches, loops over frames.

Whole chains of VLAP and SeViLA on tiny random models, in training (losses, gradients) as in
evaluation; the parts alone are tested beside them (test_blip2, test_instructblip, test_sevila,
test_vlap_student). Everything here is float32 unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import pad

from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.text import PromptIds, TextBatch
from stages.models.backbones.vision import VisionTower
from stages.models.sevila import Sevila
from stages.models.vlap import VlapConfig, VlapStudent, VlapTeacher

Features = Callable[..., Tensor]
SCORES = 1e-5
"""Letter logits, frame scores and losses: largest absolute difference."""
FEATURES = 1e-5
"""Features of the tower."""
HALF_FEATURES = {"bfloat16": 0.03, "float16": 0.004}
"""The same in half precision, as a share of the largest value: products round, sums are float32."""
GRADIENTS = 1e-6, 1e-4
"""|difference| <= first + second * largest entry."""
FRAMES, KEEP = 4, 2
PROMPTS = [
    "Question: what color is the circle? Option A: red Option B: blue",
    "what color",
    "Question: which is left? Option A: circle Option B: square Option C: the red circle",
    "red " * 30,
]
TARGETS = ["Option A", "Option B", "the red circle", "red"]
some_prompts = st.lists(st.integers(0, len(PROMPTS) - 1), min_size=1, max_size=4)
padding = st.integers(0, 9)
few = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def close(ours: Tensor, other: Tensor, tolerance: float = SCORES) -> None:
    """Equal in shape, in what is infinite, and within `tolerance` elsewhere."""
    assert ours.shape == other.shape
    torch.testing.assert_close(ours, other, rtol=0, atol=tolerance)


def padded(text: TextBatch, more: int) -> TextBatch:
    """The same prompts with more padding on both readers' sides."""
    return TextBatch(*(pad(part, (0, more)) for part in vars(text).values()))


@pytest.fixture(scope="module")
def student(tiny_folder: BackboneFolder) -> VlapStudent:
    """Without dropout, in eval mode; teacher branch and both prompters' parts included."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    config = VlapConfig(frames=FRAMES, keep=KEEP, prompter="question")
    return VlapStudent(InstructBlip.load(tiny_folder), config, tokens=5).eval()


@pytest.fixture(scope="module")
def sevila(blip2_folder: BackboneFolder) -> Sevila:
    """With a localizer that is not the answerer, in eval mode."""
    torch.set_num_threads(1)
    torch.manual_seed(5)
    model = Sevila(Blip2.load(blip2_folder))
    assert model.localizer is not None
    with torch.no_grad():
        model.localizer.query_tokens.add_(torch.randn_like(model.localizer.query_tokens))
    return model.eval()


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Of every parameter that has one."""
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def same_gradients(ours: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert ours.keys() == other.keys()
    assert ours
    for name, value in ours.items():
        if name.endswith(".key.bias"):  # no effect on the softmax: rounding noise only
            continue
        absolute, share = GRADIENTS
        assert (value - other[name]).abs().max() <= absolute + share * value.abs().max(), name


# --- the tower -----------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", *HALF_FEATURES])
@pytest.mark.parametrize("layout", ["instructblip", "blip-2"])
def test_frames_through_the_tower_one_by_one_and_together(
    make_folder: Callable[..., Any], layout: str, precision: Any
) -> None:
    tower = VisionTower.load(BackboneFolder(make_folder(model_type=layout)), precision=precision)
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    together = tower.features(pixels)
    alone = torch.cat([tower.features(frame[None]) for frame in pixels])
    share = HALF_FEATURES.get(precision)
    close(alone, together, FEATURES if share is None else share * float(together.abs().max()))


# --- VLAP ----------------------------------------------------------------------------------------


@few
@given(asked=some_prompts, more=padding)
def test_vlap_answers_alone_in_a_batch_and_with_more_padding(
    student: VlapStudent, make_features: Features, asked: list[int], more: int
) -> None:
    prompts, features = [PROMPTS[i] for i in asked], make_features(len(asked), FRAMES)
    text = student.backbone.read_text(prompts)
    options = [2 + i % 4 for i in asked]
    whole = student.answer(features, padded(text, more), mode="letter", num_options=options)
    for row, prompt in enumerate(prompts):
        one = student.answer(
            features[row : row + 1],
            student.backbone.read_text([prompt]),
            mode="letter",
            num_options=options[row : row + 1],
        )
        assert torch.equal(one.indices[0], whole.indices[row])
        assert one.frame_scores is not None
        assert whole.frame_scores is not None
        close(one.frame_scores[0], whole.frame_scores[row])
        close(one.scores[0], whole.scores[row])


def test_vlap_losses_of_a_batch_are_the_mean_over_its_labels_and_questions(
    student: VlapStudent, make_features: Features
) -> None:
    features, backbone = make_features(len(PROMPTS), FRAMES), student.backbone
    noise = student.draw_noise(len(PROMPTS), torch.Generator().manual_seed(2))
    ask = {"noise": noise, "tau": 0.5}
    batch = student(features, padded(backbone.read_text(PROMPTS), 3), TARGETS, **ask)
    counts = (backbone.labels(TARGETS) != -100).sum(dim=1)
    tasks, distils = [], []
    for row, prompt in enumerate(PROMPTS):
        part = slice(row, row + 1)
        text = backbone.read_text([prompt])
        one = student(features[part], text, TARGETS[part], noise=noise[part], tau=0.5)
        tasks.append(one.task_loss)
        distils.append(one.distill_loss)
    task = (torch.stack(tasks) * counts).sum() / counts.sum()
    close(task, batch.task_loss)
    close(torch.stack(distils).mean(), batch.distill_loss)
    loss = 0.01 * torch.stack(distils).mean() + task
    both = batch.task_loss + 0.01 * batch.distill_loss
    same_gradients(gradients(student, both), gradients(student, loss))


def test_vlap_targets_kept_and_fresh_and_frame_by_frame(
    student: VlapStudent, make_features: Features
) -> None:
    """The teacher looks at frames alone, so its targets may be computed in any grouping."""
    features, text = make_features(len(PROMPTS), FRAMES), student.backbone.read_text(PROMPTS)
    kept, fresh = student.teacher_targets(features, text), student(features, text, TARGETS)
    again = student(features, text, TARGETS, teacher_targets=kept)
    close(again.loss, fresh.loss)
    queries = student.backbone.num_queries
    for frame in range(FRAMES):
        alone = features[:, frame : frame + 1].expand(-1, FRAMES, -1, -1)
        part = student.teacher_targets(alone, text)[:, :queries]
        close(part, kept[:, frame * queries : (frame + 1) * queries])


def test_the_teachers_answers_alone_and_in_a_batch(
    tiny_folder: BackboneFolder, make_features: Features
) -> None:
    teacher = VlapTeacher(InstructBlip.load(tiny_folder), VlapConfig(frames=3, keep=3)).eval()
    features, read = make_features(len(PROMPTS), 3), teacher.backbone.read_text
    options = [["red", "blue circle"], ["left", "right", "square"], ["a", "b"], ["red", "green"]]
    whole = teacher.answer(features, read(PROMPTS), mode="rank", options=options)
    for row, texts in enumerate(options):
        text = read(PROMPTS[row : row + 1])
        one = teacher.answer(features[row : row + 1], text, mode="rank", options=[texts])
        close(one.scores[0], whole.scores[row, : len(texts)])


# --- SeViLA --------------------------------------------------------------------------------------


@few
@given(asked=some_prompts, more=padding)
@torch.no_grad()
def test_sevilas_chain_alone_in_a_batch_with_more_padding_and_kept_tokens(
    sevila: Sevila, make_features: Features, asked: list[int], more: int
) -> None:
    prompts, features = [PROMPTS[i] for i in asked], make_features(len(asked), FRAMES)
    text = sevila.backbone.read_prompts(prompts)
    wide = PromptIds(pad(text.ids, (0, more)), pad(text.mask, (0, more)))
    seen, tokens = sevila.localizer_tokens(features), sevila.answerer_tokens(features)
    scores = sevila.score_frames(seen, wide)
    chosen = sevila.select(scores, KEEP).indices
    rows = torch.arange(len(asked))[:, None]
    options = [2 + i % 4 for i in asked]
    letters = sevila.answer_letters(tokens[rows, chosen], wide, options)
    for row, prompt in enumerate(prompts):
        own = features[row : row + 1]
        fresh = sevila.score_frames(sevila.localizer_tokens(own), [prompt])
        close(fresh.yes[0], scores.yes[row])
        close(fresh.no[0], scores.no[row])
        assert torch.equal(sevila.keyframes(own, [prompt], KEEP).indices[0], chosen[row])
        kept = own[:, chosen[row]]
        alone = sevila.answer_letters(
            sevila.answerer_tokens(kept), [prompt], options[row : row + 1]
        )
        close(alone[0], letters[row])


@torch.no_grad()
def test_sevilas_second_step_with_and_without_the_decoders_cache(
    sevila: Sevila, make_features: Features
) -> None:
    backbone = sevila.backbone
    tokens = sevila.answerer_tokens(make_features(len(PROMPTS), KEEP))
    prefixes = backbone.text.numbered_prefixes(KEEP)
    encoded = backbone.encode(tokens, backbone.read_prompts(PROMPTS), prefixes)
    cached = backbone.greedy_letters(encoded)
    ids = torch.stack([torch.zeros_like(cached.first_token), cached.first_token], dim=1)
    fresh = backbone.decoder_logits(encoded, ids)
    close(cached.first_logits, fresh[:, 0])
    close(cached.letters, fresh[:, 1, list(backbone.answer_tokens.letters)])


def one_by_one(losses: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Mean weighted by how many labels each loss is a mean of."""
    weights = torch.tensor(counts, dtype=torch.float32)
    return (torch.stack(list(losses)) * weights).sum() / weights.sum()


def test_sevilas_losses_of_a_batch_are_the_mean_over_their_labels(
    sevila: Sevila, make_features: Features
) -> None:
    features, backbone = make_features(len(PROMPTS), 2), sevila.backbone
    counts = (backbone.labels(TARGETS) != -100).sum(dim=1).tolist()
    verdicts = torch.tensor([[True, False], [False, False], [True, True], [False, True]])

    sevila.train_side("answerer")
    batch = sevila.answerer_loss(features, PROMPTS, TARGETS).loss
    parts = [
        sevila.answerer_loss(features[i : i + 1], PROMPTS[i : i + 1], TARGETS[i : i + 1]).loss
        for i in range(len(PROMPTS))
    ]
    close(one_by_one(parts, counts), batch)
    same_gradients(gradients(sevila, batch), gradients(sevila, one_by_one(parts, counts)))

    sevila.train_side("localizer")
    batch = sevila.localizer_loss(features, PROMPTS, verdicts).loss
    parts = [  # every frame of every question by itself
        sevila.localizer_loss(
            features[i : i + 1, f : f + 1], PROMPTS[i : i + 1], verdicts[i : i + 1, f : f + 1]
        ).loss
        for i in range(len(PROMPTS))
        for f in range(2)
    ]
    close(torch.stack(parts).mean(), batch)
    same_gradients(gradients(sevila, batch), gradients(sevila, torch.stack(parts).mean()))
    sevila.train_side(None)
