"""Names of weights in the published ViLA, SeViLA and LAVIS checkpoints and here.

Pure functions from dict to dict. Three namings meet, VLAP's (specs/vlap.md 7.1-7.2):

| reference (LAVIS) | Hugging Face folder | `vqa` weights |
|---|---|---|
| `visual_encoder.blocks.{i}...` | `vision_model.encoder.layers.{i}...` | not in weights (frozen) |
| `ln_vision.*` | `vision_model.post_layernorm.*` | `ln_vision.*` |
| `Qformer.bert.*` | `qformer.*` | `qformer.*` |
| `t5_proj.*`, `t5_model.*` | `language_projection.*`, `language_model.*` | the same |
| `Qformer_T`, `t5_proj_T` | - | `teacher.qformer`, `teacher.language_projection` |
| `query_tokens_T` | - | `teacher.query_tokens` |
| `fs.conv_pool/ln/conv_gs` | - | `frame_prompter.fc1/norm/fc2` |
| `dist_fc_bn.0/1` | - | `distill_decoder.fc/norm` |

and SeViLA's, whose Q-Formers read no text (specs/sevila.md 7.2):

| reference (LAVIS) | Hugging Face folder | `vqa` weights |
|---|---|---|
| `ln_vision.*` | `vision_model.post_layernorm.*` | `answerer.ln_vision.*` |
| `Qformer.bert.*`, `query_tokens`, `t5_proj.*` | `qformer.*`, ... | `answerer.qformer.*`, ... |
| `Qformer_loc.bert.*`, `query_tokens_loc`, ... | - | `localizer.qformer.*`, ... |
| text parts of a Q-Former | - | dropped |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from stages.core.errors import DataError

if TYPE_CHECKING:  # names alone need no torch
    from torch import Tensor

# (reference prefix, ours, what to do with the rest)
_PREFIXES = (
    ("Qformer_T.bert.", "teacher.qformer."),
    ("Qformer.bert.", "qformer."),
    ("t5_proj_T.", "teacher.language_projection."),
    ("t5_proj.", "language_projection."),
    ("t5_model.base_model.model.", "language_model."),
    ("t5_model.", "language_model."),
    ("fs.conv_pool.", "frame_prompter.fc1."),
    ("fs.ln.", "frame_prompter.norm."),
    ("fs.conv_gs.", "frame_prompter.fc2."),
    ("dist_fc_bn.0.", "distill_decoder.fc."),
    ("dist_fc_bn.1.", "distill_decoder.norm."),
    ("ln_vision.", "ln_vision."),
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("visual_encoder.blocks.", "vision_model.encoder.layers."),
)
_EXACT = {
    "query_tokens": "query_tokens",
    "query_tokens_T": "teacher.query_tokens",
    "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
    "visual_encoder.pos_embed": "vision_model.embeddings.position_embedding",
}
_VIT_BLOCK = (
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
)
_LOCALIZER_MARK = re.compile(r"^(Qformer|query_tokens|t5_proj|ln_vision)_loc\b")
_SIDE_PART = re.compile(r"^(ln_vision|query_tokens|qformer|language_projection)\b")
# What a Q-Former that reads no text has no place for; stage-1 checkpoints hold it.
_QFORMER_TEXT = re.compile(
    r"^Qformer(_loc)?\.(cls\.|bert\.embeddings\.(word|position)_embeddings\.|bert\.pooler\.|"
    r"bert\.encoder\.layer\.\d+\.(intermediate|output)\.)"
)
_TEACHER_MARK = re.compile(r"^(Qformer|query_tokens|t5_proj)")
# Heads of LAVIS's first stage (contrast, matching, captions); nothing here has a place for them.
_STAGE_ONE_HEADS = re.compile(r"^(Qformer\.cls\.|(vision_proj|text_proj|itm_head)\.|temp$)")
# Of a bare EVA file: what LAVIS leaves out of it, a last norm and a head.
_EVA_LEFT_OUT = re.compile(r"^(norm|fc_norm|head)\.")
_SPLIT_BIAS = (".attn.q_bias", ".attn.v_bias")


def ours_from_reference_name(name: str) -> str | None:
    """Our name of a reference tensor; None for what has no place (position counters).

    ViT q and v biases share one of ours and are merged by `ours_from_reference`.

    Raises:
        KeyError: the name belongs to no published VLAP or LAVIS checkpoint.
    """
    if name.endswith(".position_ids") or _STAGE_ONE_HEADS.match(name):
        return None
    if name in _EXACT:
        return _EXACT[name]
    for reference, ours in _PREFIXES:
        if name.startswith(reference):
            return _below(ours, name.removeprefix(reference))
    raise KeyError(name)


def reference_from_ours_name(name: str) -> str:
    """The reference's name of one of ours; inverse of `ours_from_reference_name`.

    Names of SeViLA's sides (`answerer.*`, `localizer.*`) are understood as well.

    Raises:
        KeyError: the name is an extension that the reference does not have.
    """
    side, _, part = name.partition(".")
    if side in ("answerer", "localizer"):
        return _reference_of_side(side, part)
    for reference, ours in _EXACT.items():
        if name == ours:
            return reference
    for reference, ours in _PREFIXES:
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            if ours == "language_model." and "lora_" not in rest:
                reference = "t5_model."
            return reference + _above(ours, rest)
    raise KeyError(name)


def sevila_from_reference_name(name: str) -> str | None:
    """Our name of a tensor of SeViLA or BLIP-2; None for what has no place in a side.

    Raises:
        KeyError: the name belongs to no published checkpoint.
    """
    if _QFORMER_TEXT.match(name):
        return None
    side = "localizer" if _LOCALIZER_MARK.match(name) else "answerer"
    ours = ours_from_reference_name(_LOCALIZER_MARK.sub(r"\1", name))
    if ours is None or not _SIDE_PART.match(ours):
        return ours
    return f"{side}.{ours}".replace("qformer.embeddings.layernorm.", "qformer.layernorm.")


def sevila_from_reference(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict of SeViLA or BLIP-2 under our names, and the names that were not understood."""
    return _renamed(state, sevila_from_reference_name)


