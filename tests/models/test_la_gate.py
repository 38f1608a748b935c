"""The language-aware gate: its equations, its laws and its gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.core.errors import ConfigError
from stages.models.attention import BlockOptions
from stages.models.la_gate import CrossAttentionGate, EncodedText, LAGate, build_gate


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sentence_of(batch: int = 2, words: int = 5, width: int = 12, seed: int = 3) -> EncodedText:
    mask = torch.ones(batch, words, dtype=torch.long)
    mask[0, 3:] = 0
    sentence = random(batch, width, seed=seed)
    return EncodedText(sentence, random(batch, words, width, seed=seed + 1), mask)


def gate_of(width: int = 12, heads: int = 3, *, norm: bool = True) -> LAGate:
    torch.manual_seed(0)
    return LAGate(BlockOptions(width, heads, gate_norm=norm)).eval()


def test_gate_equals_its_equations_head_by_head() -> None:
    gate, visual, text = gate_of(), random(2, 4, 12), sentence_of()
    out = gate(visual, text)
    d = 4
    for b in range(2):
        key = gate.key.weight @ text.sentence[b]
        for i in range(4):
            normed = gate.norm(visual[b, i])
            query, value = gate.query.weight @ normed, gate.value.weight @ normed
            pieces = []
            for h in range(3):
                part = slice(h * d, (h + 1) * d)  # heads are concatenated in order
                cosine = (query[part] @ key[part]) / (query[part].norm() * key[part].norm())
                pieces.append(cosine * value[part])
            expected = visual[b, i] + gate.output.weight @ torch.cat(pieces)
            assert torch.allclose(out[b, i], expected, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.integers(0, 2**31), st.floats(0.1, 100))
def test_changing_one_token_changes_its_own_row_only(row: int, seed: int, size: float) -> None:
    gate, visual, text = gate_of(), random(2, 6, 12, seed=seed), sentence_of()
    changed = visual.clone()
    changed[1, row] += size * random(12, seed=seed + 1)
    before, after = gate(visual, text), gate(changed, text)
    others = [i for i in range(6) if i != row]
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1, others], after[1, others])
    assert not torch.allclose(before[1, row], after[1, row])


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 2**31))
def test_only_the_sentences_direction_matters(scale: float, seed: int) -> None:
    gate, visual, text = gate_of(), random(2, 6, 12, seed=seed), sentence_of(seed=seed)
    scaled = EncodedText(text.sentence * scale, text.words, text.mask)
    assert torch.allclose(gate(visual, text), gate(visual, scaled), atol=1e-5)
    turned = EncodedText(-text.sentence, text.words, text.mask)
    both = gate(visual, text) + gate(visual, turned)
    assert torch.allclose(both / 2, visual, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-6, 1e6))
def test_importance_is_a_cosine(seed: int, scale: float) -> None:
    gate = gate_of(norm=False)
    importance = gate.importance(random(2, 6, 12, seed=seed) * scale, sentence_of(seed=seed))
    assert importance.shape == (2, 6, 3)
    assert importance.abs().max() <= 1 + 1e-5


def test_a_zero_sentence_leaves_the_tokens_as_they_are() -> None:
    text = sentence_of()
    zero = EncodedText(torch.zeros_like(text.sentence), text.words, text.mask)
    visual = random(2, 6, 12).requires_grad_()
    out = gate_of()(visual, zero)
    assert torch.equal(out, visual)
    out.sum().backward()
    assert visual.grad is not None
    assert torch.isfinite(visual.grad).all()


def test_a_zero_token_stays_zero_and_gets_a_finite_gradient() -> None:
    visual = torch.zeros(2, 6, 12, requires_grad=True)
    out = gate_of(norm=False)(visual, sentence_of())
    assert torch.equal(out, visual)
    out.sum().backward()
    assert visual.grad is not None
    assert torch.isfinite(visual.grad).all()


def test_several_sentences_add_their_similarities() -> None:
    gate, visual = gate_of(), random(2, 6, 12)
    sentences = random(2, 3, 12, seed=8)
    change = gate.distil(visual, sentences) - visual
    apart = sum(gate.distil(visual, sentences[:, i]) - visual for i in range(3))
    assert torch.allclose(change, apart, atol=1e-5)


def test_words_do_not_reach_the_gate_and_reach_cross_attention() -> None:
    visual, text = random(2, 6, 12), sentence_of()
    other = EncodedText(text.sentence, text.words + 1, text.mask)
    assert torch.equal(gate_of()(visual, text), gate_of()(visual, other))
    torch.manual_seed(0)
    crossing = CrossAttentionGate(BlockOptions(12, 3)).eval()
    assert not torch.allclose(crossing(visual, text), crossing(visual, other))


def test_cross_attention_ignores_padding_and_is_as_large_as_the_gate() -> None:
    torch.manual_seed(0)
    crossing = build_gate(BlockOptions(12, 3, gate="cross_attention")).eval()
    visual, text = random(2, 6, 12), sentence_of()
    words = text.words.clone()
    words[0, 3:] = 99.0
    padded = EncodedText(text.sentence, words, text.mask)
    assert torch.equal(crossing(visual, text), crossing(visual, padded))
    sizes = [sum(p.numel() for p in module.parameters()) for module in (crossing, gate_of())]
    assert sizes == [4 * 12 * 12 + 2 * 12] * 2


@pytest.mark.parametrize("norm", [True, False])
def test_gradient_of_the_gate_is_right(norm: bool) -> None:
    gate = gate_of(norm=norm).double()
    visual = random(2, 3, 12).double().requires_grad_()
    sentence = random(2, 12, seed=5).double().requires_grad_()
    assert torch.autograd.gradcheck(gate.distil, (visual, sentence))
    parameters = tuple(gate.parameters())
    names = [name for name, _ in gate.named_parameters()]

    def of_weights(*weights: Tensor) -> Tensor:
        state = dict(zip(names, weights, strict=True))
        text = EncodedText(sentence.detach(), visual.detach(), torch.ones(2, 3))
        return torch.func.functional_call(gate, state, (visual.detach(), text))

    assert torch.autograd.gradcheck(of_weights, parameters)


def test_half_precision_gates_by_a_cosine_taken_in_single_precision() -> None:
    gate, text = gate_of(norm=False), sentence_of()
    visual = random(2, 6, 12) * 100
    exact = gate.importance(visual, text)
    half = gate.half().importance(visual.half(), text.to_dtype(torch.float16))
    assert half.dtype == torch.float32
    assert torch.allclose(half, exact, atol=0.02)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError):
        LAGate(BlockOptions(12, 5))
