"""Folders in Hugging Face layout at the published sizes, with random weights: nothing to download.

    python tools/full_size_backbones.py DIR [--layout LAYOUT,...] [--size full|small]

Writes DIR/instructblip, DIR/blip-2 and DIR/clip: `config.json`, safetensors in shards with an
index, `preprocessor_config.json` and tokenizers. The sizes are those of `instructblip-flan-t5-xl`,
`blip2-flan-t5-xl` and `clip-vit-base-patch16` (specs/vlap.md 1.1, specs/sevila.md 1.1);
`small` has as many tokens and little else. Tensors are drawn and written one shard at a time, so
that memory stays below about two shards. Then the vision tower is read back, and features of two
random frames must have a standard deviation between 0.01 and 100 and survive float16: a tower of
transformers' own initial values gives zeros, on which any test passes (specs/vlap.md 7.3, trap 8).

T5's tokenizer has the published ids where the tool looks for them (letters, yes, no, the trailing
space), words of the embedded tokenizer and single characters elsewhere. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import string
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
)
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

sys.path.insert(0, str(Path(__file__).parent))
from tiny_tokenizer import BERT_SPECIALS, build_tokenizer, pieces

from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.sizes import SIZES, backbone_config, clip_config
from stages.models.backbones.text import (
    FLAN_T5_LETTERS,
    FLAN_T5_NO,
    FLAN_T5_SPACE,
    FLAN_T5_YES,
    LETTERS,
)
from stages.models.backbones.towers import load_tower
from stages.models.backbones.vision import CLIP_MEAN, CLIP_STD

LAYOUTS = ("instructblip", "blip-2", "clip")
SHARD_BYTES = 500_000_000
STD = 0.02
T5_PIECES = 32_100
SPACE = "\u2581"
CLIP_SPECIALS = ("<|startoftext|>", "<|endoftext|>", "<|pad|>", "<unk>")
FEATURE_STD = (0.01, 100.0)


# --- weights -------------------------------------------------------------------------------------


def layout_config(layout: str, size: str) -> dict[str, Any]:
    """`config.json` of one folder."""
    return clip_config(size) if layout == "clip" else backbone_config(layout, size)


def tensor_shapes(layout: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes that `save_pretrained` would write; nothing is allocated."""
    known = {
        "instructblip": (InstructBlipForConditionalGeneration, InstructBlipConfig),
        "blip-2": (Blip2ForConditionalGeneration, Blip2Config),
        "clip": (CLIPModel, CLIPConfig),
    }
    network, kind = known[layout]
    with torch.device("meta"):
        model = network(kind(**config))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return {name: shape for name, shape in shapes.items() if "embed_tokens" not in name}


def spread(name: str, text: Mapping[str, Any]) -> float:
    """Standard deviation of a weight's initial values: T5's own rules, 0.02 elsewhere.

    T5 does not divide attention by the square root of its width; its queries start smaller.
    """
    if not name.startswith("language_model."):
        return STD
    width, inner = float(text["d_model"]), float(text["num_heads"] * text["d_kv"])
    if name.endswith("shared.weight"):
        return 1.0
    if ".q.weight" in name:
        return (width * float(text["d_kv"])) ** -0.5
    if ".o.weight" in name:
        return inner**-0.5
    if ".wo.weight" in name:
        return float(text["d_ff"]) ** -0.5
    return width**-0.5


def draw(name: str, shape: tuple[int, ...], std: float, rng: torch.Generator) -> Tensor:
    """One tensor in float16: norms are 1, biases 0, all else normal."""
    if name == "logit_scale":
        return torch.tensor(2.6592, dtype=torch.float16)
    norm = any(part in name.lower() for part in ("norm", "layrnorm"))
    if norm and name.endswith("weight"):
        return torch.ones(shape, dtype=torch.float16)
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.float16)
    return torch.randn(shape, generator=rng).mul_(std).to(torch.float16)


def shards(shapes: Mapping[str, tuple[int, ...]], limit: int) -> Iterator[list[str]]:
    """Names in order, as many to a shard as fit in `limit` bytes of float16."""
    part: list[str] = []
    size = 0
    for name, shape in shapes.items():
        count = 2 * torch.Size(shape).numel()
        if part and size + count > limit:
            yield part
            part, size = [], 0
        part.append(name)
        size += count
    yield part


