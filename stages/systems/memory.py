"""What memory an evaluation wants at its peak, by its inputs and its configuration."""

from __future__ import annotations

from typing import Any

from stages.core.memory import Peak
from stages.models.backbones.catalog import backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.memory import answering_peak, videodistill_peak
from stages.models.videodistill_config import VideoDistillConfig
from stages.systems.inputs import EvaluateConfig, EvaluateInputs
from stages.systems.moment_inputs import MomentsConfig

LOOK_AT_ALL = ("localizer", "topk", "atp", "own", "prompter", "all")
"""Selectors that read the tokens of every frame."""


def evaluation_peak(inputs: EvaluateInputs, config: EvaluateConfig, device: str) -> Peak:
    """The most memory of `vqa eval`, moments and retrieval included."""
    folder = BackboneFolder(backbone_path(inputs.backbone))
    made = inputs.weights.config if inputs.weights is not None else {}
    if config.system == "videodistill":
        network = VideoDistillConfig.build({**made["model"], **_known(config.model)}, "eval: model")
        return videodistill_peak(
            folder.config, network, device=device, pairs=config.batch_size, train=False
        )
    scores = config.system == "blip2-voting" or config.select == "localizer"
    return answering_peak(
        folder.config,
        device=device,
        batch=config.batch_size,
        seen=config.frames if config.select in LOOK_AT_ALL else config.keep,
        kept=1 if isinstance(config, MomentsConfig) else config.keep,
        half=precision_of(made, config.precision) != "float32",
        scores_frames=scores,
        sides=2 if config.select == "localizer" else 1,
        budget=int(config.model.get("row_budget", made.get("model", {}).get("row_budget", 256))),
    )


def precision_of(made: dict[str, Any], zero_shot: str) -> str:
    """The arithmetic of weights, or of a backbone as it is."""
    return str(made.get("training", {}).get("precision", zero_shot))


def _known(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in VideoDistillConfig.model_fields}
