"""How much memory a stage needs at its peak, from sizes alone: nothing is loaded to find out.

What is counted: the libraries, the networks' weights, what training holds beside them, the features
of a batch, the values that one layer (in training: every layer) works on, and what a shard becomes
on its way to the disk. File pages that the system may drop again are not: features are read through
memory maps. `benchmarks/memory_estimate.py` holds the figures against measured ones.

Axes: B questions a batch, T frames seen, K frames kept, N tokens a frame, C vision width, L text
length with visual tokens, H, D widths, R rows of a shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stages.core.memory import Peak
from stages.models.backbones.sizes import (
    BackboneSize,
    LanguageSize,
    QformerSize,
    TowerSize,
    backbone_size,
    tower_size,
)
from stages.models.videodistill_config import VideoDistillConfig

FLOAT = 4
WITH_TORCH = 600_000_000
"""The interpreter with torch, transformers, pyarrow, h5py and accelerate: 510 to 600 MB resident
with a CPU build of torch 2."""
WORKER = 95_000_000
"""A decode process with its decoder, but for its frames: 73 to 88 MB."""
CONTEXT = 800_000_000
"""What CUDA and its libraries take on the device before any tensor (assumed, not measured)."""
HOST_CONTEXT = 2_000_000_000
"""The same in the process (assumed, not measured)."""
WORDS = 80
"""Pieces of a prompt."""
OPTIONS = 5
PAIRS_OF_A_QUESTION = {"choice": OPTIONS, "matching": 3, "captions": 3}
"""VideoDistill: each option is a text of its own; a caption comes with exchanged ones."""
READ_AHEAD = 2
"""Videos that a decode process works ahead."""
SHARD_COPIES = 3.2
"""A shard's bytes on the way out: its videos, the joined array, and the file built in memory."""
SAVED_COPIES = 6
"""Of trained weights while a state is saved: weights and two moments, as bytes and as a file."""
TRAINED_COPIES = 4
"""Of trained weights in float32: the weight, its gradient, Adam's two moments."""


def _placed(device: str, networks: float, computing: float, reading: float) -> Peak:
    """`networks` and `computing` where the networks are, `reading` where files are read."""
    if device == "cpu":
        return Peak(int(WITH_TORCH + networks + computing + reading), least_bytes=int(networks))
    held = CONTEXT + networks + computing
    return Peak(int(WITH_TORCH + HOST_CONTEXT + reading), 0, int(held), int(networks))


# --- decoding and encoding -----------------------------------------------------------------------


def decoding_peak(*, frames: int, pixels: int, workers: int, shard_bytes: float) -> Peak:
    """`extract-frames`: decoders, what they have ahead, and a shard.

    Args:
        frames: Frames of a video, over all samplings and views.
        pixels: Bytes of a decoded frame.
        workers: Decode processes.
        shard_bytes: Of the frames of one shard.
    """
    ahead, worker = _decoders(frames, pixels, workers)
    return Peak(int(WITH_TORCH + ahead + SHARD_COPIES * shard_bytes), worker)


def _decoders(frames: int, pixels: int, workers: int) -> tuple[int, int]:
    """Bytes of decoded videos that wait in this process, and of the decode processes."""
    video = frames * pixels
    return (READ_AHEAD * workers + 1) * video, workers * (WORKER + 3 * video)


def encoding_peak(
    config: Mapping[str, Any],
    *,
    device: str,
    frames: int,
    pixels: int,
    forward: int,
    row_bytes: int,
    shard_rows: int,
    workers: int,
) -> Peak:
    """`extract-features`: the tower on `forward` frames at once, one video's tokens, a shard.

    Args:
        config: The backbone's `config.json`.
        device: Device type.
        frames: Frames of a video, over all samplings and views.
        pixels: Bytes of a decoded frame.
        forward: Frames in a forward pass.
        row_bytes: Stored bytes of a frame.
        shard_rows: Frames of a shard.
        workers: Decode processes; 0: frames are stored.
    """
    tower = tower_size(config)
    at_once = min(forward, frames)
    computing = at_once * _tower_values(tower) * FLOAT
    ahead, worker = _decoders(frames, pixels, workers)
    video = frames * tower.tokens * tower.width * FLOAT
    # The tokens in float32, whether they are finite, and as they are stored.
    reading = ahead + 2 * video + SHARD_COPIES * row_bytes * shard_rows
    peak = _placed(device, FLOAT * tower.parameters, computing, reading)
    return replace(peak, worker_bytes=worker if workers else 0)


