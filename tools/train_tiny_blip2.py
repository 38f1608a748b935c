"""Train the embedded backbone `tiny-blip2`: BLIP-2's layout on the tower of `tiny`.

    python tools/train_tiny_blip2.py --out stages/models/embedded --work /tmp/tiny

Run after train_tiny.py with the same `--work`: tower, frames and T5's start come from there. The
Q-Former reads no text, so each frame's four tokens must tell everything, and T5 finds what a
question asks for. Three steps:

1. answers by a word from 1 to 8 frames, with some of SeViLA's localizer questions (yes / no);
2. as many localizer questions as answers, until the language model tells the two kinds of frame
   apart;
3. the language model stays as it is, and the Q-Former, after noise that leaves little of what it
   had learnt, learns to answer again, with no localizer question. SeViLA starts from such a model:
   the language model can judge frames, and its Q-Former was not made for that.

Writes a Hugging Face folder with fp16 weights and a card.
"""

from __future__ import annotations

import argparse
import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny_data import Clips, cached_clips
from tiny_tokenizer import write_tokenizers
from torch import Tensor, nn
from train_tiny import (
    NUM_QUERIES,
    WIDTH,
    Sample,
    Texts,
    Tiny,
    Trainer,
    draw_frames,
    draw_sample,
    kept_features,
    layout,
    load_stage,
    open_texts,
    save_folder,
    save_stage,
    stored_features,
)
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from stages.benchmarks.shapes.questions import TEMPLATES, draw_options

LOCALIZER = (
    "{question} Options: ({options} ) Does the information within the frame provide the necessary "
    "details to accurately answer the given question?"
)
PLAN = [(1, 64, 300), (2, 48, 400), (4, 48, 600), (8, 32, 300)]
# (frames, batch, steps): rows begin in turn and stay in the draw
WORDS, JUDGING = "blip2-words.safetensors", "blip2-judging.safetensors"
"""What the first two steps leave in the work folder; a step that is found there is not repeated."""
JUDGED, JUDGED_LR = 1200, 7e-4
"""Steps and learning rate of the second step."""
ANSWERED, ANSWERED_LR = 300, 1e-3
"""Steps and learning rate of the third."""
DRAWS = (99, 5, 6)
"""What the draws of the three steps are seeded with, besides `--seed`."""
DISTURBANCE, DISTURBANCE_SEED = 1.8, 3
"""Noise on every matrix of the Q-Former before the third, in the matrix's own standard deviations.
Of the seeds 1 to 4 the third left the weakest localizer; the others' found more frames from the
start and had less to gain from refinement."""


def blip2_layout(vocabulary: int) -> dict:
    """config.json of the folder: `tiny`'s with BLIP-2's Q-Former."""
    config = layout(vocabulary)
    config["architectures"] = ["Blip2ForConditionalGeneration"]
    config["model_type"] = "blip-2"
    config["vision_config"]["model_type"] = "blip_2_vision_model"
    config["qformer_config"]["model_type"] = "blip_2_qformer"
    config["qformer_config"]["use_qformer_text_input"] = False
    return config


class TinyBlip2(Tiny):
    """The parts of a BLIP-2 under the names of its Hugging Face checkpoints."""

    def __init__(self, config: dict) -> None:
        super().__init__(layout(config["text_config"]["vocab_size"]))
        settings = {k: v for k, v in config["qformer_config"].items() if k != "model_type"}
        self.qformer = Blip2QFormerModel(Blip2QFormerConfig(**settings))

    def frame_tokens(self, features: Tensor) -> Tensor:
        """[B, F, N, C] stored features -> [B, F * Q, WIDTH], whatever is asked."""
        batch, frames = features.shape[:2]
        image = self.vision_model.post_layernorm(features.flatten(0, 1))
        queries = self.query_tokens.expand(len(image), -1, -1)
        output = self.qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state
        return self.language_projection(output).view(batch, frames * NUM_QUERIES, WIDTH)


