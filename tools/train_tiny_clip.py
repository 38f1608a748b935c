"""Train the embedded backbone `tiny-clip`: CLIP's layout at under one million parameters.

    python tools/train_tiny_clip.py --out stages/models/embedded --work /tmp/tiny-clip

One stage on single frames of generated videos: a frame and a sentence about it are drawn together
(contrastive, every frame that fits a sentence counts as right), and linear heads name shape, colour
and place of the object from the frame CLS and from the patches it covers, as for `tiny`.
Frames are stored at 54 pixels and cropped to the tower's 48 at random, as the pipeline's views are.
Writes a Hugging Face folder with fp16 weights and a model card; `--work` keeps the generated frames
and the last state, and `--measure` only writes the card anew.
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
from sklearn.linear_model import LogisticRegression
from tiny_data import IMAGE_SIZE, NUM_FRAMES, Clips, cached_clips
from tiny_tokenizer import build_tokenizer
from torch import Tensor, nn
from train_tiny import COLUMN, MEAN, PATCH, STD, Trainer
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from stages.benchmarks.shapes.questions import TEMPLATES, VALUES
from stages.benchmarks.shapes.scene import SIZE
from stages.models.backbones.catalog import frame_rule

STORED = frame_rule("clip", IMAGE_SIZE).stored
WIDTH, TEXT_WIDTH, SHARED_WIDTH = 128, 96, 64
SPECIALS = ("<|startoftext|>", "<|endoftext|>", "<|pad|>", "<unk>", "<|mask|>")
START, END, PAD = 0, 1, 2
MAX_SCALE = math.log(100)
SHOWN, EMPTY = 80, 16
QUESTION_SHARE = 0.25
NOTHING = ("nothing", "no object", "an empty scene", "only the background")
ARTICLES = ("a", "the", "one")
PLACE_WORDS = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top", "on the top side"),
    "bottom": ("at the bottom", "on the bottom side"),
}


def layout(vocabulary: int) -> dict:
    """config.json of the folder."""
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "projection_dim": SHARED_WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_channels": 3,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "initializer_factor": 1.0,
    }
    text = {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 2 * TEXT_WIDTH,
        "projection_dim": SHARED_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "initializer_factor": 1.0,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": PAD,
    }
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": SHARED_WIDTH,
        "logit_scale_init_value": 2.6592,
        "initializer_factor": 1.0,
        "torch_dtype": "float16",
        "vision_config": vision,
        "text_config": text,
    }


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """tokenizer.json and its settings; the pieces are those of the other embedded backbones."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(SPECIALS, "<|startoftext|> $A <|endoftext|>")
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|pad|>",
        "unk_token": "<unk>",
        "mask_token": "<|mask|>",
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 77,
        "truncation_side": "right",
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **roles,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(roles, indent=2) + "\n")
    return PreTrainedTokenizerFast.from_pretrained(folder)


# --- sentences ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sentence:
    """A text, and the columns of a frame's labels that decide whether the frame fits it.

    Attributes:
        text: What is said.
        named: Attribute -> value number; empty: no object is on the screen.
    """

    text: str
    named: dict[str, int]


def caption(rng: np.random.Generator, label: np.ndarray) -> Sentence:
    """Some of the attributes of the object in a frame, or that there is none."""
    if label[0] < 0:
        return Sentence(str(rng.choice(NOTHING)), {})
    mentioned = [name for name in COLUMN if rng.random() < 0.6]
    mentioned = mentioned or [list(COLUMN)[int(rng.integers(len(COLUMN)))]]
    words = {name: VALUES[name][label[COLUMN[name]]] for name in mentioned}
    noun = words.get("shape", str(rng.choice(("object", "thing"))))
    parts = [str(rng.choice(ARTICLES)), *([words["color"]] if "color" in words else []), noun]
    if "place" in words:
        parts.append(str(rng.choice(PLACE_WORDS[words["place"]])))
    return Sentence(" ".join(parts), {name: int(label[COLUMN[name]]) for name in mentioned})


