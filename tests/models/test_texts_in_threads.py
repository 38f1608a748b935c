"""Two threads read prompts with one tokenizer, as a training and its prefetching thread do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

from stages.models.backbones.catalog import backbone_path
from stages.models.backbones.text import encode_texts, ids_of, load_tokenizer

SHORT, LONG = "Which color?", "Where will the yellow triangle go next, left or right? " * 8


def test_threads_do_not_change_each_others_padding_and_cuts() -> None:
    tokenizer = load_tokenizer(backbone_path("tiny-blip2"), pad=0)

    def padded() -> torch.Tensor:
        return encode_texts(tokenizer, [SHORT, LONG], None, side="left")[0]

    def cut() -> torch.Tensor:
        return encode_texts(tokenizer, [LONG, SHORT], 20, side="right")[0]

    def plain() -> torch.Tensor:
        return torch.tensor(ids_of(tokenizer, LONG, special=False))

    ways = (padded, cut, plain)
    alone = [way() for way in ways]
    with ThreadPoolExecutor(len(ways)) as threads:
        for _ in range(300):
            together = [future.result() for future in [threads.submit(way) for way in ways]]
            for expected, found in zip(alone, together, strict=True):
                assert torch.equal(found, expected)
