"""Tensors by the part of the network they belong to, for reports and for `--allow-missing`.

Works on the names of a checkpoint after they were brought into ours (`naming`), and says the same
of any layout: `vision`, `ln_vision`, `qformer`, `query_tokens`, `language_projection`, `language`,
`frame_prompter`, `distill_decoder`, `lora`; with `answerer.`, `localizer.` or `teacher.` before the
name where a network has the part more than once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from stages.checkpoints.tensor_files import Stored, dtype_counts

VISION, LANGUAGE, LORA = "vision", "language", "lora"
TOWERS = (VISION, LANGUAGE)
"""What weights artifacts leave to the backbone."""
SIDES = ("answerer", "localizer", "teacher")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def group_of(ours: str) -> str:
    """The group of one of our names."""
    side, _, rest = ours.partition(".")
    if side in SIDES:
        return f"{side}.{group_of(rest)}"
    if side == "vision_model":
        return "ln_vision" if rest.startswith("post_layernorm.") else VISION
    if side == "language_model":
        return LORA if "lora_" in rest else LANGUAGE
    return side


def covers(allowed: Iterable[str], group: str) -> bool:
    """Whether `group` or the side it is of was named: `localizer` covers `localizer.qformer`."""
    return any(group == name or group.startswith(f"{name}.") for name in allowed)


def pattern_of(name: str) -> str:
    """A name with its layer numbers left out: `encoder.layer.{i}.output.dense.bias`."""
    return _NUMBER.sub("{i}", name)


def summary(name: str, tensors: Mapping[str, Stored]) -> dict[str, Any]:
    """One group of a checkpoint: counts, types, and its names with their shapes."""
    patterns: dict[tuple[str, tuple[int, ...], str], int] = {}
    for tensor, item in tensors.items():
        key = (pattern_of(tensor), item.shape, item.dtype)
        patterns[key] = patterns.get(key, 0) + 1
    return {
        "group": name,
        "tensors": len(tensors),
        "parameters": sum(item.elements for item in tensors.values()),
        "dtypes": dtype_counts(tensors),
        "names": [
            {"name": pattern, "shape": list(shape), "dtype": dtype, "count": count}
            for (pattern, shape, dtype), count in patterns.items()
        ],
    }