def question(rng: np.random.Generator, label: np.ndarray) -> Sentence:
    """One of the benchmark's questions that names the object in a frame."""
    template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    number = int(label[COLUMN[template.named]])
    wording = str(rng.choice(template.wordings))
    return Sentence(wording.format(VALUES[template.named][number]), {template.named: number})


def draw_sentence(rng: np.random.Generator, label: np.ndarray) -> Sentence:
    """A caption or, at times, a question about a frame."""
    if label[0] >= 0 and rng.random() < QUESTION_SHARE:
        return question(rng, label)
    return caption(rng, label)


def fits(sentences: list[Sentence], labels: np.ndarray) -> Tensor:
    """bool [frames, sentences]: which frame shows what a sentence names."""
    match = np.ones((len(labels), len(sentences)), dtype=bool)
    for j, sentence in enumerate(sentences):
        match[:, j] = labels[:, 0] < 0 if not sentence.named else labels[:, 0] >= 0
        for name, number in sentence.named.items():
            match[:, j] &= labels[:, COLUMN[name]] == number
    return torch.from_numpy(match)


# --- losses -------------------------------------------------------------------------------------


def crop_frames(pixels: Tensor, offsets: Tensor) -> Tensor:
    """uint8 [N, 54, 54, 3] -> float [N, 3, 48, 48] at `offsets` [N, 2] (top, left), normalised."""
    steps = torch.arange(IMAGE_SIZE)
    rows = (offsets[:, :1] + steps)[:, :, None]
    columns = (offsets[:, 1:] + steps)[:, None, :]
    cut = pixels[torch.arange(len(pixels))[:, None, None], rows, columns]
    return ((cut.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def centre_offsets(count: int) -> Tensor:
    return torch.full((count, 2), (STORED - IMAGE_SIZE) // 2)


def covered_patches(labels: Tensor, offsets: Tensor) -> Tensor:
    """[N, 7] labels, [N, 2] offsets -> bool [N, patches]: which patches the object covers."""
    grid = IMAGE_SIZE // PATCH
    centres = (torch.arange(grid) + 0.5) * PATCH
    scale = SIZE / STORED
    dx = (centres[None] + offsets[:, 1:]) * scale - labels[:, 4:5].float()
    dy = (centres[None] + offsets[:, :1]) * scale - labels[:, 5:6].float()
    distance = (dx[:, None, :] ** 2 + dy[:, :, None] ** 2).sqrt()
    inside = distance < labels[:, 6].float()[:, None, None] + 2
    return (inside & (labels[:, 0] >= 0)[:, None, None]).flatten(1)


def attribute_loss(
    cls: Tensor, patches: Tensor, labels: Tensor, covered: Tensor, heads: nn.ModuleDict
) -> Tensor:
    """Shape, colour and place: CLS names the picture, a patch what covers it."""
    loss = cls.new_zeros(())
    for name, column in COLUMN.items():
        nothing = len(VALUES[name])
        target = torch.where(labels[:, column] < 0, nothing, labels[:, column].long())
        logits = heads[f"patch_{name}"](patches)
        wanted = torch.where(covered, target[:, None], nothing)
        loss = loss + F.cross_entropy(heads[f"cls_{name}"](cls), target)
        loss = loss + F.cross_entropy(logits[covered], wanted[covered])
        loss = loss + 0.3 * F.cross_entropy(logits[~covered], wanted[~covered])
    return loss


def contrastive_loss(logits: Tensor, match: Tensor) -> Tensor:
    """Cross-entropy both ways; all that fit share the target evenly."""
    by_sentence = match / match.sum(0, keepdim=True).clamp(min=1)
    by_frame = match / match.sum(1, keepdim=True).clamp(min=1)
    return -0.5 * (
        (by_sentence * logits.log_softmax(0)).sum(0).mean()
        + (by_frame * logits.log_softmax(1)).sum(1).mean()
    )


def encode_frames(model: CLIPModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Frame CLS [N, WIDTH] after the last LayerNorm, patches [N, P, WIDTH] before it."""
    output = model.vision_model(pixel_values=pixels)
    return output.pooler_output, output.last_hidden_state[:, 1:]


def encode_texts(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Unit vectors [M, SHARED_WIDTH]."""
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    pooled = model.text_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask
    ).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


def train(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    clips: Clips,
    rng: np.random.Generator,
    steps: int,
) -> None:
    """All parameters at once; the heads are thrown away afterwards."""
    heads = nn.ModuleDict(
        {
            f"{part}_{name}": nn.Linear(WIDTH, len(VALUES[name]) + 1)
            for part in ("cls", "patch")
            for name in COLUMN
        }
    )
    pixels = torch.from_numpy(clips.pixels).flatten(0, 1)
    labels = clips.labels.reshape(-1, clips.labels.shape[-1])
    shown, empty = np.flatnonzero(labels[:, 0] >= 0), np.flatnonzero(labels[:, 0] < 0)
    trainer = Trainer("clip", [*model.parameters(), *heads.parameters()], 1e-3, steps)
    for _ in range(steps):
        chosen = np.concatenate([rng.choice(shown, SHOWN), rng.choice(empty, EMPTY)])
        offsets = torch.from_numpy(rng.integers(STORED - IMAGE_SIZE + 1, size=(len(chosen), 2)))
        sentences = [draw_sentence(rng, labels[i]) for i in chosen]
        cls, patches = encode_frames(model, crop_frames(pixels[chosen], offsets))
        texts = encode_texts(model, tokenizer, [s.text for s in sentences])
        frames = F.normalize(model.visual_projection(cls), dim=-1)
        logits = model.logit_scale.clamp(max=MAX_SCALE).exp() * frames @ texts.T
        match = fits(sentences, labels[chosen])
        own = torch.from_numpy(labels[chosen])
        even = F.layer_norm(patches, patches.shape[-1:])
        loss = contrastive_loss(logits, match.float())
        loss = loss + attribute_loss(cls, even, own, covered_patches(own, offsets), heads)
        right = match[logits.argmax(0), torch.arange(len(sentences))].float().mean().item()
        trainer.step(loss, right)


# --- what came out ------------------------------------------------------------------------------


@torch.no_grad()
def stored(model: CLIPModel, clips: Clips) -> tuple[Tensor, Tensor]:
    """CLS [V, 32, C] and patches [V, 32, P, C] in half precision, as the features stage keeps."""
    cls, patches = [], []
    for video in torch.from_numpy(clips.pixels):
        a, b = encode_frames(model, crop_frames(video, centre_offsets(len(video))))
        cls.append(a.half())
        patches.append(b.half())
    return torch.stack(cls), torch.stack(patches)


def random_recall(good: int, keep: int) -> float:
    """Chance that `keep` of the frames, drawn without return, include one of `good`."""
    return 1 - math.comb(NUM_FRAMES - good, keep) / math.comb(NUM_FRAMES, keep)


@torch.no_grad()
def keyframes(
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    cls: Tensor,
    labels: np.ndarray,
    rng: np.random.Generator,
    keep: int = 4,
) -> dict[str, float]:
    """Recall and precision in percent of the `keep` frames most similar to a text about a moment.

    A good frame is one of the moment, as the benchmark's `keyframe_recall` counts it.
    """
    found: dict[str, list[float]] = {}
    for video in range(len(cls)):
        frames = F.normalize(model.visual_projection(cls[video].float()), dim=-1)
        moments = labels[video, :, 0]
        for moment in np.unique(moments[moments >= 0]):
            label = labels[video, np.flatnonzero(moments == moment)[0]]
            good = moments == moment
            for kind, draw in (("question", question), ("caption", caption)):
                text = encode_texts(model, tokenizer, [draw(rng, label).text])[0]
                best = (frames @ text).topk(keep).indices.numpy()
                found.setdefault(f"{kind}, recall", []).append(float(good[best].any()))
                found.setdefault(f"{kind}, precision", []).append(float(good[best].mean()))
            found.setdefault("random 4, recall", []).append(random_recall(int(good.sum()), keep))
            found.setdefault("random 4, precision", []).append(float(good.mean()))
    return {name: round(100 * float(np.mean(hits)), 1) for name, hits in sorted(found.items())}


def probe(model: CLIPModel, train_clips: Clips, test_clips: Clips) -> dict[str, float]:
    """Accuracy in percent of linear probes on stored CLS, and on the patch under the object."""
    rows = {}
    sides = {"train": train_clips, "test": test_clips}
    for side, clips in sides.items():
        cls, patches = stored(model, clips)
        labels = clips.labels.reshape(-1, clips.labels.shape[-1])
        shown = labels[:, 0] >= 0
        place = patch_of(labels[shown])
        picked = patches.flatten(0, 1)[torch.from_numpy(shown)]
        rows[side] = {
            "CLS": cls.flatten(0, 1)[torch.from_numpy(shown)].float().numpy(),
            "patch": picked[torch.arange(len(place)), torch.from_numpy(place)].float().numpy(),
            "labels": labels[shown],
        }
    results = {}
    for part in ("CLS", "patch"):
        mean, spread = rows["train"][part].mean(0), rows["train"][part].std(0) + 1e-6
        scaled = {side: (rows[side][part] - mean) / spread for side in sides}
        for name, column in COLUMN.items():
            fitted = LogisticRegression(max_iter=300).fit(
                scaled["train"], rows["train"]["labels"][:, column]
            )
            score = fitted.score(scaled["test"], rows["test"]["labels"][:, column])
            results[f"{part}, {name}"] = round(100 * float(score), 1)
    return results


def patch_of(labels: np.ndarray) -> np.ndarray:
    """The patch of the centre crop in which an object's centre lies."""
    grid = IMAGE_SIZE // PATCH
    margin = (STORED - IMAGE_SIZE) // 2
    place = ((labels[:, 4:6] * STORED / SIZE - margin) // PATCH).astype(int).clip(0, grid - 1)
    return place[:, 1] * grid + place[:, 0]


# --- the folder ---------------------------------------------------------------------------------


def save_folder(model: CLIPModel, config: dict, folder: Path) -> None:
    """config.json, fp16 model.safetensors and preprocessor_config.json."""
    tensors = {n: t.detach().half().contiguous().clone() for n, t in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"shortest_edge": STORED},
        "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def model_card(arguments: argparse.Namespace, report: dict) -> str:
    """README.md of the folder: what it is, data, steps, what was measured, the command."""

    def table(values: dict[str, float]) -> str:
        return "\n".join(f"| {name} | {value} |" for name, value in values.items())

    return f"""---
license: apache-2.0
---
# tiny-clip

A CLIP-layout model of {report["parameters"]:,} parameters, trained from scratch for the synthetic
`shapes` benchmark, so that VideoDistill and CLIP frame selection run on a laptop through the code
that full-size weights go through. It knows six shapes, six colours and four places and nothing else
about the world. Licence: Apache-2.0.

- Vision tower: 4 layers of width {WIDTH} on {IMAGE_SIZE} x {IMAGE_SIZE} pixels, patches of {PATCH}.
  Frames are stored at {STORED} pixels on the short side; the tower sees the central {IMAGE_SIZE}.
- Text tower: 3 causal layers of width {TEXT_WIDTH}, 77 positions, read at `<|endoftext|>`.
- Both are projected to {SHARED_WIDTH} dimensions.
- Tokenizer: byte-level with {report["pieces"]} pieces; any text goes in and comes back.

## Data

{arguments.videos:,} generated videos of the split "pretrain" (the benchmark's splits never use its
random streams), 32 frames each, decoded from H.264. Sentences are made from the labels: captions of
one to three attributes and, in a quarter of the cases, one of the benchmark's questions with its
named attribute. No other data.

## Steps

{report["steps"]} steps of {SHOWN + EMPTY} frames ({EMPTY} of them without an object) in random
crops, each with one sentence: contrastive loss in which all frames that fit a sentence are right,
plus linear heads for shape, colour and place on frame CLS and patches, as for `tiny`. AdamW,
warm-up and cosine; {report["seconds"] / 60:.0f} minutes of CPU time in {arguments.threads}
thread(s).

## Keyframes

Zero-shot, in percent: the 4 of 32 midpoint frames with the largest cosine to a text about one
moment, in 200 videos of the split "card", which training never saw ({report["texts"]} moments, one
question and one caption each). Recall: one of the four lies in the moment; precision: the share of
the four that does. Measured on the fp16 weights of this folder.

| text | percent |
|---|---|
{table(report["keyframes"])}

## Linear probes

Accuracy in percent of logistic regression from what the features stage stores (fp16; CLS after the
last LayerNorm, the patch at the object's centre before it), fitted on {report["probe_videos"]}
videos of "pretrain", tested on "card"; chance is 16.7 (shape, colour) and 25 (place).

| from, what | accuracy |
|---|---|
{table(report["probes"])}

## Command

    python tools/train_tiny_clip.py --out stages/models/embedded --work WORK \\
        --seed {arguments.seed} --videos {arguments.videos} --steps {arguments.steps}

Date: {report["date"]}, seed {arguments.seed}, torch {torch.__version__}.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder tiny-clip/ goes here")
    parser.add_argument("--work", type=Path, required=True, help="frames and the last state")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", action="store_true", help="do not train; measure --work")
    return parser.parse_args()


def trained(
    arguments: argparse.Namespace,
    config: dict,
    tokenizer: PreTrainedTokenizerFast,
    clips: Clips,
) -> CLIPModel:
    """A trained model, or the one that an earlier run left in the work folder."""
    model = CLIPModel(CLIPConfig(**config))
    state, clock = arguments.work / "clip.safetensors", arguments.work / "seconds.json"
    if arguments.measure:
        model.load_state_dict(load_file(state))
        return model
    began = time.process_time()
    rng = np.random.default_rng([arguments.seed, 7])
    train(model, tokenizer, clips, rng, arguments.steps)
    save_file({n: t.detach().clone() for n, t in model.state_dict().items()}, state)
    clock.write_text(
        json.dumps({"clip": round(time.process_time() - began), "steps": arguments.steps})
    )
    return model


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    folder, work = arguments.out / "tiny-clip", arguments.work
    tokenizer = write_tokenizer(folder)
    config = layout(len(tokenizer))
    count, threads = arguments.videos, arguments.threads
    clips = cached_clips(work, "pretrain", arguments.seed, count, threads, True, STORED)
    held_out = cached_clips(work, "card", arguments.seed, 200, threads, False, STORED)
    model = trained(arguments, config, tokenizer, clips)
    save_folder(model, config, folder)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.eval()
    some = Clips(clips.pixels[:300], clips.labels[:300])
    cls, _ = stored(model, held_out)
    clock = json.loads((work / "seconds.json").read_text())
    report = {
        "keyframes": keyframes(
            model, tokenizer, cls, held_out.labels, np.random.default_rng(arguments.seed)
        ),
        "probes": probe(model, some, held_out),
        "probe_videos": len(some.pixels),
        "texts": sum(len(np.unique(v[:, 0][v[:, 0] >= 0])) for v in held_out.labels),
        "parameters": sum(t.numel() for t in load_file(folder / "model.safetensors").values()),
        "pieces": len(tokenizer),
        "steps": clock["steps"],
        "seconds": clock["clip"],
        "date": datetime.date.today().isoformat(),
    }
    print(json.dumps(report, indent=1), flush=True)
    (folder / "README.md").write_text(model_card(arguments, report))


if __name__ == "__main__":
    main()
