"""The sampler's first steps: CLIP's ranking is learnt, by the sampler alone, from no label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from stages.core.runtime import silent
from stages.models.backbones.clip import ClipMatcher
from stages.models.backbones.folder import BackboneFolder
from stages.models.sentences import Sentences
from stages.models.videodistill import VideoDistill
from stages.models.videodistill_config import VideoDistillConfig
from stages.models.videodistill_network import network_over
from stages.training.sampler_start import FrameTable, SamplerStartConfig, start_sampler

N, K = 6, 2
TEXTS = [f"{color} {shape}" for color in ("red", "green", "blue") for shape in ("circle", "square")]


class Tables:
    """Twelve questions on random frames."""

    def __init__(self, folder: BackboneFolder) -> None:
        self.sentences = Sentences.load(folder)
        self.cls = torch.randn(12, N, 16, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.cls)

    def table(self, indices: Sequence[int]) -> FrameTable:
        texts = [TEXTS[index % len(TEXTS)] for index in indices]
        return FrameTable(self.cls[list(indices)], self.sentences.encode(texts), None)


@pytest.fixture(scope="module")
def folder(random_clip_folder: Path) -> BackboneFolder:
    return BackboneFolder(random_clip_folder)


def network(folder: BackboneFolder, **changes: object) -> VideoDistill:
    torch.manual_seed(0)
    config = VideoDistillConfig.build(
        {"frames": N, "keep": K, "layers": 1, "width": 16, "heads": 2, "answers": 4, **changes}
    )
    return network_over(folder, config, torch.device("cpu"))


def agreement(model: VideoDistill, folder: BackboneFolder) -> float:
    """Share of slots that hold the frame most like the sentence by CLIP."""
    tables = Tables(folder)
    every = tables.table(range(12))
    texts = [TEXTS[index % len(TEXTS)] for index in range(12)]
    best = ClipMatcher.load(folder).similarity(every.cls, texts).argmax(dim=1)
    with torch.no_grad():
        slots = model.eval().select(every.cls, model.encode_text(every.tokens))
    return (slots.indices == best[:, None]).float().mean().item()


def start(model: VideoDistill, folder: BackboneFolder, steps: int, seed: int = 1) -> None:
    config = SamplerStartConfig(steps=steps, batch_size=8, lr=1e-2)
    start_sampler(model, folder, Tables(folder), config, seed, silent)


def test_the_slots_learn_to_hold_what_clip_ranks_first(folder: BackboneFolder) -> None:
    model = network(folder)
    before = agreement(model, folder)
    start(model, folder, 80)
    assert agreement(model, folder) > max(before, 0.8)


def test_only_the_sampler_learns_and_equal_arguments_give_equal_weights(
    folder: BackboneFolder,
) -> None:
    untouched, one, two = network(folder), network(folder), network(folder)
    start(one, folder, 3)
    start(two, folder, 3)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
        same = torch.equal(value, untouched.state_dict()[name])
        assert same == (not name.startswith(("sampler.", "project_cls."))) or "norm" in name
    assert all(parameter.grad is None for parameter in one.parameters())


def test_without_steps_or_sampler_nothing_happens(folder: BackboneFolder) -> None:
    plain, model = network(folder), network(folder)
    start(model, folder, 0)
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True)
    )
    start(network(folder, sampler="uniform"), folder, 2)
