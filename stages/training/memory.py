"""What memory a training wants at its peak, by the configuration of the weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from stages.artifacts.store import Request
from stages.core.device import resolve_device
from stages.core.memory import Peak, require_room
from stages.core.runtime import Runtime
from stages.models.backbones.catalog import backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.memory import PAIRS_OF_A_QUESTION, training_peak, videodistill_peak
from stages.models.videodistill_config import VideoDistillConfig


def weights_peak(made: Mapping[str, Any], backbone: str, device: str) -> Peak:
    """The most memory of the training whose resolved configuration is `made`, in one process.

    Args:
        made: `config` of the weights artifact.
        backbone: Name or folder of the backbone.
        device: Device type.
    """
    config = BackboneFolder(backbone_path(backbone)).config
    return peak_of_training(made, config, device)


def peak_of_training(made: Mapping[str, Any], config: Mapping[str, Any], device: str) -> Peak:
    """The same by the backbone's `config.json`."""
    training = made["training"]
    batch = -(-int(training["batch_size"]) // int(os.environ.get("WORLD_SIZE", "1")))
    if made["system"] == "videodistill":
        network = VideoDistillConfig.build(dict(made["model"]), "model")
        pairs = batch * PAIRS_OF_A_QUESTION.get(made["task"], 1)
        return videodistill_peak(config, network, device=device, pairs=pairs, train=True)
    frames, keep, seen, learnt = _looked_at(made)
    tuned = {
        "batch": made["eval_batch_size"],
        "seen": frames,
        "kept": keep,
        "scores_frames": made["system"] == "sevila",
    }
    return training_peak(
        config,
        device=device,
        batch=batch,
        seen=seen,
        learnt=learnt,
        half=training["precision"] != "float32",
        frames_alone=made["role"] == "localizer",
        frozen_sides=int(made["role"] in ("student", "answerer", "localizer")),
        tuned=tuned,
    )


def _looked_at(made: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """T, K, and of a training step: frames that are read, and that gradients go through."""
    if made["system"] == "vlap":
        frames, keep = int(made["model"]["frames"]), int(made["model"]["keep"])
        return frames, keep, keep if made["role"] == "start" else frames, keep
    frames, keep = int(made["frames"]), int(made["keep"] or made["frames"])
    if made["role"] == "localizer":
        drawn = int(made["frames_per_question"])
        return frames, keep, drawn, drawn
    chosen_before = made["select"] in ("localizer", "uniform", "random", "oracle")
    chosen_before &= not made["dropout_in_choice"]
    return frames, keep, keep if chosen_before else frames, keep


def require_training_room(request: Request, backbone: str, runtime: Runtime) -> None:
    """Before anything is loaded: warn where memory will be short, refuse where it cannot do.

    Raises:
        MachineError: The networks alone do not fit.
    """
    device = resolve_device(runtime.device)
    require_room(weights_peak(request.config, backbone, device.type), device)
