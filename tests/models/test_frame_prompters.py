"""Prompters and selectors: the paper's formulas, and the laws every selection keeps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.core.errors import ConfigError, DataError
from stages.models.frame_prompter import FramePrompter
from stages.models.question_prompter import QuestionPrompter
from stages.models.selectors import (
    QuestionText,
    RandomSegment,
    SelectMode,
    UniformMid,
    choose_frames,
    gumbel_noise,
    indices_selection,
    segment_size,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def question_of(batch: int, length: int = 6, width: int = 10, seed: int = 5) -> QuestionText:
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[0, length // 2 :] = 0
    return QuestionText(random(batch, length, width, seed=seed), mask)


def shapes() -> st.SearchStrategy[tuple[int, int]]:
    """K and S."""
    return st.tuples(st.integers(1, 6), st.integers(1, 6))


# --- laws of any selection -----------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(shapes(), st.integers(0, 2**31), st.floats(0.01, 5), st.booleans())
def test_exactly_one_frame_per_segment_in_ascending_order(
    size: tuple[int, int], seed: int, tau: float, with_noise: bool
) -> None:
    keep, segment = size
    logits = random(2, keep, segment, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    noise = gumbel_noise((2, keep, segment), generator=generator) if with_noise else None
    selection = choose_frames(logits, noise=noise, tau=tau)
    assert torch.equal(selection.indices // segment, torch.arange(keep).expand(2, keep))
    assert (selection.indices.diff(dim=1) > 0).all()
    chosen = torch.zeros(2, keep * segment).scatter_(1, selection.indices, 1.0)
    assert torch.equal(selection.mask != 0, chosen != 0)
    assert torch.allclose(selection.mask, chosen, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(shapes(), st.integers(0, 2**31))
def test_temperature_never_changes_the_choice(size: tuple[int, int], seed: int) -> None:
    logits, noise = random(3, *size, seed=seed), random(3, *size, seed=seed + 1)
    cold = choose_frames(logits, noise=noise, tau=0.01)
    warm = choose_frames(logits, noise=noise, tau=3.0)
    assert torch.equal(cold.indices, warm.indices)


@settings(max_examples=50, deadline=None)
@given(shapes(), st.integers(0, 2**31))
def test_gather_takes_whole_frames_by_their_index(size: tuple[int, int], seed: int) -> None:
    keep, segment = size
    selection = choose_frames(random(2, keep, segment, seed=seed), noise=None, tau=1.0)
    frames = random(2, keep * segment, 3, 4, seed=seed + 1)
    gathered = selection.gather(frames)
    for b in range(2):
        assert torch.allclose(gathered[b], frames[b, selection.indices[b]], atol=1e-5)


def test_gradient_of_the_logits_is_the_straight_through_formula() -> None:
    """dL/dlogit_j = G * y_sel * (delta_j - y_j) / tau with G = <dL/dX_sel, X_sel>."""
    logits = random(2, 3, 4).requires_grad_()
    noise, frames, upstream = (random(2, 3, 4, seed=1), random(2, 12, 5, 6, seed=2), None)
    tau = 0.7
    selection = choose_frames(logits, noise=noise, tau=tau)
    gathered = selection.gather(frames)
    upstream = random(*gathered.shape, seed=3)
    gathered.backward(upstream)
    soft = torch.softmax((logits.detach() + noise) / tau, dim=-1)
    picked = soft.argmax(-1)
    pull = (upstream * frames[torch.arange(2)[:, None], selection.indices]).sum((-1, -2))
    chosen = torch.nn.functional.one_hot(picked, 4)
    y_selected = (soft * chosen).sum(-1)
    expected = (pull * y_selected)[..., None] * (chosen - soft) / tau
    assert logits.grad is not None
    assert torch.allclose(logits.grad, expected, atol=1e-5)


def test_soft_selection_averages_each_segment() -> None:
    logits, frames = random(2, 3, 4), random(2, 12, 5, 6, seed=1)
    selection = choose_frames(logits, noise=None, tau=0.5, mode="soft")
    weights = torch.softmax(logits / 0.5, dim=-1)
    expected = torch.einsum("bks,bksnc->bknc", weights, frames.reshape(2, 3, 4, 5, 6))
    assert torch.allclose(selection.gather(frames), expected, atol=1e-5)
    hard = choose_frames(logits, noise=None, tau=0.5)
    assert torch.equal(selection.indices, hard.indices)


def test_keep_must_divide_frames() -> None:
    assert segment_size(32, 4) == 8
    for frames, keep in ((32, 5), (4, 0), (2, 4)):
        with pytest.raises(ConfigError):
            segment_size(frames, keep)


def test_gumbel_noise_is_gumbel_distributed_and_reproducible() -> None:
    draws = gumbel_noise((200_000,), generator=torch.Generator().manual_seed(0))
    assert draws.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert draws.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.01)
    again = gumbel_noise((200_000,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(draws, again)


def test_noise_draws_a_frame_with_its_softmax_probability() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(60_000, 1, 3)
    noise = gumbel_noise((60_000, 1, 3), generator=torch.Generator().manual_seed(1))
    picked = choose_frames(logits, noise=noise, tau=0.01).indices[:, 0]
    shares = picked.bincount(minlength=3) / 60_000
    assert torch.allclose(shares, torch.softmax(logits[0, 0], 0), atol=0.01)


# --- the paper's prompter ------------------------------------------------------------------------


def test_visual_prompter_equals_its_formula() -> None:
    torch.manual_seed(0)
    T, K, N, C = 6, 2, 5, 7
    prompter, frames = FramePrompter(T, K, N), random(2, T, N, C)
    logits = prompter(frames).logits
    for b in range(2):
        for k in range(K):
            means = torch.cat([frames[b, k * 3 + s].mean(dim=1) for s in range(3)])
            hidden = prompter.fc1.weight @ means + prompter.fc1.bias
            centred = (hidden - hidden.mean()) / (hidden.var(unbiased=False) + 1e-5).sqrt()
            normed = (centred * prompter.norm.weight + prompter.norm.bias).clamp(min=0)
            expected = prompter.fc2.weight @ normed + prompter.fc2.bias
            assert torch.allclose(logits[b, k], expected, atol=1e-5)


def test_visual_prompter_has_the_published_sizes() -> None:
    sizes = {(32, 1): 264_320, (32, 2): 66_112, (32, 4): 16_544, (32, 8): 4_144, (8, 4): 1_040}
    for (frames, keep), count in sizes.items():
        prompter = FramePrompter(frames, keep, 257)
        assert sum(p.numel() for p in prompter.parameters()) == count


def test_one_frame_per_segment_is_the_identity_with_zero_gradient() -> None:
    torch.manual_seed(0)
    prompter = FramePrompter(4, 4, 5)
    frames = random(2, 4, 5, 6)
    selection = prompter(frames, noise=random(2, 4, 1, seed=3), tau=0.5)
    assert torch.equal(selection.gather(frames), frames)
    (selection.gather(frames) * random(2, 4, 5, 6, seed=4)).sum().backward()
    for name, parameter in prompter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() == 0, name


def test_visual_prompter_ignores_the_question() -> None:
    torch.manual_seed(0)
    prompter, frames = FramePrompter(6, 2, 5), random(2, 6, 5, 7)
    assert torch.equal(prompter(frames).logits, prompter(frames, question=question_of(2)).logits)


@pytest.mark.parametrize("select", ["hard_st", "soft"])
def test_evaluation_keeps_whole_frames_whatever_training_does(select: SelectMode) -> None:
    torch.manual_seed(0)
    prompter, frames = FramePrompter(6, 2, 5, select), random(2, 6, 5, 7)
    ours = QuestionPrompter(6, 2, 7, 10, select=select)
    for module, ask in ((prompter, {}), (ours, {"question": question_of(2)})):
        chosen = module.eval()(frames, **ask)
        kept = frames[torch.arange(2)[:, None], chosen.indices]
        assert torch.allclose(chosen.gather(frames), kept, atol=1e-5)
        trained = module.train()(frames, **ask)
        assert torch.allclose(trained.gather(frames), kept, atol=1e-5) == (select == "hard_st")


def test_prompters_refuse_other_frame_counts() -> None:
    with pytest.raises(DataError):
        FramePrompter(6, 2, 5)(random(1, 4, 5, 7))
    with pytest.raises(DataError):
        QuestionPrompter(6, 2, 7, 10)(random(1, 4, 5, 7), question=question_of(1))
    with pytest.raises(DataError, match="question"):
        QuestionPrompter(6, 2, 7, 10)(random(1, 6, 5, 7))


# --- ours ----------------------------------------------------------------------------------------


def test_question_prompter_chooses_other_frames_for_another_question() -> None:
    torch.manual_seed(0)
    prompter, frames = QuestionPrompter(32, 4, 7, 10), random(8, 32, 5, 7)
    one = prompter(frames, question=question_of(8, seed=1)).indices
    two = prompter(frames, question=question_of(8, seed=2)).indices
    assert not torch.equal(one, two)


def test_question_prompter_scores_a_frame_by_itself_and_ignores_padding() -> None:
    torch.manual_seed(0)
    prompter, frames, question = QuestionPrompter(6, 2, 7, 10), random(2, 6, 5, 7), question_of(2)
    logits = prompter.frame_logits(frames, question)
    reversed_logits = prompter.frame_logits(frames.flip(1), question)
    assert torch.allclose(logits.flip(1), reversed_logits, atol=1e-6)
    words = question.embeddings.clone()
    words[question.mask == 0] = 100.0
    assert torch.allclose(
        prompter.frame_logits(frames, QuestionText(words, question.mask)), logits, atol=1e-6
    )
    shuffled = frames[:, :, torch.randperm(5)]
    assert torch.allclose(prompter.frame_logits(shuffled, question), logits, atol=1e-5)


def test_question_prompter_learns_to_find_what_is_asked() -> None:
    """Each frame shows one of eight things in one patch; the question names one of them."""
    torch.manual_seed(0)
    prompter = QuestionPrompter(8, 2, 12, 10, width=16, heads=2)
    things, words = torch.randn(8, 12), torch.randn(8, 10)
    optimizer = torch.optim.AdamW(prompter.parameters(), lr=5e-3)
    for _ in range(150):
        shown = torch.stack([torch.randperm(8) for _ in range(32)])
        asked = torch.randint(0, 8, (32,))
        frames = 0.3 * torch.randn(32, 8, 5, 12)
        frames[..., 2, :] += things[shown]
        question = QuestionText(words[asked][:, None], torch.ones(32, 1))
        noise = gumbel_noise((32, 2, 4))
        kept = prompter(frames, noise=noise, tau=1.0, question=question).mask
        found = (kept * (shown == asked[:, None])).sum(1)
        optimizer.zero_grad()
        (1 - found).mean().backward()
        optimizer.step()
    with torch.no_grad():
        indices = prompter(frames, question=question).indices
    recall = (shown.gather(1, indices) == asked[:, None]).any(1).float().mean()
    assert recall > 0.9


# --- selectors without scores --------------------------------------------------------------------


def test_uniform_takes_the_middle_of_each_segment() -> None:
    selection = UniformMid(32, 4)(random(2, 32, 3, 4))
    assert selection.indices.tolist() == [[4, 12, 20, 28]] * 2
    frames = random(2, 32, 3, 4)
    assert torch.equal(selection.gather(frames), frames[:, [4, 12, 20, 28]])
    assert selection.frame_scores.shape == (2, 32)


def test_random_segment_is_uniform_with_noise_and_the_middle_without() -> None:
    sampler, frames = RandomSegment(8, 2), torch.zeros(40_000, 8, 1, 1)
    assert sampler(frames).indices[0].tolist() == [2, 6]
    noise = gumbel_noise((40_000, 2, 4), generator=torch.Generator().manual_seed(0))
    shares = sampler(frames, noise=noise).indices.flatten().bincount(minlength=8) / 40_000
    assert torch.allclose(shares, torch.full((8,), 0.25), atol=0.01)


def test_given_indices_gather_those_frames() -> None:
    frames = random(2, 6, 3, 4)
    indices = torch.tensor([[0, 5], [1, 2]])
    gathered = indices_selection(indices, 6).gather(frames)
    assert torch.equal(gathered[1], frames[1, [1, 2]])
