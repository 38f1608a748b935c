"""SeViLA per question, 32 frames seen and 4 kept: ours against the published schedule.

    python benchmarks/sevila_speed.py [--size tiny|small|full] [--device cuda] [--rounds 5]

The reference is `stages.bench.schedules.SevilaReference`, the schedule of the published code with
the same networks (specs/sevila.md 3, 8 and 9): for every question the vision tower and both
Q-Formers run over all 32 frames, and T5 generates without a key-value cache, stopped after 2 steps
for the localizer and 3 for the answerer, where trained weights stop, and once with 30, where others
may. Questions are those of `shapes` as they are, without the words that `vqa bench` adds.
`reference_4_kept` spares the answerer's Q-Former the 28 frames that it does not keep. Ours is what
`vqa eval --system sevila` runs: `systems.sevila` over features by row. Four ways:

    nothing_cached    from pixels, every question on a clip of its own
    cached_features   from stored tower features, every question on a clip of its own
    token_cache       from pixels, tower and Q-Formers once per video, 8.8 questions a video
    both              from stored tower features, Q-Formers once per video

Chosen frames and answers of all must be the same, or nothing is reported (in half precision, where
the shape of a batch decides about ties, the share that agrees is). Decoding is in neither. `tiny`
has the embedded trained weights; `small` and `full` have random ones (full: blip2-flan-t5-xl).
On a CPU the clock is the process's own time, so that other processes do not count.
Prints one JSON object: medians over rounds in which the ways take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch
import transformers

from stages.bench.clock import Clock, rounded, rounds_of
from stages.bench.networks import Source, load_sevila, load_tower
from stages.bench.schedules import (
    ANSWERER_STEPS,
    BENCHMARK,
    LOCALIZER_STEPS,
    SevilaReference,
    localizer_prompts,
)
from stages.bench.work import RowsOfClips, Work, clip_rows, encode, make_work
from stages.benchmarks.manifest import load_manifest
from stages.models.backbones.sizes import SIZES
from stages.models.backbones.vision import VisionTower
from stages.models.sevila import Sevila
from stages.systems.seen import SeenFrames
from stages.systems.sevila import BlipAnswerer, SevilaLocalizer

FRAMES, KEEP = 32, 4
VIDEOS, QUESTIONS = 5, 44
"""8.8 questions a video, as in NExT-QA's validation split (specs/sevila.md 9)."""
ONCE = "reference_30_steps"
"""Measured in one round only."""
REFERENCE_BATCH = 8
"""Questions per forward pass in the published evaluation script."""
ALL_STEPS = 30
TARGETS = {"nothing_cached": 1.0, "cached_features": 2.2, "token_cache": 1.8}
LAYOUT = "blip-2"

Outcome = tuple[list[list[int]], list[int]]
"""Kept frames and the answer of every question."""


def ours(
    model: Sevila, tower: VisionTower, work: Work, batch: int, *, stored: Any, shared: bool
) -> Outcome:
    """One pass over the questions through the systems of `vqa eval`, with empty caches.

    Args:
        model: SeViLA.
        tower: The vision tower.
        work: What is asked.
        batch: Questions per forward pass.
        stored: Tower features of every video; none: from pixels.
        shared: Questions about a video share its clip; else each has a clip of its own.
    """
    manifest = load_manifest(BENCHMARK)
    localizer = SevilaLocalizer(model, manifest)
    answerer = BlipAnswerer(model, "letter", manifest, uniform=False)
    count = len(work.questions)
    clip_of = work.video_of if shared else list(range(count))
    reader = RowsOfClips(
        tower, work.frames, range(len(work.frames)) if shared else work.video_of, stored
    )
    frames: list[list[int]] = []
    answers: list[int] = []
    for first in range(0, count, batch):
        part = range(first, min(first + batch, count))
        clips = [clip_rows(clip_of[index], FRAMES) for index in part]
        asked = [work.questions[index] for index in part]
        seen = SeenFrames(reader, asked, clips, model.backbone.device, shared=[shared] * len(clips))
        selection = localizer.select(seen, KEEP)
        frames += selection.indices.tolist()
        answers += [int(value) for value in answerer.answer(seen, selection.indices).predictions]
    return frames, answers


