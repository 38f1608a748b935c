"""The published sizes on a CPU: loading, a few frames through ViT-g, one question through T5-XL.

    python tools/full_size_backbones.py DIR --layout instructblip
    python benchmarks/full_size_cpu.py DIR/instructblip [--precision bfloat16] [--frames 2]

Weights are random, the layout and the code are those of real ones. One part is in memory at a time:
the vision tower alone (float32) for the frames, as in `extract-features`; then Q-Former and T5 for
one question about K frames, as in `eval`. For each, the most memory in use while loading over the
bytes of the parts that are needed, in the precision that they are held in; mapped pages of the
files count. Times are wall times, and the process's own CPU time beside them.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from stages.bench.clock import head, peak_bytes, reset_peak, resident_bytes
from stages.bench.schedules import prompts
from stages.bench.work import make_work
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.sizes import backbone_size
from stages.models.backbones.vision import VisionTower
from stages.models.vlap import VlapConfig, answer_frames

CPU = torch.device("cpu")
LOAD_LIMIT = 1.15
MEMORY_LIMIT = 24 * 2**30
KEEP = 4
FILLER = 34
FEATURE_STD = (0.01, 100.0)


def timed(call: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Wall and CPU seconds, and what came out."""
    began, used = time.perf_counter(), time.process_time()
    found = call()
    seconds = {"wall": time.perf_counter() - began, "cpu": time.process_time() - used}
    return {name: round(value, 2) for name, value in seconds.items()}, found


def held_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's tensors, each once."""
    tensors = {id(one): one for one in (*module.parameters(), *module.buffers())}
    return sum(one.nbytes for one in tensors.values())


def loading(load: Callable[[], Any], empty: int) -> tuple[dict[str, Any], Any]:
    """Time of loading a part, and the most memory beyond the `empty` process's."""
    gc.collect()
    reset_peak(CPU)
    seconds, module = timed(load)
    grown, needed = peak_bytes(CPU) - empty, held_bytes(module)
    share = round(grown / needed, 3)
    return {
        "seconds": seconds,
        "bytes_held": needed,
        "peak_bytes_while_loading": grown,
        "peak_over_held": share,
        "target": {"at_most": LOAD_LIMIT, "met": share <= LOAD_LIMIT},
    }, module


def frames_through(
    folder: BackboneFolder, count: int, empty: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """The tower on `count` frames, and features as they would be stored."""
    record, tower = loading(lambda: VisionTower.load(folder, CPU, "float32"), empty)
    work = make_work(1, 1, tower.spec.image_size, count)
    pixels = tower.preprocess(work.frames[0])
    seconds, features = timed(lambda: tower.features(pixels))
    std = float(features.std())
    stored = features.half()
    if not (FEATURE_STD[0] <= std <= FEATURE_STD[1] and stored.isfinite().all()):
        raise SystemExit(f"features have a standard deviation of {std:.3g}")
    flops = backbone_size(folder.config).tower.flops
    return {
        "loading": record,
        "frames": count,
        "seconds": seconds,
        "operations_per_cpu_second": round(count * flops / seconds["cpu"]),
        "feature_std": round(std, 4),
        "largest": round(float(features.abs().max()), 3),
    }, stored


def question_through(
    folder: BackboneFolder, features: torch.Tensor, precision: Any, empty: int
) -> dict[str, Any]:
    """Q-Former and T5 on one question about K frames."""
    record, model = loading(lambda: InstructBlip.load(folder, CPU, precision).eval(), empty)
    question = make_work(1, 1, 32, 1, FILLER).questions[0]
    text = model.read_text(prompts([question]))
    kept = features[torch.arange(KEEP) % len(features)][None].float()
    config = VlapConfig(frames=KEEP, keep=KEEP)
    counts = [len(question.options)]
    reset_peak(CPU)
    seconds, scores = timed(
        lambda: answer_frames(model, config, kept, text, mode="letter", num_options=counts)
    )
    size = backbone_size(folder.config)
    length = KEEP * size.qformer.queries + int(text.t5_mask.sum())
    flops = (
        KEEP * size.qformer.flops(size.tower.tokens, int(text.qformer_mask.sum()))
        + size.language.encoder_flops(length)
        + size.language.decoder_flops(length, 2)
    )
    return {
        "loading": record,
        "precision": precision,
        "frames": KEEP,
        "ids_in_the_prompt": int(text.t5_mask.sum()),
        "seconds": seconds,
        "operations_per_cpu_second": round(flops / seconds["cpu"]),
        "finite": bool(torch.isfinite(scores[:, : counts[0]]).all()),
        "peak_bytes": peak_bytes(CPU),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="bfloat16", help="of T5; several with commas")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    folder = BackboneFolder(given.folder)
    empty = resident_bytes()
    tower, features = frames_through(folder, given.frames, empty)
    answers = [
        question_through(folder, features, name, empty) for name in given.precision.split(",")
    ]
    largest = max(
        *(one["peak_bytes"] for one in answers), tower["loading"]["peak_bytes_while_loading"]
    )
    command = shlex.join(["python", *sys.argv[:1], "DIR/instructblip", *sys.argv[2:]])
    record = {
        **head("full_size_cpu", "cpu", command),
        "clock": "wall and cpu",
        "threads": torch.get_num_threads(),
        "weights": "random, at the sizes of instructblip-flan-t5-xl, stored as float16",
        "vision_tower": tower,
        "questions": answers,
        "peak_bytes": largest,
        "targets": {"peak_bytes": {"at_most": MEMORY_LIMIT, "met": largest <= MEMORY_LIMIT}},
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
