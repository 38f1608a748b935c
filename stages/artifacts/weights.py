"""The weights artifact: what a training stage learnt, and nothing of the frozen backbone.

weights.safetensors   trained tensors, names as in `models.reference_names`
vocabulary.json       VideoDistill's open-ended weights: the answers that its head knows, by place
metrics.jsonl         loss, learning rate, gradient norm, tune accuracy (a log: holds timings)
"""

from __future__ import annotations

from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from stages.artifacts import atomic
from stages.artifacts.store import Artifact, Draft
from stages.core.errors import DataError

WEIGHTS_FILE = "weights.safetensors"


def write_weights(draft: Draft, tensors: dict[str, Tensor]) -> None:
    """Write the trained tensors; equal tensors give equal bytes."""
    contiguous = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    atomic.write_bytes(draft.path / WEIGHTS_FILE, safetensors.torch.save(contiguous))


def read_weights(artifact: Artifact) -> dict[str, Tensor]:
    """The trained tensors.

    Raises:
        DataError: The file is damaged.
    """
    path = artifact.path / WEIGHTS_FILE
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error})", "vqa artifacts verify") from None


def backbone_of(artifact: Artifact) -> str:
    """Name of the backbone, or the folder it was read from on this machine."""
    host: dict[str, Any] = artifact.manifest["host"]
    return str(host.get("backbone_folder") or artifact.config["backbone"])
