"""Milliseconds per video of VLAP and SeViLA by the papers' protocol (specs/vlap.md 4).

Batch 4, warm-up, synchronised; tokenization is included, decoding is not. Every video has one
question of its own. Four ways:

    reference        the published schedule, see `schedules`
    from_pixels      ours: tower, selection and answer in one pass, one forced decoder step
    cached_features  ours from stored features (float16 in memory), no tower
    token_cache      SeViLA from pixels, tower and Q-Formers once for 8.8 questions a video

Every way is compared with the reference, question by question on the same video. In float32 frames
kept and answers must be the same where a way computes its features itself, or nothing is reported.
Stored features are rounded to float16, and half precisions round everywhere: there, the shares of
equal frames and of equal answers are reported and nothing is demanded.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from stages.bench.clock import Clock, head, one_thread, ratio, rounded, rounds_of
from stages.bench.networks import Source, load_instructblip, load_sevila, load_tower
from stages.bench.schedules import (
    Outcome,
    SevilaReference,
    VlapReference,
    localizer_prompts,
    prompts,
    tower_features,
)
from stages.bench.work import Work, make_work
from stages.benchmarks.questions import Question
from stages.core.config import Config
from stages.core.device import resolve_device
from stages.core.errors import VerificationError
from stages.models.backbones.frozen_t5 import DtypePolicy
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.vision import VisionTower
from stages.models.sevila import Sevila
from stages.models.vlap import VlapConfig, VlapStudent, VlapTeacher, answer_frames

QUESTIONS_PER_VIDEO = 8.8
"""Of NExT-QA's validation split (specs/sevila.md 9)."""
SEVILA = "sevila 32->4"
PAPER_MS = {
    "vlap 8->4": 99.0, "vlap 32->4": 208.0, "vlap 2": 72.0, SEVILA: 301.0,
}  # fmt: skip
"""VLAP, Tables 1 and 2: one A100, batch 4."""
TARGETS = {"vlap 8->4": 5.0}
"""How many times faster than SeViLA by the published schedule ours from pixels should be; 6.2 is
the bound by operations (specs/vlap.md 9.2)."""
VLAP_ROWS = {"vlap 8->4": (8, 4), "vlap 32->4": (32, 4), "vlap 2": (2, 2)}
SEVILA_ROW = (32, 4)


class LatencyConfig(Config):
    """What is measured."""

    backbone: str = "tiny"
    """`tiny`, a folder, or random weights of a size."""
    sevila_backbone: str | None = None
    """The same for SeViLA's BLIP-2, where `backbone` is an InstructBLIP folder."""
    precision: DtypePolicy = "float32"
    """Arithmetic."""
    batch: int = Field(default=4, ge=1)
    """Videos in a forward pass."""
    videos: int = Field(default=4, ge=1)
    """Videos of a round."""
    rounds: int = Field(default=3, ge=1)
    """Rounds in which the ways take turns."""


Way = Callable[[], list[Outcome]]


@dataclass(frozen=True)
class Check:
    """What a way is compared with.

    Attributes:
        call: What the way says.
        reference: What it should say, for the same questions on the same videos in the same order.
        exact: Whether nothing is rounded between the two in float32.
    """

    call: Way
    reference: Way
    exact: bool = True


@dataclass(frozen=True)
class Row:
    """One system's ways, and how each but the reference is checked."""

    ways: dict[str, Way]
    checked: dict[str, Check]


