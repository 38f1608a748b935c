"""VideoDistill at the paper's size on the meta device: names, counts and cost per part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stages.models.la_gate import EncodedText
from stages.models.parameters import parameter_counts
from stages.models.text_tower import TextTower
from stages.models.videodistill import VideoDistill
from stages.models.videodistill_config import PAPER, TABLE_4, VideoDistillConfig
from stages.models.videodistill_cost import pair_cost

CLIP_B16_TEXT: dict[str, Any] = {
    "vocab_size": 49_408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
}
D, L, N, K, P, C, T, V = 1024, 3, 100, 16, 196, 768, 512, 49_408
ANSWERS = 1_500


def on_meta(
    *, answers: int | None = ANSWERS, captions: bool = True, **changes: Any
) -> VideoDistill:
    config = VideoDistillConfig(**{**PAPER, "answers": answers, **changes})
    with torch.device("meta"):
        text = TextTower.from_config(CLIP_B16_TEXT)
        return VideoDistill(text, config, patches=P, patch_width=C, with_captions=captions)


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


NORM = 2 * D
GATE = 4 * D * D + NORM
ATTENTION = linear(D, 3 * D) + linear(D, D) + NORM
MLP = linear(D, 4 * D) + linear(4 * D, D) + NORM
BY_PART = {
    "text": V * T + 77 * T + 2 * T + T  # embeddings, last norm, mask embedding
    + 12 * (4 * linear(T, T) + linear(T, 4 * T) + linear(4 * T, T) + 4 * T),
    "project_text": 2 * T + linear(T, D),
    "project_patches": 2 * C + linear(C, D),
    "project_cls": 2 * C + linear(C, D),
    "sampler": N * D + L * (GATE + ATTENTION + MLP) + D * K,
    "refinement": (1 + K + P) * D + L * (GATE + 2 * ATTENTION + MLP) + NORM,
    "matched": linear(D, 2),
    "answer": linear(D, D) + linear(D, ANSWERS),
    "mlm": linear(2 * D, D) + linear(D, V),
}  # fmt: skip


def test_parameter_counts_per_part_are_what_the_papers_sizes_imply() -> None:
    counts = parameter_counts(on_meta())
    for part, count in counts.items():
        print(f"{part:16} {count:>12,}")  # noqa: T201 (shown by pytest -s)
    trainable, total = counts.pop("trainable"), counts.pop("total")
    assert counts == BY_PART
    assert total == sum(BY_PART.values())
    assert counts["text"] == 63_165_952 + T  # CLIP's text tower, and the mask embedding
    assert total - trainable == T  # which only pre-training may train


def test_every_row_of_table_4_has_the_size_that_its_change_implies() -> None:
    def parts(row: str) -> dict[str, int]:
        return parameter_counts(on_meta(captions=False, **TABLE_4[row]))

    full = parts("f")
    fusion = (1 + K + P) * D + L * (ATTENTION + MLP) + NORM
    without_sampler = full["total"] - full["sampler"] - full["project_cls"]
    assert parts("a")["total"] == without_sampler - full["refinement"] + fusion
    assert parts("b")["total"] == without_sampler
    assert parts("c") == full
    assert parts("d")["total"] == full["total"] - full["refinement"] + fusion
    assert parts("e") == full  # cross-attention is as large as the gate


@pytest.mark.parametrize("row", sorted(TABLE_4))
def test_cost_of_a_pair_is_what_torch_counts(row: str) -> None:
    """On a small network of uneven sizes, and printed for the full one."""
    words, width, patches, frames, keep, inputs = 7, 24, 5, 11, 3, 20
    config = VideoDistillConfig(
        frames=frames, keep=keep, layers=2, width=width, heads=3, **TABLE_4[row]
    )
    text_config = CLIP_B16_TEXT | {"hidden_size": 16, "num_hidden_layers": 1}
    text = TextTower.from_config(text_config)
    model = VideoDistill(text, config, patches=patches, patch_width=inputs, cls_width=18).eval()
    sentence = EncodedText(
        torch.zeros(1, width), torch.zeros(1, words, width), torch.ones(1, words)
    )
    sizes = {"patches": patches, "patch_width": inputs, "cls_width": 18, "words": words}
    cost = pair_cost(config, **sizes)
    # The fused kernels of the CPU are not in torch's counter; the plain one is the same sum.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as selecting:
            model.select(torch.zeros(1, frames, 18), sentence)
        with FlopCounterMode(display=False) as refining:
            model.refine(torch.zeros(1, keep, patches, inputs), sentence)
    assert selecting.get_total_flops() == cost.sampler
    assert refining.get_total_flops() == cost.refinement
    full_config = VideoDistillConfig(**PAPER, **TABLE_4[row])
    full = pair_cost(full_config, patches=P, patch_width=C, cls_width=C, words=20)
    print(row, f"{full.sampler / 1e9:.1f} + {full.refinement / 1e9:.1f} GFLOP")  # noqa: T201


def test_names_of_the_parameters_are_stable() -> None:
    names = set(dict(on_meta(captions=False).named_parameters()))
    for name in (
        "text.model.embeddings.token_embedding.weight",
        "text.model.encoder.layers.11.self_attn.q_proj.weight",
        "text.model.final_layer_norm.bias",
        "text.mask_embedding",
        "project_text.norm.weight",
        "project_patches.linear.bias",
        "project_cls.linear.weight",
        "sampler.temporal",
        "sampler.blocks.2.gate.key.weight",
        "sampler.blocks.0.attention.qkv.weight",
        "sampler.scores.weight",
        "refinement.tokens.cls",
        "refinement.tokens.temporal",
        "refinement.tokens.spatial",
        "refinement.blocks.1.time.output.weight",
        "refinement.blocks.1.space.qkv.bias",
        "refinement.blocks.0.mlp.expand.weight",
        "refinement.norm.weight",
        "answer.hidden.weight",
        "answer.vocabulary.weight",
        "matched.weight",
    ):
        assert name in names, name
    layouts = {name.split(".")[0] for name in names}
    assert layouts == set(BY_PART) - {"mlm"}
