"""Train the embedded backbone `tiny`: InstructBLIP's layout at two million parameters, from a seed.

    python tools/train_tiny.py --out stages/models/embedded --work /tmp/tiny

Pre-training in the papers' order, all on generated pictures and sentences:
    vision     the tower names shape, colour and place of the object, per patch and per picture
    language   T5 answers questions about a sentence that describes one object
    single     Q-Former + T5 answer about single frames (tower frozen from here on)
    multi      the same over 2 to 32 frames of a video, of which only some show what is asked for
Writes a Hugging Face folder with fp16 weights and a model card; `--work` keeps the generated frames
and the state after every stage, and `--from STAGE` starts there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_data import IMAGE_SIZE, NUM_FRAMES, Clips, cached_clips
from tiny_tokenizer import write_tokenizers
from torch import Tensor, nn
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from stages.benchmarks.shapes.questions import TEMPLATES, VALUES, draw_options
from stages.benchmarks.shapes.scene import COLORS, PLACES, SHAPES, SIZE

WIDTH = 128
NUM_QUERIES = 4
PATCH = 8
STAGES = ("vision", "language", "single", "multi")
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
COLUMN = {"shape": 1, "color": 2, "place": 3}


def layout(vocabulary: int) -> dict:
    """config.json of the folder."""
    vision = {
        "model_type": "instructblip_vision_model",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "initializer_range": 0.02,
        "qkv_bias": True,
    }
    qformer = {
        "model_type": "instructblip_qformer",
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 2 * WIDTH,
        "cross_attention_frequency": 2,
        "encoder_hidden_size": WIDTH,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 128,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    text = {
        "model_type": "t5",
        "vocab_size": vocabulary,
        "d_model": WIDTH,
        "d_kv": 32,
        "d_ff": 2 * WIDTH,
        "num_layers": 3,
        "num_decoder_layers": 1,
        "num_heads": 4,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    return {
        "architectures": ["InstructBlipForConditionalGeneration"],
        "model_type": "instructblip",
        "num_query_tokens": NUM_QUERIES,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vision_config": vision,
        "qformer_config": qformer,
        "text_config": text,
    }


class Tiny(nn.Module):
    """The parts of an InstructBLIP under the names of its Hugging Face checkpoints."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        vision = dict(config["vision_config"])
        qformer = dict(config["qformer_config"])
        text = dict(config["text_config"])
        for part in (vision, qformer, text):
            part.pop("model_type")
        self.vision_model = InstructBlipVisionModel(InstructBlipVisionConfig(**vision))
        self.qformer = InstructBlipQFormerModel(InstructBlipQFormerConfig(**qformer))
        self.query_tokens = nn.Parameter(torch.randn(1, NUM_QUERIES, WIDTH) * 0.05)
        self.language_projection = nn.Linear(WIDTH, WIDTH)
        self.language_model = T5ForConditionalGeneration(T5Config(**text))
        self._untie()
        nn.init.normal_(self.qformer.embeddings.word_embeddings.weight, std=0.05)

    def _untie(self) -> None:
        """A head of its own and small embeddings: T5's default of std 1 does not learn here."""
        t5 = self.language_model
        nn.init.normal_(t5.shared.weight, std=0.05)
        t5.lm_head.weight = nn.Parameter(torch.randn_like(t5.shared.weight) * 0.05)
        if t5.config.scale_decoder_outputs or t5.config.dense_act_fn != "gelu":
            raise ValueError("the T5 configuration lost its untied head or its activation")

    def features(self, pixels: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> [N, tokens, WIDTH] before the last LayerNorm, as it is stored."""
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        scaled = (pixels.float() / 255 - mean) / std
        vision = self.vision_model
        hidden = vision.embeddings(scaled.permute(0, 3, 1, 2))
        return vision.encoder(inputs_embeds=hidden).last_hidden_state

    def visual_tokens(self, features: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """[B, F, N, C] stored features and text -> [B, F * Q, WIDTH] (specs/vlap.md 1.3)."""
        batch, frames = features.shape[:2]
        image = self.vision_model.post_layernorm(features.flatten(0, 1))
        text_ids = ids.repeat_interleave(frames, 0)
        text_mask = mask.repeat_interleave(frames, 0)
        queries = self.query_tokens.expand(len(image), -1, -1)
        output = self.qformer(
            input_ids=text_ids,
            attention_mask=torch.cat([text_mask.new_ones(queries.shape[:2]), text_mask], 1),
            query_embeds=queries,
            encoder_hidden_states=image,
        ).last_hidden_state[:, :NUM_QUERIES]
        return self.language_projection(output).view(batch, frames * NUM_QUERIES, WIDTH)

    def logits(self, visual: Tensor | None, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        """Decoder logits for `labels` [B, L] after [visual ; prompt]."""
        embeds = self.language_model.shared(ids)
        if visual is not None:
            embeds = torch.cat([visual, embeds], 1)
            mask = torch.cat([mask.new_ones(visual.shape[:2]), mask], 1)
        return self.language_model(inputs_embeds=embeds, attention_mask=mask, labels=labels).logits


@dataclass
class Texts:
    """Both tokenizers; token ids of every text are computed once."""

    t5: PreTrainedTokenizerFast
    qformer: PreTrainedTokenizerFast

    def prompts(self, texts: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """T5 ids and mask, Q-Former ids and mask."""
        a = self.t5(texts, padding=True, return_tensors="pt")
        b = self.qformer(texts, padding=True, return_tensors="pt")
        return a.input_ids, a.attention_mask, b.input_ids, b.attention_mask

    def answers(self, words: list[str]) -> Tensor:
        ids = self.t5(words, padding=True, return_tensors="pt").input_ids
        return ids.masked_fill(ids == 0, -100)


def open_texts(folder: Path) -> Texts:
    return Texts(
        PreTrainedTokenizerFast.from_pretrained(folder),
        PreTrainedTokenizerFast.from_pretrained(folder / "qformer_tokenizer"),
    )


class Trainer:
    """AdamW with warm-up and cosine over a fixed number of steps, and a line of progress."""

    def __init__(self, name: str, parameters: list[nn.Parameter], lr: float, steps: int) -> None:
        self.name, self.steps, self.step_number = name, steps, 0
        self.parameters = parameters
        self.optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
        warm = min(100, steps // 10 + 1)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda i: min(1.0, (i + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * i / steps)),
        )
        self.recent: list[tuple[float, float]] = []
        self.started = time.time()

    def step(self, loss: Tensor, accuracy: float) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step_number += 1
        self.recent.append((loss.item(), accuracy))
        if self.step_number % 50 == 0 or self.step_number == self.steps:
            mean_loss, mean_accuracy = np.mean(self.recent, axis=0)
            seconds = time.time() - self.started
            print(
                f"{self.name} {self.step_number}/{self.steps} loss {mean_loss:.3f}"
                f" right {mean_accuracy:.3f} {seconds:.0f} s",
                flush=True,
            )
            self.recent.clear()


# --- vision -------------------------------------------------------------------------------------


def patch_labels(labels: Tensor) -> Tensor:
    """[N, 7] frame labels -> bool [N, patches]: which patches the object covers."""
    grid = IMAGE_SIZE // PATCH
    centres = (torch.arange(grid) + 0.5) * PATCH * SIZE / IMAGE_SIZE
    dx = centres[None, None, :] - labels[:, 4].float()[:, None, None]
    dy = centres[None, :, None] - labels[:, 5].float()[:, None, None]
    inside = (dx**2 + dy**2).sqrt() < labels[:, 6].float()[:, None, None] + 2
    return (inside & (labels[:, 0] >= 0)[:, None, None]).flatten(1)


def vision_loss(tokens: Tensor, labels: Tensor, heads: nn.ModuleDict) -> tuple[Tensor, float]:
    """Shape, colour and place from every token: CLS names the picture, a patch what covers it."""
    covered = patch_labels(labels)
    loss = tokens.new_zeros(())
    right = torch.ones(len(labels), dtype=torch.bool)
    for name, column in COLUMN.items():
        logits = heads[name](tokens)
        nothing = logits.shape[-1] - 1
        target = torch.where(labels[:, column] < 0, nothing, labels[:, column].long())
        patches = torch.where(covered, target[:, None], nothing)
        loss = loss + F.cross_entropy(logits[:, 0], target)
        loss = loss + F.cross_entropy(logits[:, 1:][covered], patches[covered])
        loss = loss + 0.3 * F.cross_entropy(logits[:, 1:][~covered], patches[~covered])
        right &= logits[:, 0].argmax(-1) == target
    return loss, right.float().mean().item()


def train_vision(model: Tiny, clips: Clips, rng: np.random.Generator, steps: int) -> None:
    heads = nn.ModuleDict(
        {
            "shape": nn.Linear(WIDTH, len(SHAPES) + 1),
            "color": nn.Linear(WIDTH, len(COLORS) + 1),
            "place": nn.Linear(WIDTH, len(PLACES) + 1),
        }
    )
    pixels = torch.from_numpy(clips.pixels).flatten(0, 1)
    labels = torch.from_numpy(clips.labels).flatten(0, 1)
    shown = np.flatnonzero(labels[:, 0].numpy() >= 0)
    empty = np.flatnonzero(labels[:, 0].numpy() < 0)
    vision = model.vision_model
    trainer = Trainer("vision", [*vision.parameters(), *heads.parameters()], 1e-3, steps)
    for _ in range(steps):
        chosen = np.concatenate([rng.choice(shown, 80), rng.choice(empty, 16)])
        tokens = vision.post_layernorm(model.features(pixels[chosen]))
        trainer.step(*vision_loss(tokens, labels[chosen], heads))


# --- language -----------------------------------------------------------------------------------


def describe(rng: np.random.Generator, words: dict[str, str]) -> str:
    """One object in words, attributes in random order."""
    order = rng.permutation(3)
    return " ".join([words["shape"], words["color"], words["place"]][i] for i in order)


def language_sample(rng: np.random.Generator) -> tuple[str, str]:
    """A described object and a question that its description answers."""
    words = {name: str(rng.choice(values)) for name, values in VALUES.items()}
    if rng.random() < 0.25:
        named = str(rng.choice(list(VALUES[("shape", "color")[rng.integers(2)]])))
        return f" {describe(rng, words)} Question: Is it {named}?", (
            "yes" if named in words.values() else "no"
        )
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    wording = str(rng.choice(template.wordings)).format(words[template.named])
    return f" {describe(rng, words)} Question: {wording}", words[template.asked]


def train_language(model: Tiny, texts: Texts, rng: np.random.Generator, steps: int) -> None:
    trainer = Trainer("language", list(model.language_model.parameters()), 1e-3, steps)
    for _ in range(steps):
        prompts, answers = zip(*(language_sample(rng) for _ in range(64)), strict=True)
        ids, mask, _, _ = texts.prompts(list(prompts))
        trainer.step(*answer_loss(model, None, ids, mask, texts.answers(list(answers))))


def answer_loss(
    model: Tiny, visual: Tensor | None, ids: Tensor, mask: Tensor, labels: Tensor
) -> tuple[Tensor, float]:
    """Mean cross-entropy over answer tokens, and the share of right first tokens."""
    logits = model.logits(visual, ids, mask, labels)
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    return loss, (logits[:, 0].argmax(-1) == labels[:, 0]).float().mean().item()


# --- vision-language ----------------------------------------------------------------------------


@dataclass
class Sample:
    """A question about one moment of one video."""

    video: int
    moment: int
    template: int
    question: str
    answer: str


def draw_sample(rng: np.random.Generator, labels: np.ndarray) -> Sample:
    """A random question about a random moment that the 32 frames show."""
    video = int(rng.integers(len(labels)))
    moment = int(rng.choice(np.unique(labels[video, :, 0][labels[video, :, 0] >= 0])))
    row = labels[video, np.flatnonzero(labels[video, :, 0] == moment)[0]]
    kind = int(rng.integers(len(TEMPLATES)))
    template = TEMPLATES[kind]
    word = VALUES[template.named][row[COLUMN[template.named]]]
    question = f"Question: {str(rng.choice(template.wordings)).format(word)}"
    return Sample(
        video, moment, kind, question, VALUES[template.asked][row[COLUMN[template.asked]]]
    )


def draw_frames(
    rng: np.random.Generator, labels: np.ndarray, sample: Sample, count: int
) -> np.ndarray:
    """`count` frames in time order, one of each of `count` segments, one at least of the moment."""
    if count == NUM_FRAMES:
        return np.arange(NUM_FRAMES)
    segment = NUM_FRAMES // count
    chosen = np.arange(count) * segment + rng.integers(segment, size=count)
    hit = int(rng.choice(np.flatnonzero(labels[sample.video, :, 0] == sample.moment)))
    chosen[hit // segment] = hit
    return chosen


def train_answers(
    model: Tiny,
    texts: Texts,
    features: Tensor,
    labels: np.ndarray,
    rng: np.random.Generator,
    plan: list[tuple[int, int, int]],
    name: str,
    lr: float,
    work: Path,
) -> None:
    """Q-Former, projection and T5 on stored features.

    Args:
        plan: (frames, batch, weight): every step draws one row with this weight.
    """
    steps = sum(weight for _, _, weight in plan)
    parts = (model.qformer, model.language_projection, model.language_model)
    parameters = [p for part in parts for p in part.parameters()]
    norm = list(model.vision_model.post_layernorm.parameters())
    for parameter in norm:
        parameter.requires_grad_(False)
    trainer = Trainer(name, [*parameters, model.query_tokens], lr, steps)
    for step in range(steps):
        frames, batch = pick_shape(rng, plan, step)
        samples = [draw_sample(rng, labels) for _ in range(batch)]
        chosen = np.stack([draw_frames(rng, labels, s, frames) for s in samples])
        videos = np.array([s.video for s in samples])[:, None]
        picked = features[videos, chosen].float()
        ids, mask, qids, qmask = texts.prompts([s.question for s in samples])
        visual = model.visual_tokens(picked, qids, qmask)
        answers = texts.answers([s.answer for s in samples])
        trainer.step(*answer_loss(model, visual, ids, mask, answers))
        if step % 200 == 199:
            save_stage(model, work / f"{name}-{step + 1}.safetensors")


def pick_shape(
    rng: np.random.Generator, plan: list[tuple[int, int, int]], step: int
) -> tuple[int, int]:
    """Frames and batch of this step: rows of the plan begin in turn and then stay in the draw."""
    begins = np.cumsum([0, *(weight for _, _, weight in plan)])[:-1]
    open_rows = [i for i, begin in enumerate(begins) if begin <= step]
    last = open_rows[-1]
    row = last if rng.random() < 0.6 else int(rng.choice(open_rows))
    return plan[row][0], plan[row][1]


@torch.no_grad()
def stored_features(model: Tiny, clips: Clips) -> Tensor:
    """fp16 [V, 32, tokens, WIDTH], as the features stage stores them."""
    pixels = torch.from_numpy(clips.pixels)
    parts = [
        model.features(pixels[i : i + 8].flatten(0, 1)).half() for i in range(0, len(pixels), 8)
    ]
    return torch.cat(parts).unflatten(0, (len(pixels), NUM_FRAMES))


def kept_features(model: Tiny, clips: Clips, path: Path) -> Tensor:
    """`stored_features`, kept in the work folder until the tower is trained again."""
    if not path.exists():
        save_file({"features": stored_features(model, clips)}, path)
    return load_file(path)["features"]


# --- what came out ------------------------------------------------------------------------------


@torch.no_grad()
def rank(model: Tiny, texts: Texts, visual: Tensor, question: str, options: list[str]) -> int:
    """Index of the option with the largest summed log-probability, `</s>` included."""
    ids, mask, _, _ = texts.prompts([question])
    labels = texts.answers(options)
    count = len(options)
    scores = model.logits(
        visual.expand(count, -1, -1), ids.expand(count, -1), mask.expand(count, -1), labels
    ).log_softmax(-1)
    token = scores.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return int((token * (labels >= 0)).sum(-1).argmax())


@torch.no_grad()
def measure(model: Tiny, texts: Texts, clips: Clips, seed: int) -> dict[str, float]:
    """Accuracy in percent on held-out videos, by what frames the model is given."""
    model.eval()
    rng = np.random.default_rng(seed)
    features = stored_features(model, clips)
    right: dict[str, list[bool]] = {}
    for video in range(len(features)):
        for _ in range(3):
            sample = draw_sample(rng, clips.labels[video : video + 1])
            shown = np.flatnonzero(clips.labels[video, :, 0] == sample.moment)
            other = int(rng.integers(len(features)))
            choices = {
                "oracle frame": features[video, shown[len(shown) // 2]][None],
                "all 32 frames": features[video],
                "uniform 4 frames": features[video, [4, 12, 20, 28]],
                "32 frames of another video": features[other],
            }
            template = TEMPLATES[sample.template]
            options, answer = draw_options(rng, template.asked, sample.answer)
            for name, chosen in choices.items():
                _, _, qids, qmask = texts.prompts([sample.question])
                visual = model.visual_tokens(chosen[None].float(), qids, qmask)
                hit = rank(model, texts, visual, sample.question, options) == answer
                right.setdefault(name, []).append(hit)
                if name in ("oracle frame", "all 32 frames"):
                    right.setdefault(f"{name}, {template.type}", []).append(hit)
    model.train()
    return {name: round(100 * float(np.mean(hits)), 1) for name, hits in sorted(right.items())}


def save_folder(model: Tiny, config: dict, folder: Path) -> None:
    """config.json, fp16 model.safetensors and preprocessor_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().half().contiguous().clone()
        for name, tensor in model.state_dict().items()
        if not name.endswith("embed_tokens.weight")
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    preprocessor = {
        "image_processor_type": "BlipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def load_stage(model: Tiny, path: Path) -> None:
    missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    tied = [name for name in missing if not name.endswith("embed_tokens.weight")]
    if tied or unexpected:
        raise ValueError(f"{path}: missing {tied}, unexpected {unexpected}")


def save_stage(model: Tiny, path: Path) -> None:
    state = {
        name: tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if not name.endswith("embed_tokens.weight")
    }
    save_file(state, path)


# --- the run ------------------------------------------------------------------------------------

VISION_STEPS, LANGUAGE_STEPS = 2000, 300
# (frames, batch, steps): rows begin in turn and stay in the draw
SINGLE = [(1, 64, 900)]
MULTI = [(2, 48, 100), (4, 48, 200), (8, 24, 150), (16, 16, 150), (32, 10, 300)]


WHAT = {
    "vision": "96 pictures: shape, colour and place by linear heads on CLS and every patch",
    "language": "64 sentences: T5 alone answers questions about a described object",
    "single": "64 frames: Q-Former and T5 answer by a word; tower frozen from here on",
    "multi": "10-48 questions over 2 to 32 frames, one frame or more of the asked moment",
}


def model_card(arguments: argparse.Namespace, report: dict) -> str:
    """README.md of the folder: what it is, data, steps, what was measured, the command."""
    results = "\n".join(f"| {name} | {value} |" for name, value in report["results"].items())
    steps = {"vision": VISION_STEPS, "language": LANGUAGE_STEPS}
    steps |= {"single": sum(w for *_, w in SINGLE), "multi": sum(w for *_, w in MULTI)}
    recipe = "\n".join(
        f"| {name} | {int(count * arguments.scale)} | {WHAT[name]} |"
        for name, count in steps.items()
    )
    return f"""---
license: apache-2.0
---
# tiny

An InstructBLIP-layout model of {report["parameters"]:,} parameters, trained from scratch for the
synthetic `shapes` benchmark. It is there so that every stage runs on a laptop, through the code
that full-size weights go through. It knows six shapes, six colours and four places and nothing
else about the world. Licence: Apache-2.0.

- Vision tower: 4 layers of width {WIDTH} on {IMAGE_SIZE} x {IMAGE_SIZE} pixels, patches of {PATCH}.
- Q-Former: 3 layers (cross-attention in the first and third), {NUM_QUERIES} queries; it reads the
  prompt.
- T5: 3 encoder layers, 1 decoder layer, head not tied to the word embeddings; no dropout.
- Tokenizer: byte-level with {report["pieces"]} pieces; any text goes in and comes back.
- Answers by `rank` (likelihood of each option's text after `Question: ...`). It was not trained to
  answer with letters.

## Data

{arguments.videos:,} generated videos of the split "pretrain" (the benchmark's splits never use its
random streams), 32 frames each, decoded from H.264 and squashed to {IMAGE_SIZE} x {IMAGE_SIZE};
sentences that describe one object. No other data.

## Steps

| stage | steps | what |
|---|---|---|
{recipe}

AdamW, warm-up and cosine; {report["seconds"] / 60:.0f} minutes on two CPU cores shared with other
work.

## Accuracy

In percent, zero-shot, on 600 questions about 200 videos of the split "card", which training never
saw; four options, so chance is 25. Measured on the fp16 weights of this folder.

| frames given | accuracy |
|---|---|
{results}

## Command

    python tools/train_tiny.py --out stages/models/embedded --work WORK \\
        --seed {arguments.seed} --videos {arguments.videos}

Date: {report["date"]}, seed {arguments.seed}, torch {torch.__version__}.
"""


def run_stage(
    name: str,
    model: Tiny,
    texts: Texts,
    clips: Clips,
    features: Tensor | None,
    seed: int,
    scale: float,
    work: Path,
) -> None:
    """One stage of the pre-training, with its own random stream."""
    rng = np.random.default_rng([seed, STAGES.index(name)])
    torch.manual_seed(seed * 10 + STAGES.index(name))
    if name == "vision":
        for stale in work.glob("features-*.safetensors"):
            stale.unlink()
        train_vision(model, clips, rng, int(VISION_STEPS * scale))
    elif name == "language":
        train_language(model, texts, rng, int(LANGUAGE_STEPS * scale))
    else:
        if features is None:
            raise ValueError(f"stage {name} reads stored features")
        plan = [
            (f, b, max(1, int(w * scale))) for f, b, w in (SINGLE if name == "single" else MULTI)
        ]
        rate = 1e-3 if name == "single" else 8e-4
        train_answers(model, texts, features, clips.labels, rng, plan, name, rate, work)


def note_seconds(work: Path, name: str, seconds: float) -> None:
    """Keep how long each stage took, for the card of a run made in several parts."""
    path = work / "seconds.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, name: round(seconds)}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder tiny/ goes here")
    parser.add_argument("--work", type=Path, required=True, help="frames and stage checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--from", dest="first", choices=STAGES, default="vision")
    parser.add_argument("--until", choices=STAGES, default="multi")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every stage's steps")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    started = time.time()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    folder, work = arguments.out / "tiny", arguments.work
    config = layout(write_tokenizers(folder))
    texts = open_texts(folder)
    model = Tiny(config)
    clips = cached_clips(
        work, "pretrain", arguments.seed, arguments.videos, arguments.threads, random_frames=True
    )
    print(f"clips {clips.pixels.shape} {time.time() - started:.0f} s", flush=True)
    stages = STAGES[STAGES.index(arguments.first) : STAGES.index(arguments.until) + 1]
    if arguments.first != "vision":
        load_stage(model, work / f"{STAGES[STAGES.index(arguments.first) - 1]}.safetensors")
    features = None
    for name in stages:
        if name in ("single", "multi") and features is None:
            features = kept_features(
                model, clips, work / f"features-{len(clips.pixels)}.safetensors"
            )
        began = time.time()
        run_stage(name, model, texts, clips, features, arguments.seed, arguments.scale, work)
        save_stage(model, work / f"{name}.safetensors")
        note_seconds(work, name, time.time() - began)
    save_folder(model, config, folder)
    held_out = cached_clips(work, "card", arguments.seed, 200, arguments.threads, False)
    load_stage(model, folder / "model.safetensors")
    results = measure(model, texts, held_out, arguments.seed)
    print(json.dumps(results, indent=1), flush=True)
    parameters = sum(t.numel() for t in load_file(folder / "model.safetensors").values())
    report = {
        "results": results,
        "parameters": parameters,
        "pieces": config["text_config"]["vocab_size"],
        "seconds": sum(json.loads((work / "seconds.json").read_text()).values()),
        "date": datetime.date.today().isoformat(),
    }
    (work / "report.json").write_text(json.dumps(report, indent=1))
    (folder / "README.md").write_text(model_card(arguments, report))


if __name__ == "__main__":
    main()