def latency(
    config: LatencyConfig, device: str, folder: Path | None, command: str
) -> dict[str, Any]:
    """The record of all systems; videos are written into `folder`, or the temporary one.

    Raises:
        VerificationError: Ways that must agree in float32 do not.
    """
    where = resolve_device(device)
    clock = Clock(where)
    with one_thread(where):
        seconds, agreements, facts = _measure_all(config, where, clock, folder)
    reference = seconds[SEVILA]["reference"]
    milliseconds = {
        name: {
            way: round(1000 * statistics.median(values) / _items(way, config.videos), 4)
            for way, values in ways.items()
        }
        for name, ways in seconds.items()
    }
    faster = {
        name: {way: round(ratio(reference, values), 3) for way, values in ways.items()
               if way not in ("reference", "token_cache")}
        for name, ways in seconds.items()
    }  # fmt: skip
    return {
        **head("latency", device, command, config=config.as_json()),
        "ms_per_video": milliseconds,
        "paper_ms_per_video": PAPER_MS,
        "times_faster_than_sevila_reference": faster,
        "paper_times_faster_than_sevila": {
            name: round(PAPER_MS[SEVILA] / value, 2) for name, value in PAPER_MS.items()
        },
        "reference_times_faster_than_sevila_reference": {
            name: round(ratio(reference, ways["reference"]), 3) for name, ways in seconds.items()
        },
        **({"targets": _targets(faster)} if _published(config, where) else {}),
        "same_as_reference": agreements,
        **facts,
        "seconds": {name: rounded(ways) for name, ways in seconds.items()},
    }


def _targets(faster: dict[str, dict[str, float]]) -> dict[str, Any]:
    return {
        name: {"at_least": goal, "met": faster[name]["from_pixels"] >= goal}
        for name, goal in TARGETS.items()
    }


def _published(config: LatencyConfig, device: torch.device) -> bool:
    return Source(config.backbone, device, config.precision).size("instructblip").published


def _measure_all(
    config: LatencyConfig, device: torch.device, clock: Clock, folder: Path | None
) -> tuple[dict[str, dict[str, list[float]]], dict[str, Any], dict[str, Any]]:
    """Seconds, agreement and prompt lengths; one system's networks are in memory at a time."""
    seconds: dict[str, dict[str, list[float]]] = {}
    agreements: dict[str, Any] = {}
    lengths: dict[str, float] = {}
    sources = {
        "instructblip": Source(config.backbone, device, config.precision),
        "blip-2": Source(config.sevila_backbone or config.backbone, device, config.precision),
    }
    for layout, source in sources.items():
        tower = load_tower(source, layout)
        work = make_work(
            config.videos, config.videos, tower.spec.image_size, 32, source.filler, folder
        )
        if layout == "instructblip":
            backbone = load_instructblip(source).eval()
            lengths["vlap_prompt"] = _mean_length(
                backbone.read_text(prompts(work.questions)).t5_mask
            )
            rows = {
                name: vlap_row(backbone, tower, work, *sizes, config.batch)
                for name, sizes in VLAP_ROWS.items()
            }
        else:
            model = load_sevila(source)
            read = model.backbone.read_prompts(localizer_prompts(work.questions))
            lengths["localizer_prompt"] = _mean_length(read.mask)
            rows = {SEVILA: sevila_row(model, tower, work, config.batch)}
        for name, row in rows.items():
            agreements[name] = _agreement(name, row, config.precision)
            seconds[name] = rounds_of(row.ways, clock, config.rounds)
        del rows, row, tower
        backbone = model = None  # type: ignore[assignment]
        gc.collect()
    return seconds, agreements, {"ids_per_prompt": lengths}


def _items(way: str, videos: int) -> int:
    """What a round's seconds are shared by: with the token cache, questions."""
    return _asked(videos) if way == "token_cache" else videos


def _asked(videos: int) -> int:
    """Questions about that many videos together."""
    return round(QUESTIONS_PER_VIDEO * videos)


def _mean_length(mask: Tensor) -> float:
    return round(float(mask.sum(dim=1).float().mean()), 1)


def _agreement(name: str, row: Row, precision: str) -> dict[str, float]:
    """Share of questions with the reference's frames and with its answer; warms up as well."""
    said: dict[Way, tuple[Tensor, list[int]]] = {}
    found: dict[str, float] = {}
    for way, check in row.checked.items():
        if check.reference not in said:
            said[check.reference] = _joined(check.reference())
        shares = _shares(said[check.reference], _joined(check.call()))
        found |= {f"{way}_{what}": share for what, share in shares.items()}
        if precision == "float32" and check.exact and min(shares.values()) < 1:
            raise VerificationError(
                f"{name}, {way}: not the reference's frames and answers: {shares}",
                "times of different answers would say nothing; this is a bug",
            )
    called = {*said, *(check.call for check in row.checked.values())}
    for call in row.ways.values():
        if call not in called:
            call()
    return found