def write_weights(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], limit: int
) -> int:
    """Shards and their index; returns the bytes of all tensors."""
    rng = torch.Generator().manual_seed(0)
    text = config.get("text_config", {})
    parts = list(shards(shapes, limit))
    where: dict[str, str] = {}
    total = 0
    for number, names in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        tensors = {name: draw(name, shapes[name], spread(name, text), rng) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return total


# --- tokenizers ----------------------------------------------------------------------------------


def flan_t5_tokenizer() -> Tokenizer:
    """32,100 pieces with the published ids of what answers and frame prefixes are made of."""
    fixed = {0: "<pad>", 1: "</s>", 2: "<unk>", FLAN_T5_SPACE: SPACE}
    fixed |= {place: SPACE + one for place, one in zip(FLAN_T5_LETTERS, LETTERS, strict=True)}
    fixed |= {FLAN_T5_YES: f"{SPACE}yes", FLAN_T5_NO: f"{SPACE}no"}
    words = [piece[1:] for piece in pieces(()) if piece.startswith("\u0120")]
    wanted = [SPACE + word for word in (*words, *string.digits)]
    wanted += [one for one in string.printable if not one.isspace()]
    rest = iter(dict.fromkeys(piece for piece in wanted if piece not in fixed.values()))
    listed = [fixed.get(place) or next(rest, f"<unused_{place}>") for place in range(T5_PIECES)]
    # One piece always beats the same text in two: the sum over two is lower.
    vocabulary = [(piece, -1.0 - 0.001 * (len(piece) == 1)) for piece in listed]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def write_tokenizers(folder: Path, layout: str) -> None:
    """`tokenizer.json`, and for InstructBLIP the Q-Former's below it."""
    if layout == "clip":
        template = "<|startoftext|> $A <|endoftext|>"
        build_tokenizer(CLIP_SPECIALS, template).save(str(folder / "tokenizer.json"))
        return
    flan_t5_tokenizer().save(str(folder / "tokenizer.json"))
    if layout == "instructblip":
        below = folder / "qformer_tokenizer"
        below.mkdir(exist_ok=True)
        bert = build_tokenizer(BERT_SPECIALS, "[CLS] $A [SEP]")
        bert.save(str(below / "tokenizer.json"))


# --- the folder, and whether its features are any ------------------------------------------------


def write_folder(folder: Path, layout: str, size: str, limit: int = SHARD_BYTES) -> int:
    """Write one backbone; returns the bytes of its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = layout_config(layout, size)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    statistics = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(statistics) + "\n")
    write_tokenizers(folder, layout)
    return write_weights(folder, tensor_shapes(layout, config), config, limit)


def check_features(folder: Path) -> dict[str, Any]:
    """Features of two random frames.

    Raises:
        SystemExit: They vanish, explode, or do not fit into float16.
    """
    tower = load_tower(BackboneFolder(folder))
    size = tower.spec.image_size
    rng = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (2, size, size, 3), generator=rng, dtype=torch.uint8)
    tokens = tower.encode(tower.preprocess(frames)).tokens
    std, largest = float(tokens.std()), float(tokens.abs().max())
    if not (FEATURE_STD[0] <= std <= FEATURE_STD[1] and torch.isfinite(tokens.half()).all()):
        raise SystemExit(f"{folder}: features have std {std:.3g} and reach {largest:.3g}")
    apart = float((tokens[0] - tokens[1]).std())
    return {"std": std, "largest": largest, "std_between_two_frames": apart}


def main() -> None:
    """Write, check, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layout", default=",".join(LAYOUTS))
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES)
    parser.add_argument("--no-check", action="store_true", help="do not read the tower back")
    given = parser.parse_args()
    report = {}
    for layout in given.layout.split(","):
        if layout not in LAYOUTS:
            parser.error(f"no layout {layout!r}: {', '.join(LAYOUTS)}")
        began = time.perf_counter()
        written = write_folder(given.folder / layout, layout, given.size, given.shard_bytes)
        seconds = round(time.perf_counter() - began, 2)
        checked = {} if given.no_check else check_features(given.folder / layout)
        report[layout] = {"bytes": written, "seconds": seconds, "features": checked}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