def published(reference: SevilaReference, work: Work) -> Outcome:
    """One pass over the questions by the published schedule."""
    frames: list[list[int]] = []
    answers: list[int] = []
    for first in range(0, len(work.questions), REFERENCE_BATCH):
        part = slice(first, first + REFERENCE_BATCH)
        kept, said = reference(work.questions[part], work.frames[work.video_of[part]])
        frames += kept.tolist()
        answers += said
    return frames, answers


def all_ways(
    model: Sevila, tower: VisionTower, work: Work, batch: int
) -> dict[str, Callable[[], Outcome]]:
    """Name to one pass over the questions."""
    stored = torch.stack([encode(tower, frames).cpu() for frames in work.frames]).numpy()
    short, long = (LOCALIZER_STEPS, ANSWERER_STEPS), (ALL_STEPS, ALL_STEPS)
    references = {
        "reference": SevilaReference(model, tower, KEEP, short),
        "reference_4_kept": SevilaReference(model, tower, KEEP, short, all_frames=False),
        ONCE: SevilaReference(model, tower, KEEP, long),
    }
    settings = {
        "nothing_cached": (None, False),
        "cached_features": (stored, False),
        "token_cache": (None, True),
        "both": (stored, True),
    }
    ways: dict[str, Any] = {
        name: (lambda one=one: published(one, work)) for name, one in references.items()
    }
    for name, (features, shared) in settings.items():
        ways[name] = lambda features=features, shared=shared: ours(
            model, tower, work, batch, stored=features, shared=shared
        )
    return ways


def agreement(outcomes: dict[str, Outcome]) -> dict[str, float]:
    """Per way, the share of questions with the reference's frames and answer."""
    frames, answers = outcomes["reference"]
    return {
        name: statistics.mean(
            one == other and said == told
            for one, other, said, told in zip(frames, kept, answers, given, strict=True)
        )
        for name, (kept, given) in outcomes.items()
    }


def speedups(found: dict[str, list[float]], base: str) -> dict[str, float]:
    """How many times faster than `base` each way is, median over rounds.

    Of the same round's ratios, or with the one measurement that there is of `base`.
    """
    slow = itertools.cycle(found[base])
    return {
        name: round(statistics.median(next(slow) / one for one in seconds), 3)
        for name, seconds in found.items()
        if not name.startswith("reference")
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=("tiny", *SIZES), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16", "float16"), default="float32"
    )
    parser.add_argument("--videos", type=int, default=VIDEOS)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--batch", type=int, default=16, help="our questions per forward pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--machine", default="", help="a description, for the record")
    return parser.parse_args()


def main() -> None:
    """Check, measure, print."""
    given = arguments()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    clock = Clock(device)
    load_before = os.getloadavg()[0]
    source = Source(given.size, device, given.precision)
    model, tower = load_sevila(source), load_tower(source, LAYOUT)
    work = make_work(given.videos, given.questions, tower.spec.image_size, FRAMES)
    ways = all_ways(model, tower, work, given.batch)
    outcomes = {name: way() for name, way in ways.items()}  # warms up as well
    same = agreement(outcomes)
    if given.precision == "float32" and min(same.values()) < 1:
        raise SystemExit(f"not the same frames and answers: {same}")
    found = rounds_of({ONCE: ways.pop(ONCE)}, clock, 1) | rounds_of(ways, clock, given.rounds)
    against = speedups(found, "reference")
    lengths = model.backbone.read_prompts(localizer_prompts(work.questions)).lengths
    result = {
        "benchmark": "sevila_speed",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": given.machine or f"{platform.system()} {platform.machine()}",
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "size": given.size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": given.precision,
        "clock": clock.name,
        "threads": given.threads,
        "questions": len(work.questions),
        "videos": len(work.frames),
        "frames": FRAMES,
        "keep": KEEP,
        "batch": {"reference": REFERENCE_BATCH, "ours": given.batch},
        "ids_in_a_localizer_prompt": round(float(lengths.float().mean()), 1),
        "same_frames_and_answers": same,
        "ms_per_question": {
            name: round(1000 * statistics.median(seconds) / len(work.questions), 3)
            for name, seconds in found.items()
        },
        "times_faster_than_reference": against,
        "targets": {name: {"at_least": goal, "met": against[name] >= goal}
                    for name, goal in TARGETS.items()},
        "times_faster_than_reference_4_kept": speedups(found, "reference_4_kept"),
        "times_faster_than_reference_30_steps": speedups(found, "reference_30_steps"),
        "seconds": rounded(found),
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
