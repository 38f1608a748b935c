"""What a (sentence, video) pair costs: multiply-adds of VideoDistill's blocks from its sizes.

v_cls* depends on the sentence, so retrieval pays this for every pair (specs/videodistill.md 6, 9).
CLIP's towers are not counted: videos and sentences pass them once.

Axes: N frames, K slots, P patches, C their width, D width, L layers, M words.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.models.videodistill_config import VideoDistillConfig


@dataclass(frozen=True)
class PairCost:
    """Floating-point operations (2 per multiply-add) of one pair, by part."""

    sampler: int
    """Projection of the CLS table, L blocks on N tokens and the scores; 0 without a sampler."""
    refinement: int
    """Projection of the chosen patches and L blocks on 1 + K * P tokens (and words: fusion)."""

    @property
    def total(self) -> int:
        """Both parts; the heads are a rounding error beside them."""
        return self.sampler + self.refinement


def pair_cost(
    config: VideoDistillConfig, *, patches: int, patch_width: int, cls_width: int, words: int
) -> PairCost:
    """Operations of `select` and `refine` for one pair; norms and element-wise work not counted."""
    return PairCost(
        2 * _sampler(config, cls_width, words) if config.samples else 0,
        2 * _refinement(config, patches, patch_width, words),
    )


def _sampler(config: VideoDistillConfig, cls_width: int, words: int) -> int:
    N, D = config.frames, config.width
    block = _gate(config, N, words) + _attention(D, N, N * N) + _mlp(config, N)
    return N * cls_width * D + config.layers * block + N * D * config.keep


def _refinement(config: VideoDistillConfig, patches: int, patch_width: int, words: int) -> int:
    K, D, L = config.keep, config.width, config.layers
    inputs = K * patches * patch_width * D
    m = 1 + K * patches
    if not config.refinement:
        m += words
        return inputs + L * (_attention(D, m, m * m) + _mlp(config, m))
    time = m + K * patches * (K + 1)  # CLS sees all; a patch sees K frames and CLS
    space = m + K * patches * (patches + 1)
    shared = _gate(config, m, words) + _attention(D, m, time)
    full = shared + _attention(D, m, space) + _mlp(config, m)
    # The last block finishes CLS alone, but all tokens are its keys and values.
    last = shared + (3 * m + 1) * D * D + 2 * m * D + _mlp(config, 1)
    return inputs + (L - 1) * full + last


def _gate(config: VideoDistillConfig, m: int, words: int) -> int:
    """Four layers of D x D, two of them on the sentence's side; and the similarities."""
    D = config.width
    if config.fusion == "cross_attention":
        return 2 * (m + words) * D * D + 2 * m * words * D
    return (3 * m + 1) * D * D + m * D


def _attention(width: int, m: int, pairs: int) -> int:
    """Queries, keys, values and output of m tokens; two products per pair that see each other."""
    return 4 * m * width * width + 2 * pairs * width


def _mlp(config: VideoDistillConfig, m: int) -> int:
    return 2 * m * config.mlp_ratio * config.width**2