def spoken_logits(
    model: TinyBlip2, texts: Texts, features: Tensor, prompts: list[str], labels: Tensor
) -> Tensor:
    """Decoder logits after [Frame i: ; tokens ; ... ; prompt], in SeViLA's order."""
    batch, frames = features.shape[:2]
    visual = model.frame_tokens(features).unflatten(1, (frames, NUM_QUERIES))
    embed = model.language_model.shared
    names = [f"Frame {i + 1}: " for i in range(frames)] if frames > 1 else ["Frame: "]
    parts: list[Tensor] = []
    for number, name in enumerate(names):
        ids = texts.t5(name, add_special_tokens=False, return_tensors="pt").input_ids
        parts += [embed(ids).expand(batch, -1, -1), visual[:, number]]
    return model.logits(torch.cat(parts, 1), *texts.prompts(prompts)[:2], labels)


def localizer_sample(rng: np.random.Generator, labels: np.ndarray) -> tuple[Sample, int, str, str]:
    """A question, one frame, the localizer's prompt and whether the frame shows the answer."""
    sample = draw_sample(rng, labels)
    moments = labels[sample.video, :, 0]
    wanted = rng.random() < 0.5
    if wanted:
        pool = np.flatnonzero(moments == sample.moment)
    else:
        other = np.flatnonzero((moments >= 0) & (moments != sample.moment))
        empty = np.flatnonzero(moments < 0)
        pool = other if len(other) and rng.random() < 0.7 else empty
    options, _ = draw_options(rng, TEMPLATES[sample.template].asked, sample.answer)
    prompt = LOCALIZER.format(question=sample.question, options=" ".join(options))
    return sample, int(rng.choice(pool)), prompt, "yes" if wanted else "no"


