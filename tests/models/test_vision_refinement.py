"""Divided space-time attention, refinement and fusion: who sees whom, and what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.core.errors import DataError
from stages.models.attention import BlockOptions, DividedAttention, SelfAttention
from stages.models.la_gate import EncodedText
from stages.models.vision_refinement import Fusion, RefinementBlock, Skip, VisionRefinement

K, P, D = 3, 4, 12
OPTIONS = BlockOptions(D, 3)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sentence_of(rows: int = 2, seed: int = 3) -> EncodedText:
    mask = torch.ones(rows, 4, dtype=torch.long)
    mask[0, 2:] = 0
    return EncodedText(random(rows, D, seed=seed), random(rows, 4, D, seed=seed + 1), mask)


def attention_of(axis: str) -> DividedAttention:
    torch.manual_seed(0)
    return DividedAttention(OPTIONS, axis).eval()  # type: ignore[arg-type]


def place(frame: int, patch: int) -> int:
    """Where a patch stands after CLS."""
    return 1 + frame * P + patch


@pytest.mark.parametrize("axis", ["time", "space"])
def test_divided_attention_is_full_attention_with_a_mask(axis: str) -> None:
    divided = attention_of(axis)
    tokens = random(2, 1 + K * P, D)
    seen = torch.zeros(1 + K * P, 1 + K * P, dtype=torch.bool)
    seen[0] = True  # CLS sees all
    seen[:, 0] = True  # all see CLS
    for frame in range(K):
        for patch in range(P):
            for other in range(K if axis == "time" else P):
                target = place(other, patch) if axis == "time" else place(frame, other)
                seen[place(frame, patch), target] = True
    query, key, value = divided.split(tokens)
    scores = query @ key.transpose(-1, -2) / (D // 3) ** 0.5
    weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1)
    expected = divided.join(weights @ value)
    assert torch.allclose(divided(tokens, K), expected, atol=1e-5)


@pytest.mark.parametrize("axis", ["time", "space"])
def test_cls_alone_equals_cls_among_all(axis: str) -> None:
    divided, tokens = attention_of(axis), random(2, 1 + K * P, D)
    assert torch.allclose(divided.cls_only(tokens), divided(tokens, K)[:, :1], atol=1e-6)


def test_self_attention_ignores_absent_tokens() -> None:
    torch.manual_seed(0)
    attention, tokens = SelfAttention(OPTIONS).eval(), random(2, 5, D)
    present = torch.ones(2, 5, dtype=torch.bool)
    present[0, 3:] = False
    changed = tokens.clone()
    changed[0, 3:] = 7.0
    before, after = attention(tokens, present), attention(changed, present)
    assert torch.equal(before[0, :3], after[0, :3])
    assert torch.allclose(attention(tokens[:1, :3])[0], before[0, :3], atol=1e-6)


@pytest.mark.parametrize("skip", ["gate", "input"])
def test_a_block_that_gives_only_cls_gives_the_same_cls(skip: Skip) -> None:
    torch.manual_seed(0)
    block, tokens, text = (
        RefinementBlock(OPTIONS, skip).eval(),
        random(2, 1 + K * P, D),
        sentence_of(),
    )
    whole = block(tokens, text, K)
    alone = block(tokens, text, K, cls_only=True)
    assert alone.shape == (2, 1, D)
    assert torch.allclose(alone, whole[:, :1], atol=1e-5)


@pytest.mark.parametrize("skip", ["gate", "input"])
def test_a_block_follows_its_formula(skip: Skip) -> None:
    torch.manual_seed(0)
    block, tokens, text = (
        RefinementBlock(OPTIONS, skip).eval(),
        random(2, 1 + K * P, D),
        sentence_of(),
    )
    gated = block.gate(tokens, text)
    start = gated if skip == "gate" else tokens
    timed = start + block.time(block.time_norm(gated), K)
    spaced = start + block.space(block.space_norm(timed), K)
    expected = spaced + block.mlp(block.mlp_norm(spaced))
    assert torch.allclose(block(tokens, text, K), expected, atol=1e-6)


def refinement_of(kind: str) -> VisionRefinement | Fusion:
    torch.manual_seed(0)
    build = VisionRefinement if kind == "refinement" else Fusion
    return build(K, P, 2, OPTIONS)


@pytest.mark.parametrize("kind", ["refinement", "fusion"])
def test_every_parameter_learns_from_one_vector(kind: str) -> None:
    module = refinement_of(kind)
    out = module(random(2, K, P, D), sentence_of())
    assert out.shape == (2, D)
    (out * random(2, D, seed=8)).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", ["refinement", "fusion"])
def test_batch_equals_single_rows(kind: str) -> None:
    module, patches, text = refinement_of(kind).eval(), random(2, K, P, D), sentence_of()
    both = module(patches, text)
    for i in range(2):
        row = text.rows(torch.tensor([i]))
        length = int(row.mask.sum())
        alone = EncodedText(row.sentence, row.words[:, :length], row.mask[:, :length])
        assert torch.allclose(module(patches[i : i + 1], alone)[0], both[i], atol=1e-5)


def test_refinement_reads_the_sentence_and_fusion_the_words() -> None:
    patches, text = random(2, K, P, D), sentence_of()
    other_words = EncodedText(text.sentence, random(2, 4, D, seed=7), text.mask)
    other_sentence = EncodedText(random(2, D, seed=9), text.words, text.mask)
    refinement, fusion = refinement_of("refinement").eval(), refinement_of("fusion").eval()
    assert torch.equal(refinement(patches, text), refinement(patches, other_words))
    assert not torch.allclose(refinement(patches, text), refinement(patches, other_sentence))
    assert torch.equal(fusion(patches, text), fusion(patches, other_sentence))
    assert not torch.allclose(fusion(patches, text), fusion(patches, other_words))


def test_slots_and_patches_have_places() -> None:
    refinement, patches, text = (
        refinement_of("refinement").eval(),
        random(2, K, P, D),
        sentence_of(),
    )
    before = refinement(patches, text)
    assert not torch.allclose(before, refinement(patches.flip(1), text), atol=1e-4)
    assert not torch.allclose(before, refinement(patches.flip(2), text), atol=1e-4)
    with torch.no_grad():
        refinement.tokens.temporal.zero_()
        refinement.tokens.spatial.zero_()
    before = refinement(patches, text)
    assert torch.allclose(before, refinement(patches.flip(1, 2), text), atol=1e-5)


def test_wrong_numbers_of_frames_or_patches_are_refused() -> None:
    for shape in ((2, K + 1, P, D), (2, K, P - 1, D)):
        with pytest.raises(DataError, match="expected 3 of 4"):
            refinement_of("refinement")(random(*shape), sentence_of())