def _shares(
    reference: tuple[Tensor, list[int]], ours: tuple[Tensor, list[int]]
) -> dict[str, float]:
    same = (ours[0] == reference[0]).all(dim=1)
    answers = zip(ours[1], reference[1], strict=True)
    return {
        "frames": statistics.mean(map(float, same)),
        "answers": statistics.mean(float(one == other) for one, other in answers),
    }


def _joined(outcomes: list[Outcome]) -> tuple[Tensor, list[int]]:
    frames = torch.cat([indices for indices, _ in outcomes])
    return frames, [answer for _, answers in outcomes for answer in answers]


def _batches(work: Work, batch: int) -> list[tuple[list[Question], Tensor, list[int]]]:
    """Questions, their videos' frames and the videos' numbers, batch by batch."""
    found = []
    for first in range(0, len(work.questions), batch):
        part = slice(first, first + batch)
        videos = work.video_of[part]
        found.append((work.questions[part], work.frames[videos], videos))
    return found


def stored_features(tower: VisionTower, work: Work) -> Tensor:
    """What a features artifact holds of every video: float16 [videos, T, N, C] in memory."""
    return torch.stack([tower_features(tower, one[None])[0].half().cpu() for one in work.frames])


# --- VLAP ----------------------------------------------------------------------------------------


def vlap_row(
    backbone: InstructBlip, tower: VisionTower, work: Work, frames: int, keep: int, batch: int
) -> Row:
    """T -> K; K = T is the model without a prompter."""
    config = VlapConfig(frames=frames, keep=keep)
    seen = work.thinned(frames)
    torch.manual_seed(0)
    model: VlapStudent | VlapTeacher
    if frames == keep:
        model = VlapTeacher(backbone, config)
    else:
        model = VlapStudent(backbone, config, tokens=tower.spec.tokens, with_teacher=False)
    model = model.to(backbone.device).eval()
    stored = stored_features(tower, seen)
    reference = VlapReference(model, tower)
    batches = _batches(seen, batch)

    def of_pixels(mode: VlapConfig) -> list[Outcome]:
        return [
            vlap_answers(model, mode, questions, tower_features(tower, pixels))
            for questions, pixels, _ in batches
        ]

    def of_stored(mode: VlapConfig) -> list[Outcome]:
        return [
            vlap_answers(model, mode, questions, stored[videos].to(backbone.device))
            for questions, _, videos in batches
        ]

    def published() -> list[Outcome]:
        return [reference(asked, pixels) for asked, pixels, _ in batches]

    # Letters after a free first token, as the reference reads them: random weights do not begin
    # with `Option`, trained ones do, and then the forced step says the same.
    free = config.model_copy(update={"answer": "generate"})
    return Row(
        {
            "reference": published,
            "from_pixels": lambda: of_pixels(config),
            "cached_features": lambda: of_stored(config),
        },
        {
            "from_pixels": Check(lambda: of_pixels(free), published),
            "cached_features": Check(lambda: of_stored(free), published, exact=False),
        },
    )


@torch.no_grad()
def vlap_answers(
    model: VlapStudent | VlapTeacher,
    config: VlapConfig,
    questions: list[Question],
    features: Tensor,
) -> Outcome:
    """One batch of features [B, T, N, C]."""
    text = model.backbone.read_text(prompts(questions))
    if isinstance(model, VlapStudent):
        chosen = model.select(features, text)
        indices, kept = chosen.indices, chosen.gather(features)
    else:
        indices = torch.arange(features.shape[1]).expand(len(features), -1)
        kept = features
    counts = [len(question.options) for question in questions]
    scores = answer_frames(model.backbone, config, kept, text, mode="letter", num_options=counts)
    return indices.cpu(), scores.argmax(dim=-1).tolist()


