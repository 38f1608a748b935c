"""Differentiable sparse sampling: one-hot choices, soft gradients, duplicates, sorting."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.core.errors import DataError
from stages.models.attention import BlockOptions
from stages.models.la_gate import EncodedText
from stages.models.selectors import gumbel_noise
from stages.models.sparse_sampler import (
    FrameSlots,
    SparseSampler,
    choose_slots,
    fixed_slots,
    uniform_slots,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sentence_of(rows: int, width: int = 12, seed: int = 3) -> EncodedText:
    words = random(rows, 4, width, seed=seed + 1)
    return EncodedText(random(rows, width, seed=seed), words, torch.ones(rows, 4))


def sizes() -> st.SearchStrategy[tuple[int, int]]:
    """K and N, also K > N."""
    return st.tuples(st.integers(1, 6), st.integers(1, 8))


# --- choosing ------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(sizes(), st.integers(0, 2**31), st.floats(0.01, 5), st.booleans())
def test_every_slot_holds_exactly_one_frame(
    size: tuple[int, int], seed: int, tau: float, with_noise: bool
) -> None:
    logits = 5 * random(2, *size, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    noise = gumbel_noise((2, *size), generator=generator) if with_noise else None
    slots = choose_slots(logits, noise=noise, tau=tau)
    noisy = logits if noise is None else logits + noise
    onehot = torch.nn.functional.one_hot(noisy.argmax(-1), size[1]).float()
    assert torch.equal(slots.mask, onehot)  # to the last bit
    assert torch.equal(slots.indices, noisy.argmax(-1))


@settings(max_examples=100, deadline=None)
@given(sizes(), st.integers(0, 2**31), st.floats(0.1, 5))
def test_the_mask_carries_the_gradient_of_the_softmax(
    size: tuple[int, int], seed: int, tau: float
) -> None:
    noise, upstream = random(2, *size, seed=seed + 1), random(2, *size, seed=seed + 2)
    gradients = []
    for mode in ("hard", "soft"):
        logits = random(2, *size, seed=seed).requires_grad_()
        slots = choose_slots(logits, noise=noise, tau=tau, mode=mode)
        slots.mask.backward(upstream)
        gradients.append(logits.grad)
    assert gradients[0] is not None
    assert torch.equal(gradients[0], gradients[1])
    soft = torch.softmax((random(2, *size, seed=seed) + noise) / tau, dim=-1)
    expected = soft * (upstream - (soft * upstream).sum(-1, keepdim=True)) / tau
    assert torch.allclose(gradients[0], expected, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(sizes(), st.integers(0, 2**31))
def test_temperature_never_changes_a_hard_choice(size: tuple[int, int], seed: int) -> None:
    logits, noise = random(3, *size, seed=seed), random(3, *size, seed=seed + 1)
    cold = choose_slots(logits, noise=noise, tau=0.01)
    assert torch.equal(cold.indices, choose_slots(logits, noise=noise, tau=3.0).indices)


def test_the_same_frame_may_fill_several_slots() -> None:
    logits = torch.full((1, 4, 6), -1.0)
    logits[:, :, 2] = 5
    slots = choose_slots(logits, noise=None, tau=1.0)
    assert slots.indices.tolist() == [[2, 2, 2, 2]]
    patches = random(1, 6, 3, 5)
    assert torch.equal(slots.gather(patches), patches[:, [2, 2, 2, 2]])
    assert slots.sorted_by_time().indices.tolist() == [[2, 2, 2, 2]]


def test_noise_draws_a_frame_with_its_softmax_probability() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(60_000, 1, 3)
    noise = gumbel_noise((60_000, 1, 3), generator=torch.Generator().manual_seed(1))
    picked = choose_slots(logits, noise=noise, tau=1.0).indices[:, 0]
    shares = picked.bincount(minlength=3) / 60_000
    assert torch.allclose(shares, torch.softmax(logits[0, 0], 0), atol=0.01)


@settings(max_examples=50, deadline=None)
@given(sizes(), st.integers(0, 2**31), st.sampled_from(["hard", "soft"]))
def test_sorting_only_moves_slots(size: tuple[int, int], seed: int, mode: str) -> None:
    slots = choose_slots(random(2, *size, seed=seed), noise=None, tau=1.0, mode=mode)  # type: ignore[arg-type]
    by_time = slots.sorted_by_time()
    assert (by_time.indices.diff(dim=1) >= 0).all()
    assert torch.equal(by_time.indices, slots.indices.sort(dim=1).values)
    assert torch.equal(by_time.mask.argmax(-1), by_time.indices)
    assert torch.allclose(by_time.mask.sum(1), slots.mask.sum(1), atol=1e-6)
    assert by_time.frame_scores is not None
    assert slots.frame_scores is not None
    assert torch.allclose(by_time.frame_scores, slots.frame_scores, atol=1e-6)
    assert torch.allclose(slots.frame_scores.sum(-1), torch.ones(2), atol=1e-5)


def test_uniform_slots_are_the_middles_of_equal_segments() -> None:
    slots = uniform_slots(2, 32, 4, torch.device("cpu"))
    assert slots.indices.tolist() == [[4, 12, 20, 28]] * 2
    assert slots.frame_scores is None
    assert torch.equal(slots.mask.argmax(-1), slots.indices)
    assert len(uniform_slots(1, 100, 16, torch.device("cpu")).indices.unique()) == 16


# --- gathering -----------------------------------------------------------------------------------


def plain_product(slots: FrameSlots, patches: Tensor) -> Tensor:
    return torch.einsum("rkn,rnpc->rkpc", slots.mask, patches.to(slots.mask.dtype))


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("chunk", [None, 1, 2, 4, 100])
@pytest.mark.parametrize("shared", [False, True])
def test_gather_and_its_gradient_are_those_of_the_plain_product(
    mode: str, chunk: int | None, shared: bool
) -> None:
    videos = torch.tensor([1, 0, 1]) if shared else None
    patches = random(2 if shared else 3, 5, 3, 4, seed=1)
    noise, upstream = random(3, 2, 5, seed=2), random(3, 2, 3, 4, seed=3)
    results = []
    for ours in (True, False):
        logits = random(3, 2, 5).requires_grad_()
        slots = choose_slots(logits, noise=noise, tau=0.7, mode=mode)  # type: ignore[arg-type]
        owned = patches if videos is None else patches[videos]
        out = (
            slots.gather(patches, videos=videos, chunk=chunk)
            if ours
            else plain_product(slots, owned)
        )
        out.backward(upstream)
        results.append((out.detach(), logits.grad))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert results[0][1] is not None
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


def test_half_precision_patches_give_the_gradient_of_their_single_precision_values() -> None:
    patches, upstream = random(2, 5, 3, 4, seed=1).half(), random(2, 2, 3, 4, seed=3)
    gradients = []
    for given_patches in (patches, patches.float()):
        logits = random(2, 2, 5).requires_grad_()
        gathered = choose_slots(logits, noise=None, tau=1.0).gather(given_patches, chunk=2)
        assert gathered.dtype == torch.float32
        gathered.backward(upstream)
        gradients.append(logits.grad)
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_gradient_of_soft_slots_is_right(chunk: int | None, shared: bool) -> None:
    videos = torch.tensor([0, 1, 0]) if shared else None
    logits = random(3, 2, 4).double().requires_grad_()
    patches = random(2 if shared else 3, 4, 2, 3, seed=1).double().requires_grad_()
    noise = random(3, 2, 4, seed=2).double()

    def gathered(logits: Tensor, patches: Tensor) -> Tensor:
        slots = choose_slots(logits, noise=noise, tau=0.7, mode="soft")
        return slots.gather(patches, videos=videos, chunk=chunk)

    assert torch.autograd.gradcheck(gathered, (logits, patches))


def test_hard_slots_pass_gradients_to_the_frames_they_hold() -> None:
    patches = random(2, 5, 3, 4, seed=1).requires_grad_()
    logits = random(2, 2, 5).requires_grad_()
    slots = choose_slots(logits, noise=None, tau=1.0)
    slots.gather(patches).sum().backward()
    assert patches.grad is not None
    held = slots.mask.detach().sum(1)[..., None, None]
    assert torch.equal(patches.grad, held.expand_as(patches))


def test_without_gradients_frames_are_looked_up_in_their_own_precision() -> None:
    patches = random(2, 5, 3, 4).half()
    slots = fixed_slots(torch.tensor([[4, 1], [0, 0]]), 5)
    assert torch.equal(slots.gather(patches)[0], patches[0, [4, 1]])
    with torch.no_grad():
        chosen = choose_slots(random(2, 2, 5), noise=None, tau=1.0).gather(patches)
    assert chosen.dtype == torch.float16


def test_gather_refuses_patches_of_other_frames_or_rows() -> None:
    slots = fixed_slots(torch.tensor([[4, 1], [0, 0]]), 5)
    with pytest.raises(DataError):
        slots.gather(random(2, 4, 3, 4))
    with pytest.raises(DataError):
        slots.gather(random(1, 5, 3, 4))


# --- the network ---------------------------------------------------------------------------------


def sampler_of(keep: int = 2, frames: int = 5, **options: object) -> SparseSampler:
    torch.manual_seed(0)
    return SparseSampler(frames, keep, 2, BlockOptions(12, 3), **options)  # type: ignore[arg-type]


def test_gradient_of_the_whole_sampler_is_right() -> None:
    sampler = sampler_of(mode="soft").double()
    noise = random(2, 2, 5, seed=4).double()
    frames = random(2, 5, 12).double().requires_grad_()
    sentence = random(2, 12, seed=5).double().requires_grad_()

    def mask(frames: Tensor, sentence: Tensor) -> Tensor:
        text = EncodedText(sentence, frames.detach(), torch.ones(2, 5))
        return sampler(frames, text, noise=noise, tau=0.8).mask

    assert torch.autograd.gradcheck(mask, (frames, sentence))


def test_a_block_is_the_divided_block_with_the_gate_in_front() -> None:
    block, frames, text = sampler_of().blocks[0], random(2, 5, 12), sentence_of(2)
    gated = block.gate(frames, text)
    attended = frames + block.attention(block.attention_norm(gated))  # from x, not from g
    expected = attended + block.mlp(block.mlp_norm(attended))
    assert torch.equal(block(frames, text), expected)


def test_scores_depend_on_the_question_the_frames_and_their_order() -> None:
    sampler, frames, text = sampler_of().eval(), random(2, 5, 12), sentence_of(2)
    logits = sampler.logits(frames, text)
    assert logits.shape == (2, 2, 5)
    assert not torch.allclose(logits, sampler.logits(frames, sentence_of(2, seed=9)))
    turned = sampler.logits(frames.flip(1), text).flip(2)
    assert not torch.allclose(logits, turned, atol=1e-4)
    with torch.no_grad():
        sampler.temporal.zero_()
    logits, turned = sampler.logits(frames, text), sampler.logits(frames.flip(1), text).flip(2)
    assert torch.allclose(logits, turned, atol=1e-5)


def test_every_parameter_of_the_sampler_learns_through_a_hard_choice() -> None:
    sampler, text = sampler_of(), sentence_of(2)
    noise = random(2, 2, 5, seed=4)
    slots = sampler(random(2, 5, 12), text, noise=noise)
    (slots.gather(random(2, 5, 3, 4, seed=6)) * random(2, 2, 3, 4, seed=7)).sum().backward()
    for name, parameter in sampler.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_fewer_frames_than_positions_are_fine_and_more_are_not() -> None:
    sampler, text = sampler_of(), sentence_of(2)
    assert sampler(random(2, 3, 12), text).indices.max() < 3
    with pytest.raises(DataError):
        sampler(random(2, 6, 12), text)


def test_sorted_slots_come_in_time_order() -> None:
    sampler, text = sampler_of(keep=4, frames=9, sort=True), sentence_of(3)
    slots = sampler(random(3, 9, 12), text, noise=random(3, 4, 9, seed=2))
    assert (slots.indices.diff(dim=1) >= 0).all()
