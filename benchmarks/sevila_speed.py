"""SeViLA per question, 32 frames seen and 4 kept: ours against the published schedule.

    python benchmarks/sevila_speed.py [--size tiny|small|full] [--device cuda] [--rounds 5]

The reference is the schedule of the published code, written down from its description with the
same networks (specs/sevila.md 3, 8 and 9): for every question the vision tower and both Q-Formers
run over all 32 frames, and T5 generates without a key-value cache, stopped after 2 steps for the
localizer and 3 for the answerer, where trained weights stop, and once with 30, where others may.
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
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import Blip2VisionModel, GenerationConfig

from stages.artifacts.clips import ClipRows
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.prompts import prompt
from stages.benchmarks.questions import Question
from stages.benchmarks.sevila_prompts import localizer_form, localizer_prompt
from stages.benchmarks.shapes.generate import generate
from stages.core.errors import DataError
from stages.core.midpoints import midpoint_indices
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.text import BackboneText
from stages.models.backbones.vision import VisionTower, vision_config, vision_spec
from stages.models.embedded import embedded_folder
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
LOCALIZER_STEPS, ANSWERER_STEPS, ALL_STEPS = 2, 3, 30
TARGETS = {"nothing_cached": 1.0, "cached_features": 2.2, "token_cache": 1.8}
BACKBONE = "tiny-blip2"
TEXT = {
    "model_type": "t5",
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "vocab_size": 32_128,
}
RANDOM: dict[str, dict[str, Any]] = {
    "full": {
        "model_type": "blip-2",
        "num_query_tokens": 32,
        "vision_config": {"initializer_range": 0.02},
        "qformer_config": {},
        "text_config": {
            **TEXT, "d_model": 2048, "d_kv": 64, "d_ff": 5120, "num_layers": 24, "num_heads": 32,
        },
    },
    "small": {
        "model_type": "blip-2",
        "num_query_tokens": 32,
        "vision_config": {
            "initializer_range": 0.02, "hidden_size": 88, "intermediate_size": 384,
            "num_hidden_layers": 10, "num_attention_heads": 4,
        },
        "qformer_config": {
            "hidden_size": 48, "intermediate_size": 192,
            "num_hidden_layers": 4, "num_attention_heads": 4,
        },
        "text_config": {
            **TEXT, "d_model": 128, "d_kv": 16, "d_ff": 320, "num_layers": 6, "num_heads": 8,
        },
    },
}  # fmt: skip
"""Configurations with random weights; small is full at about a sixteenth of the width and a quarter
of the depth, with as many tokens, so that its parts cost in much the same proportions."""

Outcome = tuple[list[list[int]], list[int]]
"""Kept frames and the answer of every question."""


# --- networks and questions ----------------------------------------------------------------------


def load_networks(size: str, device: torch.device, precision: Any) -> tuple[Sevila, VisionTower]:
    """SeViLA and its vision tower, in evaluation mode."""
    folder = BackboneFolder(embedded_folder(BACKBONE))
    torch.manual_seed(0)
    if size == "tiny":
        model = Sevila(Blip2.load(folder, device, precision))
        return model.to(device).eval(), VisionTower.load(folder, device, precision)
    config = RANDOM[size]
    with device:
        backbone = Blip2.from_config(config, dtype_policy=precision, text=BackboneText.load(folder))
        values = vision_config(config, size)
        tower = VisionTower(Blip2VisionModel(values), vision_spec(values), precision)
    if precision != "float32":
        backbone.language_model.to(torch.bfloat16)
    return Sevila(backbone).to(device).eval(), tower.to(device)


@dataclass(frozen=True)
class Work:
    """What is asked: questions, the video of each, and the frames of every video."""

    questions: list[Question]
    video_of: list[int]
    frames: Tensor
    """uint8 [videos, T, H, W, 3]."""


def make_work(videos: int, questions: int, size: int) -> Work:
    """Generated videos, and questions spread over them, those about one video together."""
    with tempfile.TemporaryDirectory() as name:
        records = generate(Path(name), "test", videos, seed=11, workers=1)
        paths = list(dict.fromkeys(record["video"] for record in records))
        frames = torch.stack([_decoded(Path(name) / path, size) for path in paths])
    video_of = sorted(number % videos for number in range(questions))
    asked = [
        _question(number, records[number % len(records)], paths[video])
        for number, video in enumerate(video_of)
    ]
    return Work(asked, video_of, frames)


def _decoded(path: Path, size: int) -> Tensor:
    """T frames [T, size, size, 3] of a file."""
    with av.open(str(path)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    kept = np.stack([every[int(index)] for index in midpoint_indices(0, len(every), FRAMES)])
    pixels = torch.from_numpy(kept).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="nearest")
    return resized.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _question(number: int, record: Mapping[str, Any], video: str) -> Question:
    return Question(
        question_id=str(number),
        videos=(video,),
        question=record["question"],
        options=tuple(record["options"]),
        answer=None,
        answer_text=None,
        start=None,
        end=None,
        type=None,
        spans=(),
        split="test",
        source_row=number + 1,
    )


# --- ours ----------------------------------------------------------------------------------------


class RowsOfClips:
    """Tower features by row number, T rows a clip: computed from pixels, or stored.

    Args:
        tower: The vision tower.
        frames: uint8 [videos, T, H, W, 3].
        video_of: The video of each clip.
        stored: Features [videos, T, N, C]; none: computed when a clip is first read.
    """

    def __init__(
        self, tower: VisionTower, frames: Tensor, video_of: Sequence[int], stored: Any = None
    ) -> None:
        self.tower, self.frames, self.video_of = tower, frames, list(video_of)
        self.tokens, self.width = tower.spec.tokens, tower.spec.width
        self._stored = stored
        self._made: dict[int, Any] = {}

    def read(self, rows: Any) -> Any:
        """Features [len(rows), N, C]; see `FeatureRows`."""
        clips = rows // FRAMES
        parts = [self._clip(int(clip))[rows[clips == clip] % FRAMES] for clip in np.unique(clips)]
        return np.concatenate(parts)

    def read_cls(self, rows: Any) -> Any:
        """See `FeatureRows`; these towers keep no frame CLS apart."""
        raise DataError("this tower keeps no frame CLS apart")

    def _clip(self, clip: int) -> Any:
        if self._stored is not None:
            return self._stored[self.video_of[clip]]
        if clip not in self._made:
            self._made[clip] = encode(self.tower, self.frames[self.video_of[clip]]).cpu().numpy()
        return self._made[clip]


def encode(tower: VisionTower, frames: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> features [N, P, C] on the tower's device."""
    device = next(tower.parameters()).device
    return tower.features(tower.preprocess(frames).to(device))


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
    manifest = load_manifest("shapes")
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
        clips = [_clip_rows(clip_of[index]) for index in part]
        asked = [work.questions[index] for index in part]
        seen = SeenFrames(reader, asked, clips, model.backbone.device, shared=[shared] * len(clips))
        selection = localizer.select(seen, KEEP)
        frames += selection.indices.tolist()
        answers += [int(value) for value in answerer.answer(seen, selection.indices).predictions]
    return frames, answers