def answer_batch(
    rng: np.random.Generator, labels: np.ndarray, frames: int, batch: int
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Videos, frames, prompts and answers of questions about `frames` frames."""
    samples = [draw_sample(rng, labels) for _ in range(batch)]
    chosen = np.stack([draw_frames(rng, labels, s, frames) for s in samples])
    videos = np.array([s.video for s in samples])[:, None]
    return videos, chosen, [s.question for s in samples], [s.answer for s in samples]


def localizer_batch(
    rng: np.random.Generator, labels: np.ndarray, batch: int
) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """The same for the localizer's question about one frame."""
    drawn = [localizer_sample(rng, labels) for _ in range(batch)]
    samples, frames, prompts, answers = zip(*drawn, strict=True)
    videos = np.array([s.video for s in samples])[:, None]
    return videos, np.array(frames)[:, None], list(prompts), list(answers)


@dataclass(frozen=True)
class Material:
    """What every step draws from."""

    texts: Texts
    features: Tensor
    labels: np.ndarray
    rng: np.random.Generator

    def logits(
        self, model: TinyBlip2, drawn: tuple[np.ndarray, np.ndarray, list[str], list[str]]
    ) -> tuple[Tensor, Tensor, float]:
        """Logits and wanted tokens of a batch, and the share whose first token is right."""
        videos, chosen, prompts, answers = drawn
        wanted = self.texts.answers(answers)
        given = self.features[videos, chosen].float()
        logits = spoken_logits(model, self.texts, given, prompts, wanted)
        return logits, wanted, (logits[:, 0].argmax(-1) == wanted[:, 0]).float().mean().item()


def word_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy per token, padding aside."""
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)


def train_words(
    model: TinyBlip2, data: Material, plan: list[tuple[int, int, int]], work: Path
) -> None:
    """Q-Former, projection and T5; the tower stays frozen."""
    steps = sum(count for *_, count in plan)
    trainer = Trainer("words", trainable(model), 1e-3, steps)
    begins = np.cumsum([0, *(count for *_, count in plan)])[:-1]
    rng = data.rng
    for step in range(steps):
        last = int(np.searchsorted(begins, step, side="right")) - 1
        row = last if rng.random() < 0.6 else int(rng.integers(last + 1))
        frames, batch, _ = plan[row]
        if step > begins[1] // 2 and rng.random() < 0.35:
            drawn = localizer_batch(rng, data.labels, 48)
        else:
            drawn = answer_batch(rng, data.labels, frames, batch)
        logits, wanted, right = data.logits(model, drawn)
        trainer.step(word_loss(logits, wanted), right)
    save_stage(model, work / WORDS)


def train_judging(model: TinyBlip2, data: Material, steps: int, work: Path) -> None:
    """Localizer questions and answers in every step; printed: localizer questions right."""
    trainer = Trainer("judging", trainable(model), JUDGED_LR, steps)
    for _ in range(steps):
        logits, wanted, right = data.logits(model, localizer_batch(data.rng, data.labels, 64))
        loss = F.cross_entropy(logits[:, 0], wanted[:, 0])
        frames = int(data.rng.choice([1, 1, 2, 4]))
        logits, wanted, _ = data.logits(model, answer_batch(data.rng, data.labels, frames, 16))
        trainer.step(loss + word_loss(logits, wanted), right)
    save_stage(model, work / JUDGING)


def train_answers(model: TinyBlip2, data: Material, steps: int) -> None:
    """A disturbed Q-Former learns to answer for a language model that stays as it is."""
    model.language_model.requires_grad_(False)
    side = trainable(model)
    generator = torch.Generator().manual_seed(DISTURBANCE_SEED)
    with torch.no_grad():
        for parameter in side:
            if parameter.ndim >= 2:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * parameter.std() * DISTURBANCE)
    trainer = Trainer("answers", side, ANSWERED_LR, steps)
    for _ in range(steps):
        frames = int(data.rng.choice([1, 1, 2, 4]))
        logits, wanted, right = data.logits(model, answer_batch(data.rng, data.labels, frames, 32))
        trainer.step(word_loss(logits, wanted), right)


def trainable(model: TinyBlip2) -> list[nn.Parameter]:
    """Parameters that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def measure(model: TinyBlip2, texts: Texts, clips: Clips, seed: int) -> dict[str, float]:
    """Accuracy in percent on held-out videos."""
    model.eval()
    rng = np.random.default_rng(seed)
    features = stored_features(model, clips)
    right: dict[str, list[bool]] = {}
    for video in range(len(features)):
        for _ in range(3):
            own = clips.labels[video : video + 1]
            sample = draw_sample(rng, own)
            options, answer = draw_options(rng, TEMPLATES[sample.template].asked, sample.answer)
            with_moment = draw_frames(rng, own, sample, 4)
            choices = {
                "oracle frame": with_moment[own[0, with_moment, 0] == sample.moment][:1],
                "4 frames, one of the moment": with_moment,
                "uniform 4 frames": np.array([4, 12, 20, 28]),
            }
            for name, chosen in choices.items():
                given = features[video, chosen][None].float()
                scores = rank_scores(model, texts, given, sample.question, options)
                right.setdefault(name, []).append(int(scores.argmax()) == answer)
            _, frame, prompt, truth = localizer_sample(rng, own)
            given = features[video, [frame]][None].float()
            scores = rank_scores(model, texts, given, prompt, ["no", "yes"])
            right.setdefault("localizer, yes or no", []).append(
                bool(scores[1] > scores[0]) == (truth == "yes")
            )
    return {name: round(100 * float(np.mean(hits)), 1) for name, hits in sorted(right.items())}


def rank_scores(
    model: TinyBlip2, texts: Texts, features: Tensor, prompt: str, options: list[str]
) -> Tensor:
    """Summed log-probability of each option, `</s>` included."""
    labels = texts.answers(options)
    count = len(options)
    repeated = features.expand(count, -1, -1, -1)
    logits = spoken_logits(model, texts, repeated, [prompt] * count, labels).log_softmax(-1)
    token = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (token * (labels >= 0)).sum(-1)


def model_card(arguments: argparse.Namespace, report: dict) -> str:
    """README.md of the folder."""
    results = "\n".join(f"| {name} | {value} |" for name, value in report["results"].items())
    words, judged, answered = step_counts(arguments.scale)
    return f"""---
license: apache-2.0
---
# tiny-blip2

A BLIP-2-layout model of {report["parameters"]:,} parameters for the synthetic `shapes` benchmark.
Its vision tower is that of `tiny` (same weights, so both read the same features); its Q-Former
reads no text and gives {NUM_QUERIES} tokens a frame. Licence: Apache-2.0.

## Data

{arguments.videos:,} generated videos of the split "pretrain", as for `tiny`. No other data.

## Steps

1. {words} steps of 32-64 questions from T5's language stage of `tiny`: answers by a word from 1 to
   8 frames of which one at least shows the asked moment, and, in a third of the steps, the
   localizer's question about one frame (yes / no). Frames are introduced by `Frame: ` or
   `Frame i: `.
2. {judged} steps of 64 localizer questions and 16 answers from 1 to 4 frames.
3. T5 frozen, noise of {DISTURBANCE} standard deviations on every matrix of the Q-Former, then
   {answered} steps of 32 answers from 1 to 4 frames and no localizer question: the language model
   can judge frames, and the Q-Former keeps little of what it had learnt for that.

AdamW; about 20 minutes on two CPU cores.

## Accuracy

In percent, zero-shot, on 600 questions about 200 videos of the split "card", which training never
saw; four options (chance 25), yes / no for the localizer (chance 50). Measured on the fp16 weights.

| frames given | accuracy |
|---|---|
{results}

## Command

    python tools/train_tiny_blip2.py --out stages/models/embedded --work WORK \\
        --seed {arguments.seed} --videos {arguments.videos}

after `tools/train_tiny.py` with the same `--work`. Date: {report["date"]}, seed {arguments.seed},
torch {torch.__version__}.
"""


def step_counts(scale: float) -> tuple[int, int, int]:
    """Steps of the three parts."""
    words = sum(max(1, int(count * scale)) for *_, count in PLAN)
    return words, max(1, int(JUDGED * scale)), max(1, int(ANSWERED * scale))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder tiny-blip2/ goes here")
    parser.add_argument("--work", type=Path, required=True, help="work folder of train_tiny.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    folder, work = arguments.out / "tiny-blip2", arguments.work
    config = blip2_layout(write_tokenizers(folder))
    texts = open_texts(folder)
    start = Tiny(layout(config["text_config"]["vocab_size"]))
    load_stage(start, work / "language.safetensors")
    model = TinyBlip2(config)
    model.vision_model.load_state_dict(start.vision_model.state_dict())
    model.language_model.load_state_dict(start.language_model.state_dict())
    workers = arguments.threads
    clips = cached_clips(work, "pretrain", arguments.seed, arguments.videos, workers, True)
    features = kept_features(model, clips, work / f"features-{len(clips.pixels)}.safetensors")
    model.vision_model.requires_grad_(False)
    words, judging, answering = (
        Material(texts, features, clips.labels, np.random.default_rng([arguments.seed, number]))
        for number in DRAWS
    )
    plan = [(f, b, max(1, int(count * arguments.scale))) for f, b, count in PLAN]
    _, judged, answered = step_counts(arguments.scale)
    if (work / WORDS).exists():
        load_stage(model, work / WORDS)
    else:
        train_words(model, words, plan, work)
    if (work / JUDGING).exists():
        load_stage(model, work / JUDGING)
    else:
        train_judging(model, judging, judged, work)
    train_answers(model, answering, answered)
    save_folder(model, config, folder)
    load_stage(model, folder / "model.safetensors")
    results = measure(model, texts, cached_clips(work, "card", 0, 200, workers, False), 0)
    print(json.dumps(results, indent=1), flush=True)
    report = {
        "results": results,
        "parameters": sum(t.numel() for t in load_file(folder / "model.safetensors").values()),
        "date": datetime.date.today().isoformat(),
    }
    (folder / "README.md").write_text(model_card(arguments, report))


if __name__ == "__main__":
    main()
