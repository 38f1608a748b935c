"""ATP and differentiable top-K: laws of the scorer, of the soft choice and of its gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.core.errors import ConfigError, DataError
from stages.models.atp import Atp
from stages.models.frame_scorer import FrameScorer, mean_words
from stages.models.perturbed_top_k import (
    DifferentiableTopK,
    normal_noise,
    perturbed_top_k,
    unit_range,
)
from stages.models.selectors import QuestionText, gumbel_noise

C, D = 12, 10


@pytest.fixture
def scorer() -> FrameScorer:
    torch.manual_seed(0)
    return FrameScorer(C, D, width=16, layers=1, heads=2).eval()


def draw(batch: int = 2, frames: int = 6) -> tuple[Tensor, QuestionText]:
    generator = torch.Generator().manual_seed(1)
    words = torch.randn(batch, 5, D, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * batch)
    return torch.randn(batch, frames, 3, C, generator=generator), QuestionText(words, mask)


# --- the scorer ----------------------------------------------------------------------------------


@torch.no_grad()
def test_the_order_of_frames_does_not_matter(scorer: FrameScorer) -> None:
    frames, question = draw()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    scores = scorer(frames, question)
    assert torch.allclose(scorer(frames[:, order], question), scores[:, order], atol=1e-5)


@torch.no_grad()
def test_the_question_matters_and_its_padding_does_not(scorer: FrameScorer) -> None:
    frames, question = draw()
    padded = question.embeddings.clone()
    padded[:, 3:] = 100
    assert torch.equal(mean_words(QuestionText(padded, question.mask)), mean_words(question))
    other = QuestionText(-question.embeddings, question.mask)
    assert not torch.allclose(scorer(frames, question), scorer(frames, other))
    with pytest.raises(DataError, match="question"):
        scorer(frames)
    blind = FrameScorer(C, width=16, layers=1, heads=2)
    assert blind(frames).shape == (2, 6)


# --- ATP -----------------------------------------------------------------------------------------


def test_atp_keeps_one_frame_and_learns_through_it(scorer: FrameScorer) -> None:
    frames, question = draw()
    atp = Atp(scorer)
    selection = atp(frames, question=question)
    best = scorer(frames, question).argmax(dim=1)
    assert torch.equal(selection.indices[:, 0], best)
    kept = selection.gather(frames)
    assert torch.equal(kept[:, 0], frames[torch.arange(2), best])
    kept.sum().backward()
    assert scorer.score.weight.grad is not None
    assert scorer.score.weight.grad.abs().sum() > 0


def test_atp_draws_frames_with_noise_and_takes_the_best_ones_in_evaluation(
    scorer: FrameScorer,
) -> None:
    frames, question = draw(batch=1)
    atp = Atp(scorer)
    generator = torch.Generator().manual_seed(0)
    drawn = {
        int(atp(frames, question=question, noise=gumbel_noise((1, 1, 6), generator=generator))
            .indices)
        for _ in range(40)
    }  # fmt: skip
    assert len(drawn) > 1
    chosen = atp.select(frames, 3, question)
    scores = scorer(frames, question)
    assert torch.equal(chosen.indices, scores.topk(3, dim=1).indices.sort(dim=1).values)


# --- perturbed top-K -----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-20, 20), min_size=5, max_size=5, unique=True),
    st.integers(1, 5),
    st.integers(0, 1000),
)
def test_rows_become_one_hot_as_sigma_goes_to_zero(values: list[int], keep: int, seed: int) -> None:
    scores = torch.tensor([values], dtype=torch.float32)
    noise = normal_noise(1, 50, 5, torch.Generator().manual_seed(seed))
    soft = perturbed_top_k(scores, keep, noise, sigma=1e-4)
    expected = torch.zeros(1, keep, 5)
    for row, index in enumerate(sorted(scores[0].topk(keep).indices.tolist())):
        expected[0, row, index] = 1
    assert torch.allclose(soft, expected, atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 5), st.floats(0.01, 5), st.integers(0, 1000))
def test_rows_are_shares_and_frames_are_kept_at_most_once(
    keep: int, sigma: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 5, generator=generator)
    soft = perturbed_top_k(scores, keep, normal_noise(2, 40, 5, generator), sigma)
    assert (soft >= 0).all()
    assert torch.allclose(soft.sum(dim=2), torch.ones(2, keep), atol=1e-5)
    assert (soft.sum(dim=1) <= 1 + 1e-5).all()


def test_the_gradient_is_that_of_the_expectation() -> None:
    """Against finite differences of the mean over many draws of a smooth function of the choice."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor([[0.3, -0.2, 0.5, 0.1]], dtype=torch.float64)
    noise = torch.randn(1, 400_000, 4, generator=generator, dtype=torch.float64)
    weights = torch.tensor([[[1.0, -2.0, 0.5, 3.0], [0.7, 1.5, -1.0, 2.0]]], dtype=torch.float64)
    sigma, step = 0.5, 0.05

    def value(at: Tensor) -> Tensor:
        return (perturbed_top_k(at, 2, noise, sigma) * weights).sum()

    asked = scores.clone().requires_grad_()
    value(asked).backward()
    assert asked.grad is not None
    for index in range(4):
        shift = torch.zeros_like(scores)
        shift[0, index] = step
        slope = ((value(scores + shift) - value(scores - shift)) / (2 * step)).item()
        assert asked.grad[0, index].item() == pytest.approx(slope, abs=0.03)
    assert asked.grad.abs().max() > 0.3


def test_soft_in_training_and_plain_in_evaluation(scorer: FrameScorer) -> None:
    frames, question = draw()
    selector = DifferentiableTopK(scorer, 3, sigma=0.3, draws=60)
    hard = selector.eval()(frames, question=question)
    assert torch.equal(hard.indicators.argmax(dim=2), hard.indices)
    rows = torch.arange(2)[:, None]
    assert torch.allclose(hard.gather(frames), frames[rows, hard.indices])
    assert torch.equal(selector.select(frames, 3, question).indices, hard.indices)

    selector.train()
    scorer.eval()  # no dropout: only the noise is random
    noise = normal_noise(2, 60, 6, torch.Generator().manual_seed(0))
    soft = selector(frames, noise=noise, question=question)
    assert ((soft.indicators > 0) & (soft.indicators < 1)).any()
    soft.gather(frames).square().sum().backward()
    assert scorer.score.weight.grad is not None
    assert scorer.score.weight.grad.abs().sum() > 0
    assert selector(frames, question=question).indicators.shape == (2, 3, 6)


def test_scores_are_scaled_to_the_unit_range() -> None:
    scaled = unit_range(torch.tensor([[2.0, 4.0, 3.0], [7.0, 7.0, 7.0]]))
    assert scaled.tolist() == [[0, 1, 0.5], [0, 0, 0]]


def test_impossible_settings_are_refused(scorer: FrameScorer) -> None:
    with pytest.raises(ConfigError):
        perturbed_top_k(torch.zeros(1, 4), 5, torch.zeros(1, 2, 4), 0.1)
    for wrong in ({"keep": 0}, {"keep": 2, "sigma": 0.0}, {"keep": 2, "draws": 0}):
        with pytest.raises(ConfigError):
            DifferentiableTopK(scorer, **wrong)  # type: ignore[arg-type]