def _clip_rows(clip: int) -> ClipRows:
    places = np.arange(FRAMES)
    return ClipRows(clip * FRAMES + places, places, places.astype(np.float64))


# --- the published schedule ----------------------------------------------------------------------


class Reference:
    """Everything again for every question, and T5 by `generate` without a cache.

    Args:
        model: SeViLA, whose parts are called.
        tower: The vision tower.
        steps: Decoder steps of the localizer and of the answerer.
        all_frames: The answerer's Q-Former runs on all frames, not only on those kept.
    """

    def __init__(
        self, model: Sevila, tower: VisionTower, steps: tuple[int, int], *, all_frames: bool = True
    ) -> None:
        self.model, self.tower, self.steps = model, tower, steps
        self.all_frames = all_frames
        # Every row takes every step: what ends generation early is left out.
        model.backbone.language_model.generation_config.eos_token_id = None

    @torch.no_grad()
    def __call__(self, work: Work, batch: int) -> Outcome:
        """One pass over the questions."""
        frames: list[list[int]] = []
        answers: list[int] = []
        for first in range(0, len(work.questions), batch):
            part = slice(first, first + batch)
            kept, said = self._batch(work.questions[part], work.frames[work.video_of[part]])
            frames += kept.tolist()
            answers += said
        return frames, answers

    def _batch(self, questions: list[Question], frames: Tensor) -> tuple[Tensor, list[int]]:
        features = encode(self.tower, frames.flatten(0, 1)).reshape(
            *frames.shape[:2], self.tower.spec.tokens, self.tower.spec.width
        )
        scores = self._frame_scores(features, questions)
        kept = scores.topk(KEEP, dim=1).indices.sort(dim=1).values
        return kept, self._answers(features, kept, questions)

    def _frame_scores(self, features: Tensor, questions: list[Question]) -> Tensor:
        backbone, manifest = self.model.backbone, load_manifest("shapes")
        form = localizer_form(manifest)
        texts = [localizer_prompt(question, manifest.prompt, form) for question in questions]
        side = self.model.side("localizer")
        tokens = backbone.frame_tokens(side, features, "localizer").flatten(0, 1)[:, None]
        text = backbone.read_prompts([one for one in texts for _ in range(FRAMES)])
        prefixes = backbone.text.frame_prefix().to(backbone.device)
        with backbone.language_precision():
            embeds, mask = backbone.encoder_input(tokens, text, prefixes)
            logits = self._generated(embeds, mask, self.steps[0])[0]
        return logits[:, backbone.answer_tokens.yes].reshape(len(questions), FRAMES)

    def _answers(self, features: Tensor, kept: Tensor, questions: list[Question]) -> list[int]:
        backbone, manifest = self.model.backbone, load_manifest("shapes")
        rows = torch.arange(len(questions), device=kept.device)[:, None]
        side = backbone.answerer
        if self.all_frames:
            tokens = backbone.frame_tokens(side, features, "answerer")[rows, kept]
        else:
            tokens = backbone.frame_tokens(side, features[rows, kept], "answerer")
        text = backbone.read_prompts([prompt(one, "letter", manifest.prompt) for one in questions])
        prefixes = backbone.text.numbered_prefixes(KEEP).to(backbone.device)
        with backbone.language_precision():
            embeds, mask = backbone.encoder_input(tokens, text, prefixes)
            logits = self._generated(embeds, mask, self.steps[1])[1]
        letters = list(backbone.answer_tokens.letters)
        return [
            int(row[letters[: len(question.options)]].argmax())
            for row, question in zip(logits, questions, strict=True)
        ]

    def _generated(self, embeds: Tensor, mask: Tensor, steps: int) -> tuple[Tensor, ...]:
        """Logits [R, V] of each of exactly `steps` greedy steps."""
        language = self.model.backbone.language_model
        config = GenerationConfig(
            max_new_tokens=steps,
            num_beams=1,
            do_sample=False,
            use_cache=False,
            decoder_start_token_id=language.config.decoder_start_token_id,
            pad_token_id=language.config.pad_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        found = language.generate(
            inputs_embeds=embeds, attention_mask=mask, generation_config=config
        )
        if len(found.scores) != steps:
            raise SystemExit(f"{len(found.scores)} steps were generated, not {steps}")
        return tuple(found.scores)


# --- measuring -----------------------------------------------------------------------------------


def all_ways(model: Sevila, tower: VisionTower, work: Work, batch: int) -> dict[str, Any]:
    """Name to one pass over the questions."""
    stored = torch.stack([encode(tower, frames).cpu() for frames in work.frames]).numpy()
    short, long = (LOCALIZER_STEPS, ANSWERER_STEPS), (ALL_STEPS, ALL_STEPS)
    references = {
        "reference": Reference(model, tower, short),
        "reference_4_kept": Reference(model, tower, short, all_frames=False),
        ONCE: Reference(model, tower, long),
    }
    settings = {
        "nothing_cached": (None, False),
        "cached_features": (stored, False),
        "token_cache": (None, True),
        "both": (stored, True),
    }
    ways: dict[str, Any] = {
        name: (lambda one=one: one(work, REFERENCE_BATCH)) for name, one in references.items()
    }
    for name, (features, shared) in settings.items():
        ways[name] = lambda features=features, shared=shared: ours(
            model, tower, work, batch, stored=features, shared=shared
        )
    return ways


def timed(way: Callable[[], Outcome], device: torch.device) -> tuple[float, Outcome]:
    """Seconds of one pass, and what came out."""
    if device.type != "cuda":
        began = time.process_time()
        outcome = way()
        return time.process_time() - began, outcome
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    outcome = way()
    torch.cuda.synchronize(device)
    return time.perf_counter() - began, outcome


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


def measure(ways: dict[str, Any], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every round; the order turns, so that a slow moment meets all ways."""
    found = {ONCE: [timed(ways[ONCE], device)[0]]}
    names = [name for name in ways if name != ONCE]
    found |= {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(timed(ways[name], device)[0])
    return found


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
    parser.add_argument("--size", choices=("tiny", *RANDOM), default="tiny")
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
    load_before = os.getloadavg()[0]
    model, tower = load_networks(given.size, device, given.precision)
    work = make_work(given.videos, given.questions, tower.spec.image_size)
    ways = all_ways(model, tower, work, given.batch)
    outcomes = {name: timed(way, device)[1] for name, way in ways.items()}  # warms up as well
    same = agreement(outcomes)
    if given.precision == "float32" and min(same.values()) < 1:
        raise SystemExit(f"not the same frames and answers: {same}")
    found = measure(ways, given.rounds, device)
    against = speedups(found, "reference")
    lengths = model.backbone.read_prompts(
        [localizer_prompt(one, load_manifest("shapes").prompt) for one in work.questions]
    ).lengths
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
        "clock": "wall" if device.type == "cuda" else "process",
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
        "seconds": {name: [round(one, 4) for one in values] for name, values in found.items()},
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