def _tower_values(tower: TowerSize) -> int:
    """Values of one frame in the widest place of a block."""
    N, C = tower.tokens, tower.width
    return N * (4 * C + max(4 * C, 2 * tower.inner)) + 2 * N * tower.patch


# --- answering -----------------------------------------------------------------------------------


def answering_peak(
    config: Mapping[str, Any],
    *,
    device: str,
    batch: int,
    seen: int,
    kept: int,
    half: bool = False,
    scores_frames: bool = False,
    sides: int = 1,
    budget: int = 256,
) -> Peak:
    """Questions answered from stored features, with nothing to learn.

    Args:
        config: The backbone's `config.json`.
        device: Device type.
        batch: B.
        seen: T, frames that are read.
        kept: K, frames that the answer is given from.
        half: Whether T5 is held in half precision.
        scores_frames: Whether T5 reads each of the T frames by itself (SeViLA, pseudo-labels).
        sides: Q-Formers that are held.
        budget: Rows that go through T5 at once where frames are rows.
    """
    size = backbone_size(config)
    computing, reading = _answering(
        size, batch=batch, seen=seen, kept=kept, scores_frames=scores_frames, budget=budget
    )
    return _placed(device, _weights(size, half, sides), computing, reading)


def _answering(
    size: BackboneSize,
    *,
    batch: int,
    seen: int,
    kept: int,
    scores_frames: bool = False,
    budget: int = 256,
) -> tuple[int, int]:
    """Bytes that are worked on, and bytes of features on their way to it; see `answering_peak`."""
    looked = seen if scores_frames else kept
    features = batch * seen * size.tower.tokens * size.tower.width
    working = batch * looked * _qformer_values(size.qformer, size.tower.tokens)
    answered = _language_values(size.language, batch, kept * size.qformer.queries + WORDS)
    if scores_frames:
        rows = min(batch * seen, budget)
        alone = _language_values(size.language, rows, size.qformer.queries + WORDS)
        answered = max(answered, alone)
    return FLOAT * (features + max(working, answered)), features * FLOAT


def _weights(size: BackboneSize, half: bool, sides: int) -> int:
    """Bytes of T5 and the Q-Formers."""
    language = size.language.parameters * (2 if half else FLOAT)
    return language + sides * FLOAT * size.qformer.parameters


def _qformer_values(qformer: QformerSize, tokens: int) -> int:
    """Values of one frame in the widest place of a layer: itself, keys and values, the MLP."""
    length = qformer.queries + (WORDS if qformer.vocabulary else 0)
    return tokens * (qformer.sees + 2 * qformer.width) + length * 2 * (
        2 * qformer.width + qformer.inner
    )


def _language_values(language: LanguageSize, rows: int, length: int) -> int:
    """Values in the widest place of T5: an encoder layer, or the decoder's keys with the logits."""
    D, A, F = language.width, language.attends, language.inner
    encoder = rows * (length * (3 * D + 2 * A + 3 * F) + 2 * language.heads * length * length)
    crossed = rows * OPTIONS * length * 2 * A
    words = rows * OPTIONS * 4 * language.vocabulary
    return max(encoder, rows * length * D + crossed + words)


# --- training ------------------------------------------------------------------------------------


def training_peak(
    config: Mapping[str, Any],
    *,
    device: str,
    batch: int,
    seen: int,
    learnt: int,
    half: bool = False,
    frames_alone: bool = False,
    frozen_sides: int = 0,
    tuned: Mapping[str, Any] | None = None,
) -> Peak:
    """A Q-Former that learns in front of a frozen T5.

    Args:
        config: The backbone's `config.json`.
        device: Device type.
        batch: B of this process.
        seen: T, frames that are read.
        learnt: Frames that gradients go through.
        half: Whether T5 is held in half precision.
        frames_alone: Whether each frame is a row of T5 (the localizer).
        frozen_sides: Q-Formers that are held besides the one that learns (teacher, other side).
        tuned: `batch`, `seen`, `kept` and `scores_frames` of the tune split's evaluation.
    """
    size = backbone_size(config)
    features = batch * seen * size.tower.tokens * size.tower.width
    frames, queries = batch * learnt, size.qformer.queries
    rows, length = (frames, queries + WORDS) if frames_alone else (batch, learnt * queries + WORDS)
    kept = frames * _qformer_saved(size.qformer, size.tower.tokens)
    kept += rows * _language_saved(size.language, length)
    trained = size.qformer.parameters
    looked = batch * seen * _qformer_values(size.qformer, size.tower.tokens) if frozen_sides else 0
    working, read = FLOAT * (features + max(kept, looked)), 2 * features * FLOAT
    if tuned is not None:
        answering = _answering(size, **tuned)
        working, read = max(working, answering[0]), max(read, answering[1])
    networks = _weights(size, half, 1 + frozen_sides) + FLOAT * (TRAINED_COPIES - 1) * trained
    saving = FLOAT * SAVED_COPIES * trained
    if device == "cpu":  # a state is saved between steps, when there is no gradient
        return _placed(device, networks, max(working, saving - FLOAT * trained), read)
    return _placed(device, networks, working, read + saving + FLOAT * 3 * trained)


