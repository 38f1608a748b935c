"""The tensors that an import must fill, by name and shape, in the sizes of a base backbone.

The networks are built on the meta device from the base's `config.json`, so nothing is allocated
and there is no second list of names beside the modules themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Blip2VisionModel, InstructBlipVisionModel

from stages.checkpoints.naming import EMBEDDING_ALIASES, System
from stages.models.backbones.blip2 import Blip2, VisualSide
from stages.models.backbones.folder import explained_config
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.vision import vision_config
from stages.models.reference_names import ours_from_huggingface_name
from stages.models.vlap import VlapConfig, VlapStudent, VlapTeacher, trained_state

Shapes = dict[str, tuple[int, ...]]
LAYOUTS: Mapping[System, str] = {"vlap": "instructblip", "sevila": "blip-2"}
"""`model_type` of the backbone that a system stands on."""


BASE_CONFIG = "config.json of the base"


def vlap_shapes(
    config: dict[str, Any], network: VlapConfig, role: str, tokens: int, where: str = BASE_CONFIG
) -> Shapes:
    """What VLAP weights of `role` hold on a backbone of `config`, which lies at `where`.

    Raises:
        DataError: The config makes no network.
    """
    with explained_config(where), torch.device("meta"):
        backbone = InstructBlip.from_config(config)
        model: VlapStudent | VlapTeacher
        if role == "student":
            model = VlapStudent(backbone, network, tokens=tokens)
        else:
            model = VlapTeacher(backbone, network)
    return _shapes(trained_state(model))


def sevila_shapes(config: dict[str, Any], roles: list[str], where: str = BASE_CONFIG) -> Shapes:
    """What SeViLA weights of `roles` (answerer, localizer) hold on a backbone of `config`.

    Raises:
        DataError: The config, which lies at `where`, makes no network.
    """
    with explained_config(where), torch.device("meta"):
        side = _shapes(VisualSide(config).state_dict())
    return {f"{role}.{name}": shape for role in roles for name, shape in side.items()}


def backbone_shapes(config: dict[str, Any], where: str) -> Shapes:
    """What a whole backbone folder of `config` holds, under our names (of one side).

    Raises:
        DataError: The config, whose folder is `where`, makes no network.
    """
    tower = vision_config(config, where)
    model: nn.Module
    with explained_config(f"{where}/config.json"), torch.device("meta"):
        if config["model_type"] == "instructblip":
            model, vision = InstructBlip.from_config(config), InstructBlipVisionModel(tower)
        else:
            model, vision = Blip2.from_config(config), Blip2VisionModel(tower)
    seen = {
        ours_from_huggingface_name(f"vision_model.{name}"): tensor
        for name, tensor in vision.state_dict().items()
    }
    found = _shapes(model.state_dict() | seen)
    return {
        name.removeprefix("answerer."): shape
        for name, shape in found.items()
        if name not in EMBEDDING_ALIASES
    }


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
