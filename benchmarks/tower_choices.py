"""Frames through the vision tower with eager attention, SDPA, half precision and torch.compile.

    python benchmarks/tower_choices.py [--size full --layers 2] [--frames 8] [--device cpu]

Random weights in the published width with fewer layers say the same about time per layer. Every way
is compared with eager float32: its speed, and the largest difference of its features over their
standard deviation. On a CPU one thread and the process's own time. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import InstructBlipVisionModel

from stages.bench.clock import Clock, head, one_thread, ratio, rounds_of
from stages.bench.networks import Source
from stages.core.device import resolve_device
from stages.models.backbones.vision import Precision, VisionTower, vision_config, vision_spec

WAYS: dict[str, tuple[str, Precision, bool]] = {
    "eager float32": ("eager", "float32", False),
    "sdpa float32": ("sdpa", "float32", False),
    "sdpa float32 compiled": ("sdpa", "float32", True),
    "sdpa bfloat16": ("sdpa", "bfloat16", False),
    "sdpa bfloat16 compiled": ("sdpa", "bfloat16", True),
    "sdpa float16": ("sdpa", "float16", False),
}
"""Attention, arithmetic, compiled."""
REFERENCE = "eager float32"


def tower(size: str, layers: int | None, device: torch.device, way: str) -> VisionTower:
    """The tower of one way; all have the same random weights."""
    attention, precision, compiled = WAYS[way]
    values = vision_config(Source(size, device, "float32").config("instructblip"), size)
    if layers is not None:
        values.num_hidden_layers = layers
    torch.manual_seed(0)
    with device:
        model = InstructBlipVisionModel(values)
    model.set_attn_implementation(attention)
    made = VisionTower(model, vision_spec(values), precision).to(device)
    if compiled:
        made.model.encoder = torch.compile(made.model.encoder)
    return made


def main() -> None:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small", help="tiny, small or full")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    warm_up: dict[str, float] = {}
    found: dict[str, torch.Tensor] = {}
    ways: dict[str, Callable[[], Any]] = {}
    with one_thread(device), torch.no_grad():
        for name in WAYS:
            made = tower(arguments.size, arguments.layers, device, name)
            side = made.spec.image_size
            pixels = torch.randn(
                arguments.frames, 3, side, side, generator=torch.Generator().manual_seed(1)
            ).to(device)
            ways[name] = lambda made=made, pixels=pixels: made.features(pixels)
            began = time.perf_counter()
            found[name] = ways[name]().cpu()
            warm_up[name] = round(time.perf_counter() - began, 2)
            ways[name]()
        seconds = rounds_of(ways, Clock(device), arguments.rounds)
    spread = found[REFERENCE].std()
    flags = " ".join(
        f"--{name} {value}" for name, value in vars(arguments).items() if value is not None
    )
    record = {
        **head("tower choices", str(device), f"python benchmarks/tower_choices.py {flags}"),
        "config": vars(arguments),
        "ms_per_frame": {
            name: round(1000 * statistics.median(values) / arguments.frames, 3)
            for name, values in seconds.items()
        },
        "times_faster_than_eager_float32": {
            name: round(ratio(seconds[REFERENCE], values), 3) for name, values in seconds.items()
        },
        "largest_difference_over_std": {
            name: float(f"{float((values - found[REFERENCE]).abs().max() / spread):.2g}")
            for name, values in found.items()
        },
        "first_call_seconds": warm_up,
    }
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