def _qformer_saved(qformer: QformerSize, tokens: int) -> int:
    """Values of one frame that the backward pass wants, over all layers."""
    H, M = qformer.width, qformer.inner
    length = qformer.queries + (WORDS if qformer.vocabulary else 0)
    own = length * (9 * H + 3 * M) + 2 * qformer.heads * length * length
    looks = tokens * 2 * H + qformer.queries * 6 * H + qformer.heads * qformer.queries * tokens
    crossings = -(-qformer.layers // qformer.cross)
    return qformer.layers * own + crossings * looks + 2 * tokens * qformer.sees


def _language_saved(language: LanguageSize, length: int) -> int:
    """Values of one row that the backward pass through frozen weights wants."""
    D, A, F = language.width, language.attends, language.inner
    layer = length * (3 * D + 4 * A + 4 * F) + 3 * language.heads * length * length
    crossed = OPTIONS * length * 2 * A * language.decoder_layers
    return language.encoder_layers * layer + crossed + OPTIONS * 4 * language.vocabulary


# --- VideoDistill --------------------------------------------------------------------------------


def videodistill_peak(
    config: Mapping[str, Any],
    network: VideoDistillConfig,
    *,
    device: str,
    pairs: int,
    train: bool,
) -> Peak:
    """The network on `pairs` (sentence, video) pairs at once.

    Args:
        config: CLIP's `config.json`.
        network: Sizes of the network.
        device: Device type.
        pairs: Pairs in a forward pass.
        train: Whether it learns.
    """
    tower = tower_size(config)
    N, K, D, P = network.frames, network.keep, network.width, tower.tokens - 1
    features = pairs * (K * P * tower.width + N * tower.width)
    tokens = 1 + K * P
    # Kept by every block for its gradient, or what one block works on.
    values = (14 + 6 * network.mlp_ratio if train else 16 + 3 * network.mlp_ratio) * D
    seen = (2 if train else 1) * network.heads * K * P * (P + K + 2)
    blocks = (network.layers if train else 1) * (tokens * values + seen)
    working = pairs * (blocks + N * 12 * D)
    parameters = _clip_text(config) + _network(network, tower.width)
    held = FLOAT * parameters * (TRAINED_COPIES if train else 1)
    saving = FLOAT * (SAVED_COPIES - 1) * parameters if train else 0
    computing = max(FLOAT * (features + working), saving)
    return _placed(device, held, computing, features * FLOAT * (2 if train else 1))


def _network(network: VideoDistillConfig, width: int) -> int:
    """Parameters at most: projections, and blocks of a gate, two attentions and an MLP."""
    D, L = network.width, network.layers
    sampler = L * (4 + 4 + 2 * network.mlp_ratio) * D * D + network.frames * D
    refinement = L * (4 + 8 + 2 * network.mlp_ratio) * D * D
    heads = 4 * D * D + D * (network.answers or 0)
    return sampler + refinement + heads + 3 * width * D


def _clip_text(config: Mapping[str, Any]) -> int:
    """Parameters of CLIP's text tower."""
    text = {
        "vocab_size": 49_408, "max_position_embeddings": 77, "hidden_size": 512,
        "intermediate_size": 2048, "num_hidden_layers": 12, **dict(config.get("text_config") or {}),
    }  # fmt: skip
    W, M = int(text["hidden_size"]), int(text["intermediate_size"])
    block = 4 * W * W + 2 * W * M + M + 9 * W
    places = int(text["vocab_size"]) + int(text["max_position_embeddings"])
    return int(text["num_hidden_layers"]) * block + places * W + 2 * W
