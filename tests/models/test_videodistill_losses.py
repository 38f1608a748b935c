"""Matching, exchanging, contrasting and hiding words: VideoDistill's losses as laws."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.core.errors import DataError
from stages.models.matching import (
    by_question,
    choice_loss,
    contrastive_loss,
    exchange_captions,
    matched_scores,
    matching_loss,
)
from stages.models.mlm import GuidedWordHead, guided_word_loss, inner_words, mask_captions
from stages.models.text_tower import TokenIds


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def captions_of(rows: int, length: int = 10, seed: int = 0) -> TokenIds:
    """Begin = 1, end = 2 = padding, words from 3 on; lengths differ."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 1000, (rows, length), generator=generator)
    lengths = torch.randint(2, length + 1, (rows, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    ids[:, 0] = 1
    ids[torch.arange(length) >= lengths - 1] = 2
    return TokenIds(ids, mask)


# --- exchanging ----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**31), st.floats(0, 1))
def test_exchanges_are_between_two(rows: int, seed: int, probability: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    exchange = exchange_captions(captions_of(rows), generator, probability=probability)
    everyone = torch.arange(rows)
    assert torch.equal(exchange.source[exchange.source], everyone)
    assert torch.equal(exchange.source.sort().values, everyone)
    assert torch.equal(exchange.matched, exchange.source == everyone)


def test_half_of_the_pairs_are_exchanged_and_the_ends_are_exact() -> None:
    captions, generator = captions_of(4_000, 12), torch.Generator().manual_seed(0)
    shares = [
        exchange_captions(captions, generator, probability=p).matched.float().mean().item()
        for p in (0.0, 0.5, 1.0)
    ]
    assert shares[0] == 1
    assert shares[1] == pytest.approx(0.5, abs=0.03)
    # A few of the shortest captions are equal, and equal captions stay matched.
    assert shares[2] < 0.05


def test_equal_captions_stay_matched_when_exchanged() -> None:
    captions = captions_of(1).rows(torch.zeros(6, dtype=torch.long))
    padding = captions.ids.clone()
    padding[:3, captions.mask[0] == 0] = 0  # what is under the padding does not matter
    exchange = exchange_captions(
        TokenIds(padding, captions.mask), torch.Generator().manual_seed(0), probability=1.0
    )
    assert (exchange.source != torch.arange(6)).all()
    assert exchange.matched.all()


# --- matching and choosing -----------------------------------------------------------------------


def test_matching_is_the_negative_log_likelihood_of_the_pair() -> None:
    logits, matched = random(5, 2), torch.tensor([True, False, True, True, False])
    expected = -torch.log_softmax(logits, dim=-1)[torch.arange(5), matched.long()].mean()
    assert torch.allclose(matching_loss(logits, matched), expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 2**31))
def test_candidates_return_to_their_questions(counts: list[int], seed: int) -> None:
    scores = random(sum(counts), seed=seed)
    table = by_question(scores, counts)
    assert torch.equal(table[torch.isfinite(table)], scores)
    assert torch.isfinite(table).sum(1).tolist() == counts
    answers = torch.tensor([seed % count for count in counts])
    logits = random(sum(counts), 2, seed=seed)
    parts = matched_scores(logits).split(counts)
    expected = torch.stack(
        [F.cross_entropy(part, answer) for part, answer in zip(parts, answers, strict=True)]
    )
    assert torch.allclose(choice_loss(logits, counts, answers), expected.mean(), atol=1e-5)


def test_choice_by_matching_labels_each_candidate() -> None:
    logits, counts, answers = random(5, 2), (3, 2), torch.tensor([2, 0])
    right = torch.tensor([False, False, True, True, False])
    assert torch.allclose(
        choice_loss(logits, counts, answers, loss="vtm"), matching_loss(logits, right)
    )


def test_the_margin_counts_the_other_logit_too() -> None:
    logits = torch.tensor([[5.0, 2.0], [0.0, 1.0]])
    assert matched_scores(logits).argmax() == 0
    assert matched_scores(logits, "margin").argmax() == 1


def test_counts_must_fit_the_candidates() -> None:
    with pytest.raises(DataError):
        by_question(random(5), (3, 3))


# --- contrasting ---------------------------------------------------------------------------------


def test_contrastive_loss_is_its_equation() -> None:
    video, text = random(4, 6), random(4, 6, seed=1)
    cosine = torch.stack([F.cosine_similarity(v[None], text) for v in video])
    expected = -torch.log_softmax(cosine / 0.07, dim=-1).diagonal().mean()
    everyone = torch.ones(4, dtype=torch.bool)
    for negatives in ("batch", "matched"):
        loss = contrastive_loss(video, text, everyone, negatives=negatives)  # type: ignore[arg-type]
        assert torch.allclose(loss, expected, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=8), st.integers(0, 2**31))
def test_exchanged_pairs_never_enter_the_contrastive_loss(flags: list[bool], seed: int) -> None:
    matched, rows = torch.tensor(flags), len(flags)
    for negatives in ("batch", "matched"):
        video = random(rows, 6, seed=seed).requires_grad_()
        text = random(rows, 6, seed=seed + 1).requires_grad_()
        loss = contrastive_loss(video, text, matched, negatives=negatives)  # type: ignore[arg-type]
        assert torch.isfinite(loss)
        loss.backward()
        assert video.grad is not None
        assert text.grad is not None
        assert (video.grad[~matched] == 0).all()
        if negatives == "matched":
            assert (text.grad[~matched] == 0).all()
            subset = contrastive_loss(video[matched], text[matched], matched[matched])
            assert torch.allclose(loss, subset, atol=1e-6)


# --- hiding words --------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(2, 14), st.integers(0, 2**31))
def test_only_words_are_hidden_and_at_least_one(rows: int, length: int, seed: int) -> None:
    captions = captions_of(rows, length, seed)
    masked = mask_captions(captions, 1000, torch.Generator().manual_seed(seed))
    words = inner_words(captions.mask)
    assert torch.equal(words, (captions.ids > 2) & (captions.mask == 1))
    assert not (masked.hidden & ~words).any()
    assert torch.equal(masked.hidden.any(1), words.any(1))
    assert not (masked.masked & ~masked.hidden).any()
    assert torch.equal(masked.ids[~masked.hidden], captions.ids[~masked.hidden])
    assert torch.equal(masked.ids[masked.masked], captions.ids[masked.masked])


def test_words_are_hidden_by_berts_shares() -> None:
    captions = TokenIds(torch.full((400, 77), 5), torch.ones(400, 77, dtype=torch.long))
    masked = mask_captions(captions, 50_000, torch.Generator().manual_seed(0))
    hidden = masked.hidden.float().sum()
    assert hidden / (400 * 75) == pytest.approx(0.15, abs=0.01)
    assert masked.masked.sum() / hidden == pytest.approx(0.8, abs=0.02)
    assert (masked.ids != 5).sum() / hidden == pytest.approx(0.1, abs=0.02)
    again = mask_captions(captions, 50_000, torch.Generator().manual_seed(0))
    assert torch.equal(masked.ids, again.ids)


def test_guided_word_loss_counts_hidden_words_only() -> None:
    torch.manual_seed(0)
    head = GuidedWordHead(6, 20)
    words, v_cls = random(2, 4, 6), random(2, 6, seed=1)
    ids = torch.tensor([[1, 7, 8, 2], [1, 9, 4, 2]])
    hidden = torch.tensor([[False, True, True, False], [False, False, True, False]])
    loss = guided_word_loss(head, words, v_cls, hidden, ids)
    logs = [
        torch.log_softmax(head(words[r, i][None], v_cls[r][None])[0], -1)[ids[r, i]]
        for r, i in ((0, 1), (0, 2), (1, 2))
    ]
    assert torch.allclose(loss, -torch.stack(logs).mean(), atol=1e-6)
    assert guided_word_loss(head, words, v_cls, hidden & False, ids) == 0