# --- SeViLA --------------------------------------------------------------------------------------


def sevila_row(model: Sevila, tower: VisionTower, work: Work, batch: int) -> Row:
    """32 -> 4."""
    frames, keep = SEVILA_ROW
    seen = work.thinned(frames)
    stored = stored_features(tower, seen)
    reference = SevilaReference(model, tower, keep)
    batches = _batches(seen, batch)
    device = model.backbone.device

    def of_pixels() -> list[Outcome]:
        return [
            sevila_answers(model, asked, tower_features(tower, pixels), keep)
            for asked, pixels, _ in batches
        ]

    def of_stored() -> list[Outcome]:
        return [
            sevila_answers(model, asked, stored[videos].to(device).float(), keep)
            for asked, _, videos in batches
        ]

    def published() -> list[Outcome]:
        return [reference(asked, pixels) for asked, pixels, _ in batches]

    many = several_questions(seen)

    def cached() -> list[Outcome]:
        return token_cache(model, tower, many, batch, keep)

    def published_of_many() -> list[Outcome]:
        parts = _batches(many, batch)
        return [reference(asked, pixels) for asked, pixels, _ in parts]

    return Row(
        {
            "reference": published,
            "from_pixels": of_pixels,
            "cached_features": of_stored,
            "token_cache": cached,
        },
        {
            "from_pixels": Check(of_pixels, published),
            "cached_features": Check(of_stored, published, exact=False),
            "token_cache": Check(cached, published_of_many),
        },
    )


def several_questions(work: Work) -> Work:
    """8.8 questions a video, each about its own video, those about one video together."""
    count = len(work.questions)
    order = sorted(range(_asked(len(work.frames))), key=lambda n: work.video_of[n % count])
    asked = [replace(work.questions[n % count], question_id=str(n)) for n in order]
    return Work(asked, [work.video_of[n % count] for n in order], work.frames)


@torch.no_grad()
def sevila_answers(
    model: Sevila, questions: list[Question], features: Tensor, keep: int
) -> Outcome:
    """One batch of features [B, T, N, C]; the answerer's Q-Former sees the kept frames only."""
    chosen = model.keyframes(features, localizer_prompts(questions), keep).indices
    rows = torch.arange(len(features), device=features.device)[:, None]
    tokens = model.answerer_tokens(features[rows, chosen.to(features.device)])
    return chosen.cpu(), _letters(model, tokens, questions)


@torch.no_grad()
def token_cache(
    model: Sevila, tower: VisionTower, work: Work, batch: int, keep: int
) -> list[Outcome]:
    """What depends on the video alone is computed once for neighbouring questions about it."""
    asked, videos = work.questions, work.video_of
    outcomes = []
    held: dict[int, tuple[Tensor, Tensor]] = {}
    for first in range(0, len(asked), batch):
        part, of = asked[first : first + batch], videos[first : first + batch]
        for video in of:
            if video not in held:
                features = tower_features(tower, work.frames[video][None])
                held[video] = (
                    model.localizer_tokens(features)[0],
                    model.answerer_tokens(features)[0],
                )
        held = {video: value for video, value in held.items() if video in of}
        seen = torch.stack([held[video][0] for video in of])
        chosen = model.select(model.score_frames(seen, localizer_prompts(part)), keep).indices
        tokens = torch.stack(
            [held[video][1][kept.to(seen.device)] for video, kept in zip(of, chosen, strict=True)]
        )
        outcomes.append((chosen.cpu(), _letters(model, tokens, part)))
    return outcomes


def _letters(model: Sevila, tokens: Tensor, questions: list[Question]) -> list[int]:
    counts = [len(question.options) for question in questions]
    scores = model.answer_letters(tokens, prompts(questions), counts)
    return [int(value) for value in scores.argmax(dim=-1)]
