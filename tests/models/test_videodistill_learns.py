"""VideoDistill learns: 32 samples by heart, pairs by matching, and where to look."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stages.models.text_tower import TextTower, TokenIds
from stages.models.videodistill import (
    Choice,
    Contrastive,
    OpenEnded,
    Task,
    VideoDistill,
    VideoFeatures,
)
from stages.models.videodistill_config import TABLE_4, VideoDistillConfig

TEXT: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
N, K, P, C, ANSWERS = 8, 2, 4, 12, 6


def model_of(task: Task, **changes: Any) -> VideoDistill:
    torch.manual_seed(0)
    values = {"frames": N, "keep": K, "layers": 2, "width": 32, "heads": 4, "answers": ANSWERS}
    config = VideoDistillConfig(**{**values, **changes})
    model = VideoDistill(
        TextTower.from_config(TEXT), config, patches=P, patch_width=C, with_captions=True
    )
    return model.train_for(task).train()


def optimiser_of(model: VideoDistill, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)


def random_pairs(rows: int) -> tuple[VideoFeatures, TokenIds, torch.Generator]:
    generator = torch.Generator().manual_seed(1)
    cls = torch.randn(rows, N, C, generator=generator)
    patches = torch.randn(rows, N, P, C, generator=generator)
    ids = torch.randint(3, 24, (rows, 8), generator=generator)
    ids[:, 0], ids[:, -1] = 1, 2
    return VideoFeatures(cls, patches), TokenIds(ids, torch.ones_like(ids)), generator


def step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def asked_frames(
    rows: int, generator: torch.Generator
) -> tuple[VideoFeatures, TokenIds, Tensor, Tensor]:
    """Four of eight frames show one topic each, and in their patches one of four answers each;
    the question names a topic. Also the right answers and the frames asked for."""
    topics, code = 4, 3 * torch.eye(C)
    cls = 0.1 * torch.randn(rows, N, C, generator=generator)
    patches = 0.1 * torch.randn(rows, N, P, C, generator=generator)
    where = torch.rand(rows, N, generator=generator).argsort(dim=1)[:, :topics]
    answers = torch.randint(0, 4, (rows, topics), generator=generator)
    everyone = torch.arange(rows)
    cls[everyone[:, None], where] += code[:topics]
    patches[everyone[:, None], where] += code[topics + answers][:, :, None]
    asked = torch.randint(0, topics, (rows,), generator=generator)
    ids = torch.stack([torch.ones_like(asked), 3 + asked, torch.full_like(asked, 2)], dim=1)
    tokens = TokenIds(ids, torch.ones_like(ids))
    return VideoFeatures(cls, patches), tokens, answers[everyone, asked], where[everyone, asked]


@torch.no_grad()
def answers_of(model: VideoDistill, video: VideoFeatures, tokens: TokenIds) -> Tensor:
    model.eval()
    logits = model.answer_logits(model.see(video, model.encode_text(tokens)).v_cls)
    model.train()
    return logits.argmax(dim=1)


@pytest.mark.parametrize("row", sorted(TABLE_4))
def test_32_samples_are_learnt_by_heart(row: str) -> None:
    model = model_of("open-ended", **TABLE_4[row])
    video, tokens, generator = random_pairs(32)
    answers = torch.randint(0, ANSWERS, (32,), generator=generator)
    optimiser = optimiser_of(model, 3e-3)
    for i in range(1, 201):
        noise = model.draw_noise(32, N, generator)
        step(optimiser, model(video, tokens, OpenEnded(answers), noise=noise).loss)
        if i % 20 == 0 and torch.equal(answers_of(model, video, tokens), answers):
            return
    pytest.fail("less than 100 % after 200 steps")


def test_one_question_is_answered_from_32_videos() -> None:
    """With the same words in every row only the video can tell the answers apart."""
    model = model_of("open-ended")
    video, tokens, generator = random_pairs(32)
    same = tokens.rows(torch.zeros(32, dtype=torch.long))
    answers = torch.randint(0, ANSWERS, (32,), generator=generator)
    optimiser = optimiser_of(model, 3e-3)
    for i in range(1, 401):
        noise = model.draw_noise(32, N, generator)
        step(optimiser, model(video, same, OpenEnded(answers), noise=noise).loss)
        if i % 20 == 0 and torch.equal(answers_of(model, video, same), answers):
            return
    pytest.fail("less than 100 % after 400 steps")


def test_the_sampler_learns_to_look_where_the_question_asks() -> None:
    """On new videos; two slots, four topics, so that no fixed choice can do it."""
    model, generator = model_of("open-ended", layers=1), torch.Generator().manual_seed(1)
    optimiser = optimiser_of(model, 1e-3)
    for _ in range(250):
        video, tokens, answers, _ = asked_frames(48, generator)
        noise = model.draw_noise(48, N, generator)
        step(optimiser, model(video, tokens, OpenEnded(answers), noise=noise).loss)
    model.eval()
    video, tokens, answers, wanted = asked_frames(400, generator)
    text = model.encode_text(tokens)
    recall = (model.select(video.cls, text).indices == wanted[:, None]).any(dim=1).float().mean()
    assert recall > 0.9  # 0.23 at random, 0.5 without the question
    assert (answers_of(model, video, tokens) == answers).float().mean() > 0.9
    noise_video = model.gaussian_video(400, video.cls, video.patches, generator)
    blind = (answers_of(model, noise_video, tokens) == answers).float().mean()
    assert blind < 0.4  # chance is 0.25


def shown_topics(
    rows: int, generator: torch.Generator
) -> tuple[VideoFeatures, TokenIds, torch.Generator]:
    """Every frame of a video shows one of eight topics; its caption names it twice."""
    topic = torch.randint(0, 8, (rows,), generator=generator)
    code = 2 * torch.eye(C)[topic]
    cls = code[:, None] + 0.3 * torch.randn(rows, N, C, generator=generator)
    patches = code[:, None, None] + 0.3 * torch.randn(rows, N, P, C, generator=generator)
    begin, end = torch.ones_like(topic), torch.full_like(topic, 2)
    ids = torch.stack([begin, 3 + topic, 3 + topic, end], dim=1)
    return VideoFeatures(cls, patches), TokenIds(ids, torch.ones_like(ids)), generator


@pytest.mark.parametrize("loss", ["cross_entropy", "vtm"])
def test_multiple_choice_generalises_to_new_videos(loss: str) -> None:
    """Which of two captions belongs to the video."""
    model = model_of("choice", choice_loss=loss, layers=1)
    optimiser, generator = optimiser_of(model, 3e-3), torch.Generator().manual_seed(1)
    shares = []
    for _ in range(200):
        video, tokens, _ = shown_topics(16, generator)
        wrong = tokens.ids.clone()
        other = (tokens.ids[:, 1:3] - 3 + torch.randint(1, 8, (16, 1), generator=generator)) % 8
        wrong[:, 1:3] = other + 3
        right = torch.randint(0, 2, (16,), generator=generator)
        first = torch.where(right[:, None] == 0, tokens.ids, wrong)
        second = torch.where(right[:, None] == 0, wrong, tokens.ids)
        ids = torch.stack([first, second], dim=1).flatten(0, 1)
        candidates, videos = (
            TokenIds(ids, torch.ones_like(ids)),
            torch.arange(16).repeat_interleave(2),
        )
        noise = model.draw_noise(32, N, generator)
        output = model(video, candidates, Choice((2,) * 16, right), videos=videos, noise=noise)
        step(optimiser, output.loss)
        shares.append((output.logits.argmax(1) == right).float().mean().item())
        if len(shares) > 10 and sum(shares[-10:]) / 10 > 0.97:
            return
    pytest.fail(f"{sum(shares[-10:]) / 10:.2f} right after 200 steps")


def test_contrastive_training_brings_pairs_together() -> None:
    model = model_of("contrastive", layers=1)
    video, tokens, generator = random_pairs(16)
    optimiser = optimiser_of(model, 3e-3)
    for _ in range(100):
        output = model(video, tokens, Contrastive(), noise=model.draw_noise(16, N, generator))
        step(optimiser, output.loss)
        if torch.equal(output.logits.argmax(1), torch.arange(16)):
            return
    pytest.fail("a caption is nearer to another video after 100 steps")


def test_all_pretraining_losses_fall_on_new_videos() -> None:
    model = model_of("captions", layers=1)
    optimiser, generator = optimiser_of(model, 3e-3), torch.Generator().manual_seed(1)
    history = []
    for _ in range(150):
        video, tokens, _ = shown_topics(32, generator)
        target = model.draw_captions(tokens, generator)
        output = model(video, tokens, target, noise=model.draw_noise(32, N, generator))
        step(optimiser, output.loss)
        history.append({name: part.item() for name, part in output.parts.items()})
    # Captions repeat within a batch, so the contrastive loss cannot come near zero.
    for name, share in (("vtm", 0.5), ("contrastive", 0.8), ("mlm", 0.7)):
        first, last = (sum(h[name] for h in part) / 20 for part in (history[:20], history[-20:]))
        assert last < share * first, (name, first, last)