def huggingface_from_sevila_name(name: str) -> str | None:
    """Our name -> the name in a Hugging Face BLIP-2 folder; none for the localizer's."""
    if name.startswith("localizer."):
        return None
    return huggingface_name(name.removeprefix("answerer."))


def sevila_from_huggingface_name(name: str) -> str:
    """Inverse of `huggingface_from_sevila_name`."""
    ours = ours_from_huggingface_name(name)
    return f"answerer.{ours}" if _SIDE_PART.match(ours) else ours


def ours_from_reference(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A reference state dict under our names, and the names that were not understood.

    T5's embedding stands under up to three names; all are kept (they are one tensor there).
    """
    return _renamed(state, ours_from_reference_name)


def is_split_bias(name: str) -> bool:
    """Whether a reference tensor is the q or v half of one of ours."""
    return name.endswith(_SPLIT_BIAS)


def merged_bias_name(name: str) -> str:
    """Our name of the bias that a reference's `q_bias` or `v_bias` becomes a part of."""
    stem = name.removesuffix("q_bias").removesuffix("v_bias")
    target = ours_from_reference_name(stem + "qkv.weight")
    assert target is not None
    return target.removesuffix("weight") + "bias"


def merged_bias(q_bias: Tensor, v_bias: Tensor) -> Tensor:
    """[q, 0, v]: the published towers have no key bias."""
    import torch

    return torch.cat([q_bias, torch.zeros_like(v_bias), v_bias])


def is_eva_file(names: Iterable[str]) -> bool:
    """Whether the names are those of a bare vision tower, without `visual_encoder.` before them."""
    return {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= set(names)


def lavis_from_eva_name(name: str) -> str | None:
    """LAVIS's name of a tensor of a bare EVA file; None for the last norm and the head."""
    return None if _EVA_LEFT_OUT.match(name) else f"visual_encoder.{name}"


def reference_from_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the reference's names; extensions raise `KeyError`.

    Raises:
        DataError: A vision tower with a key bias, for which the reference has no name.
    """
    reference: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".self_attn.qkv.bias"):
            base = reference_from_ours_name(name.removesuffix("qkv.bias") + "qkv.weight")
            q_bias, k_bias, v_bias = tensor.chunk(3)
            if k_bias.any():
                raise DataError(f"{name}: the published towers have no key bias, this one does")
            reference[base.removesuffix("qkv.weight") + "q_bias"] = q_bias
            reference[base.removesuffix("qkv.weight") + "v_bias"] = v_bias
        else:
            reference[reference_from_ours_name(name)] = tensor
    return reference


def huggingface_name(ours: str) -> str:
    """Our name -> the name in a Hugging Face InstructBLIP folder."""
    if ours.startswith("ln_vision."):
        return "vision_model.post_layernorm." + ours.removeprefix("ln_vision.")
    return ours


def ours_from_huggingface_name(name: str) -> str:
    """Inverse of `huggingface_name`."""
    if name.startswith("vision_model.post_layernorm."):
        return "ln_vision." + name.removeprefix("vision_model.post_layernorm.")
    return name


def assemble_student(
    start: Mapping[str, Tensor], teacher: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The reference's weight assembly on reference names (specs/vlap.md 3.4).

    The K-frame start unchanged, plus the teacher's Q-Former, queries and projection under names
    with `_T`. Prompter and decoder are absent and keep their initial values.
    """
    assembled = dict(start)
    for name, tensor in teacher.items():
        if _TEACHER_MARK.match(name):
            assembled[teacher_name(name)] = tensor
    return assembled


def teacher_name(name: str) -> str:
    """Reference name of the teacher's copy: `Qformer.bert...` -> `Qformer_T.bert...`."""
    return _TEACHER_MARK.sub(r"\1_T", name, count=1)


def _below(ours: str, rest: str) -> str:
    if ours.endswith("qformer."):
        rest = rest.replace("embeddings.LayerNorm.", "embeddings.layernorm.")
        rest = rest.replace("attention.self.", "attention.attention.")
    elif ours.endswith("layers."):
        for reference, huggingface in _VIT_BLOCK:
            rest = rest.replace(reference, huggingface)
    return ours + rest


def _above(ours: str, rest: str) -> str:
    if ours.endswith("qformer."):
        rest = rest.replace("embeddings.layernorm.", "embeddings.LayerNorm.")
        rest = rest.replace("attention.attention.", "attention.self.")
    elif ours.endswith("layers."):
        for reference, huggingface in _VIT_BLOCK:
            rest = rest.replace(huggingface, reference)
    return rest


def _reference_of_side(side: str, part: str) -> str:
    """`localizer`, `qformer.layernorm.bias` -> `Qformer_loc.bert.embeddings.LayerNorm.bias`."""
    if not _SIDE_PART.match(part):
        raise KeyError(f"{side}.{part}")
    part = re.sub(r"^qformer\.layernorm\.", "qformer.embeddings.layernorm.", part)
    reference = reference_from_ours_name(part)
    if side == "answerer":
        return reference
    first, dot, rest = reference.partition(".")
    return f"{first}_loc{dot}{rest}"


def _renamed(
    state: Mapping[str, Tensor], rename: Callable[[str], str | None]
) -> tuple[dict[str, Tensor], list[str]]:
    ours: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in state.items():
        if is_split_bias(name):
            continue
        try:
            target = rename(name)
        except KeyError:
            unknown.append(name)
            continue
        if target is not None:
            ours[target] = tensor
    return ours | _merged_vit_biases(state), unknown


def _merged_vit_biases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """q and v biases with a zero key bias between them, as the tower stores it."""
    return {
        merged_bias_name(name): merged_bias(q_bias, state[name.removesuffix("q_bias") + "v_bias"])
        for name, q_bias in state.items()
        if name.endswith(".attn.q_bias")
    }
