"""Which checkpoint this is, told from the names of its tensors; no value is read.

| kind | told by |
|---|---|
| `sevila` | `Qformer_loc` beside `Qformer`; `sevila-localizer` has the former alone |
| `vila-student`, `vila-merged` | `fs.*`; `Qformer_T` without it (what `re_weight.py` writes) |
| `vila-teacher` | a Q-Former that reads text, beside what a training left in the file |
| `instructblip` | the same without such left-overs: `instruct_blip_flanxl_trimmed.pth` |
| `blip2-stage1`, `blip2-stage2` | LAVIS's heads of the first stage; `t5_proj` without text parts |
| `eva-vit` | `blocks.*` without `visual_encoder.` before it |
| `t5` | `encoder.block.*` and `shared.weight`: a language model of its own |
| `huggingface-*` | a folder with `config.json`, by its `model_type`; or such names in a file |
| `vqa-*` | a weights artifact of ours, by its system and role; or such names in a file |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stages.checkpoints.tensor_files import ARTIFACT, FOLDER, Checkpoint
from stages.models.reference_names import is_eva_file

Naming = Literal["reference", "eva", "huggingface", "t5", "ours-vlap", "ours-sevila", "other"]
"""Whose names the tensors carry."""

_TEXT_PART = re.compile(
    r"^Qformer\.bert\.(embeddings\.word_embeddings\.|encoder\.layer\.0\.output\.)"
)
_STAGE_ONE = re.compile(r"^(Qformer\.cls\.|(vision_proj|text_proj|itm_head)\.|temp$)")
_T5 = re.compile(r"^(shared|encoder|decoder|lm_head)\.")
_OURS_SEVILA = re.compile(r"^(answerer|localizer)\.(qformer|query_tokens|language_projection|ln_)")
_OURS_VLAP = re.compile(r"^(frame_prompter|distill_decoder|ln_vision|qformer|teacher)\b")
OWN_NAMINGS: Mapping[str, Naming] = {"vlap": "ours-vlap", "sevila": "ours-sevila"}
DESCRIBED = {
    "sevila": "SeViLA stage checkpoint",
    "sevila-localizer": "SeViLA localizer pre-training checkpoint",
    "vila-student": "ViLA student run",
    "vila-merged": "ViLA start merged with a teacher (re_weight.py)",
    "vila-teacher": "ViLA teacher or K-frame start run",
    "instructblip": "LAVIS InstructBLIP (trimmed), or a ViLA teacher without training state",
    "blip2-stage1": "LAVIS BLIP-2 stage 1",
    "blip2-stage2": "LAVIS BLIP-2 stage 2, or a SeViLA answerer",
    "eva-vit": "EVA vision tower",
    "t5": "T5 language model",
    "huggingface-names": "weights under Hugging Face names, without their folder",
    "vqa-vlap": "weights of vqa: VLAP",
    "vqa-sevila": "weights of vqa: SeViLA",
    "unknown": "tensors of no known layout",
}


@dataclass(frozen=True)
class Layout:
    """What a checkpoint is.

    Attributes:
        kind: One word for it.
        naming: Whose names its tensors carry.
        described: The same in a few words for a person.
    """

    kind: str
    naming: Naming
    described: str


def recognise(checkpoint: Checkpoint) -> Layout:
    """What a checkpoint is, by its form and its tensors' names."""
    if checkpoint.form == FOLDER:
        return _folder(checkpoint)
    if checkpoint.form == ARTIFACT:
        return _artifact(checkpoint)
    kind, naming = _by_names(checkpoint)
    return Layout(kind, naming, DESCRIBED[kind])


def _folder(checkpoint: Checkpoint) -> Layout:
    model = str(checkpoint.config.get("model_type"))
    parts = "" if len(checkpoint.files) == 1 else f", {len(checkpoint.files)} shards"
    naming: Naming = "huggingface"
    if model == "t5":
        naming = "t5"
    elif model not in ("instructblip", "blip-2"):
        naming = "other"
    return Layout(f"huggingface-{model}", naming, f"Hugging Face folder: {model}{parts}")


def _artifact(checkpoint: Checkpoint) -> Layout:
    made = checkpoint.config.get("config", {})
    system, role = made.get("system"), made.get("role")
    naming = OWN_NAMINGS.get(str(system), "other")
    return Layout(f"vqa-{system}", naming, f"weights of vqa: {system} {role}")


def _by_names(checkpoint: Checkpoint) -> tuple[str, Naming]:
    names = set(checkpoint.tensors)

    def any_of(pattern: re.Pattern[str]) -> bool:
        return any(pattern.match(name) for name in names)

    def starts(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in names)

    if is_eva_file(names):
        return "eva-vit", "eva"
    if any_of(_OURS_SEVILA):
        return "vqa-sevila", "ours-sevila"
    if starts("Qformer_loc."):
        return ("sevila" if starts("Qformer.") else "sevila-localizer"), "reference"
    if starts("fs."):
        return "vila-student", "reference"
    if starts("Qformer_T."):
        return "vila-merged", "reference"
    if any_of(_STAGE_ONE):
        return "blip2-stage1", "reference"
    if starts("Qformer.") and any_of(_TEXT_PART):
        trained = bool(checkpoint.left_overs) or starts("t5_model.encoder.embed_tokens.")
        return ("vila-teacher" if trained else "instructblip"), "reference"
    if starts("Qformer.") or starts("visual_encoder.") or starts("t5_model."):
        return "blip2-stage2", "reference"
    if starts("vision_model.") or starts("language_model."):
        return "huggingface-names", "huggingface"
    if any_of(_OURS_VLAP):
        return "vqa-vlap", "ours-vlap"
    if all(_T5.match(name) for name in names):
        return "t5", "t5"
    return "unknown", "other"
