"""The networks that speed is measured with: a folder's, embedded ones, or random ones in a size.

Speed does not depend on what weights hold, so that `full` needs no file: the published sizes are
filled with random numbers on the device itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Blip2VisionModel, InstructBlipVisionModel

from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.catalog import backbone_path, in_layout
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.frozen_t5 import DtypePolicy
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.sizes import SIZES, BackboneSize, backbone_config, backbone_size
from stages.models.backbones.text import BackboneText
from stages.models.backbones.vision import VisionTower, vision_config, vision_spec
from stages.models.embedded import embedded_folder
from stages.models.sevila import Sevila

FILLER_WORDS = {"tiny": 0, "random": 34}
"""Words before each question: with 34 a prompt of `shapes` is as long as one of NExT-QA (about 80
pieces, specs/vlap.md 9.2)."""


@dataclass(frozen=True)
class Source:
    """Where networks come from.

    Attributes:
        backbone: An embedded or published name, a folder, or one of `SIZES` for random weights.
        device: Where they go.
        precision: Arithmetic of tower and networks.
    """

    backbone: str
    device: torch.device
    precision: DtypePolicy

    @property
    def random(self) -> bool:
        """Whether weights are random."""
        return self.backbone in SIZES

    @property
    def filler(self) -> int:
        """Words that make prompts as long as a benchmark's."""
        return FILLER_WORDS["random" if self.random else "tiny"]

    def config(self, layout: str) -> dict[str, Any]:
        """`config.json` of the backbone in that layout."""
        if self.random:
            return backbone_config(layout, self.backbone)
        return self.folder(layout).config

    def folder(self, layout: str) -> BackboneFolder:
        """The backbone's folder.

        Raises:
            UsageError: It has another layout.
        """
        return BackboneFolder(backbone_path(in_layout(self.backbone, layout)))

    def size(self, layout: str) -> BackboneSize:
        """Sizes of its parts."""
        return backbone_size(self.config(layout))


def load_tower(source: Source, layout: str) -> VisionTower:
    """The vision tower, alone."""
    if not source.random:
        return VisionTower.load(source.folder(layout), source.device, source.precision)
    values = vision_config(source.config(layout), source.backbone)
    kind = InstructBlipVisionModel if layout == "instructblip" else Blip2VisionModel
    torch.manual_seed(0)
    with source.device:
        return VisionTower(kind(values), vision_spec(values), source.precision).to(source.device)


def load_instructblip(source: Source) -> InstructBlip:
    """What VLAP stands on, without its tower."""
    if not source.random:
        folder = source.folder("instructblip")
        return InstructBlip.load(folder, source.device, source.precision).to(source.device)
    text = BackboneText.load(BackboneFolder(embedded_folder("tiny")))
    torch.manual_seed(0)
    with source.device:
        model = InstructBlip(
            source.config("instructblip"), dtype_policy=source.precision, text=text
        ).freeze()
    return _halved(model, source)


def load_sevila(source: Source) -> Sevila:
    """SeViLA with two equal sides, without its tower."""
    if not source.random:
        folder = source.folder("blip-2")
        backbone = Blip2.load(folder, source.device, source.precision)
        return Sevila(backbone).to(source.device).eval()
    text = BackboneText.load(BackboneFolder(embedded_folder("tiny-blip2")))
    torch.manual_seed(0)
    with source.device:
        backbone = Blip2.from_config(
            source.config("blip-2"), dtype_policy=source.precision, text=text
        )
    return Sevila(_halved(backbone, source)).to(source.device).eval()


def _halved(model: Any, source: Source) -> Any:
    """T5 in the type that it is loaded in from a folder."""
    if source.precision != "float32":
        model.language_model.to(torch.bfloat16)
    return model.to(source.device)
