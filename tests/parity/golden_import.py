"""The recorded weights as their owners have them, brought in as a user brings them in.

From the recorded tensors in reference names: `.pth` files as the published runners save them, a
folder with `config.json` and tokenizers, and then

    vqa checkpoint import ... --as backbone     the base: recorded T5 and vision tower, everything
                                                that weights have to fill random
    vqa checkpoint import ... --as vlap|sevila  weights artifacts

through the functions behind that command, and into networks as `vqa eval` and the training stages
load them. Nothing here knows one of our names of a tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from stages.artifacts.store import Artifact, Workspace
from stages.artifacts.weights import read_weights
from stages.checkpoint import import_weights, plan_weights
from stages.checkpoints.backbone_import import plan_backbone, write_backbone
from stages.checkpoints.choices import ImportChoices
from stages.core.runtime import Runtime
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.vision import VisionTower
from stages.models.sevila import Sevila
from stages.models.vlap import VlapStudent, VlapTeacher, load_trained_state
from stages.systems.build import load_sevila
from stages.systems.vlap import load_backbone

T5, VIT = "t5_model.", "visual_encoder."
ALIASES = ("t5_model.encoder.embed_tokens.weight", "t5_model.decoder.embed_tokens.weight")
"""The runners leave out frozen parameters by their first name, so these stay in their files."""
ADDED = ("fs.", "dist_fc_bn.", "Qformer_T.", "query_tokens_T", "t5_proj_T.")
"""What a student has and no backbone."""
CPU = torch.device("cpu")
State = Mapping[str, Tensor]


def write_pth(file: Path, state: State) -> Path:
    """A checkpoint as the published runners write it, with an optimizer beside the model."""
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.ones(2)}
    optimizer = {"state": {0: moments}, "param_groups": [{"lr": 1e-5, "params": [0]}]}
    config = {"run": {"task": "videoqa", "max_epoch": 10}}
    saved = {"model": dict(state), "optimizer": optimizer, "config": config, "scaler": None}
    torch.save(saved | {"epoch": 9}, file)
    return file


def saved_part(state: State) -> dict[str, Tensor]:
    """What the runners keep of a state (specs/vlap.md 7.1 and 11.1)."""
    return {n: t for n, t in state.items() if not n.startswith((T5, VIT)) or n in ALIASES}


def below(state: State, prefix: str) -> dict[str, Tensor]:
    """Tensors below a prefix, under their whole names."""
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


def other_values(state: State) -> dict[str, Tensor]:
    """Random values for what a file of weights has to fill, so that a base cannot help out."""
    generator = torch.Generator().manual_seed(99)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in saved_part(state).items()
        if not name.startswith((*ADDED, T5)) and "_loc" not in name.partition(".")[0]
    }


def write_start(folder: Path, config: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> Path:
    """A folder with `config.json` and tokenizers, and no weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for place, tokenizer in tokenizers.items():
        (folder / place).mkdir(exist_ok=True)
        tokenizer.backend_tokenizer.save(str(folder / place / "tokenizer.json"))
    return folder


class VlapImports:
    """Imports of VLAP's recorded weights; the set has no vision tower.

    Args:
        golden: The set.
        folder: Where files, bases and the workspace go.
    """

    ALLOWED = ("vision",)

    def __init__(self, golden: Any, folder: Path) -> None:
        self.golden, self.folder = golden, folder
        self.workspace = Workspace(folder / "workspace")
        self.made: dict[str, dict[str, Tensor]] = {}

    def base(self, queries: int | None = None) -> Path:
        """A backbone folder with the recorded T5, in sizes of the set or with other queries."""
        count = queries or self.golden.config["num_query_tokens"]
        folder = self.folder / f"base-{count}"
        return folder if folder.exists() else self._make_base(folder, count)

    def _make_base(self, folder: Path, count: int) -> Path:
        config = self.golden.composite | {"num_query_tokens": count}
        start = write_start(self.folder / f"start-{count}", config, self.golden.tokenizers)
        state = self.golden.tensors("weights_student")
        whole = other_values(state | {"query_tokens": with_queries(state, count)})
        whole |= below(state, T5)
        file = write_pth(self.folder / f"base-{count}.pth", whole)
        item = plan_backbone([str(file)], base=str(start), allow_missing=self.ALLOWED)
        write_backbone(item, folder)
        return folder

    def backbone(self) -> InstructBlip:
        """As `vqa eval` loads it."""
        return load_backbone(str(self.base()), CPU, "float32")

    def file(self, name: str, state: State) -> Path:
        """A checkpoint in the folder, written once."""
        file = self.folder / f"{name}.pth"
        return file if file.exists() else write_pth(file, saved_part(state))

    def weights(
        self, file: Path, role: str, frames: int | None = None, queries: int | None = None
    ) -> Artifact:
        """The artifact of a file."""
        choices = ImportChoices(
            "vlap",
            str(self.base(queries)),
            "nextqa",
            roles=(role,),
            frames=frames,
            allow_missing=self.ALLOWED,
        )
        plans = plan_weights([str(file)], choices)
        (result,) = import_weights(self.workspace, plans, choices, Runtime(name=file.stem))
        assert result.artifact is not None
        return result.artifact

    @cached_property
    def student(self) -> dict[str, Tensor]:
        """Student weights; T and K are read from the file."""
        state = self.golden.tensors("weights_student")
        artifact = self.weights(self.file("student", state), "student")
        made = artifact.config["model"]
        sizes = self.golden.config
        assert (made["frames"], made["keep"]) == (sizes["frames_T"], sizes["kept_K"])
        return read_weights(artifact)

    @cached_property
    def copied_teacher(self) -> dict[str, Tensor]:
        """The teacher out of the student's file, where it lies under names of its own."""
        file = self.file("student", self.golden.tensors("weights_student"))
        return read_weights(self.weights(file, "teacher", self.golden.config["frames_T"]))

    @cached_property
    def teacher(self) -> dict[str, Tensor]:
        """Teacher weights of their own file."""
        file = self.file("teacher", self.golden.tensors("weights_teacher"))
        return read_weights(self.weights(file, "teacher", self.golden.config["frames_T"]))

    def fill_student(self, model: VlapStudent) -> None:
        """As a resumed distillation: the student's weights, and a teacher's for its branch."""
        load_trained_state(model, self.student)
        if model.teacher is not None:
            model.load_teacher(self.copied_teacher)

    def fill_teacher(self, model: VlapTeacher) -> None:
        """As in evaluation."""
        load_trained_state(model, self.teacher)

    def student_with(
        self, own: State, frames: int, keep: int, queries: int | None = None
    ) -> dict[str, Tensor]:
        """A student whose new parts are a case's own; the part that it lacks has zeros."""
        sizes, state = self.golden.config, self.golden.tensors("weights_student")
        count = queries or sizes["num_query_tokens"]
        kept = {n: t for n, t in state.items() if not n.startswith(("fs.", "dist_fc_bn."))}
        parts = empty_parts(frames, keep, count, sizes["vit_tokens"]) | dict(own)
        kept |= parts | {"query_tokens": with_queries(state, count)}
        kept |= {"query_tokens_T": kept["query_tokens"]}
        content = save({name: tensor.contiguous() for name, tensor in own.items()})
        mark = f"{frames}to{keep}-{hashlib.sha256(content).hexdigest()[:16]}"
        if mark not in self.made:
            file = self.file(mark, kept)
            self.made[mark] = read_weights(self.weights(file, "student", queries=queries))
        return self.made[mark]


def with_queries(state: State, count: int) -> Tensor:
    """The query tokens, repeated or cut to another number."""
    given = state["query_tokens"]
    return given.repeat(1, -(-count // given.shape[1]), 1)[:, :count].clone()


def empty_parts(frames: int, keep: int, queries: int, tokens: int) -> dict[str, Tensor]:
    """Prompter and distillation decoder in the reference's names and sizes."""
    segment, wide, narrow = frames // keep, queries * frames, queries * keep
    shapes = {
        "fs.conv_pool.weight": (segment, segment * tokens),
        "fs.conv_pool.bias": (segment,),
        "fs.ln.weight": (segment,),
        "fs.ln.bias": (segment,),
        "fs.conv_gs.weight": (segment, segment),
        "fs.conv_gs.bias": (segment,),
        "dist_fc_bn.0.weight": (wide, narrow),
        "dist_fc_bn.0.bias": (wide,),
        "dist_fc_bn.1.weight": (wide,),
        "dist_fc_bn.1.bias": (wide,),
    }
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


class SevilaImports:
    """Imports of SeViLA's recorded weights: tower, T5 and sides come in files of their own."""

    def __init__(self, golden: Any, folder: Path) -> None:
        self.golden, self.folder = golden, folder
        self.workspace = Workspace(folder / "workspace")

    @cached_property
    def files(self) -> dict[str, Path]:
        """`vision` as in eva_vit_g.pth, `language`, `blip2` (random sides), `sevila`."""
        state = self.golden.tensors("weights")
        tower = {name.removeprefix(VIT): t for name, t in below(state, VIT).items()}
        torch.save(tower, self.folder / "vision.pth")
        parts = {
            "language": below(state, T5),
            "blip2": other_values(state),
            "sevila": saved_part(state),
        }
        written = {
            name: write_pth(self.folder / f"{name}.pth", part) for name, part in parts.items()
        }
        return written | {"vision": self.folder / "vision.pth"}

    @cached_property
    def base(self) -> Path:
        """A backbone folder with the recorded T5 and tower, and random sides."""
        tokenizers = {".": self.golden.text.t5}
        start = write_start(self.folder / "start", self.golden.composite, tokenizers)
        given = [f"{part}={self.files[part]}" for part in ("vision", "language")]
        item = plan_backbone([str(self.files["blip2"]), *given], base=str(start))
        write_backbone(item, self.folder / "base")
        return self.folder / "base"

    @cached_property
    def sides(self) -> dict[str, Artifact]:
        """The artifacts of answerer and localizer."""
        choices = ImportChoices("sevila", str(self.base), "nextqa")
        plans = plan_weights([str(self.files["sevila"])], choices)
        made = import_weights(self.workspace, plans, choices, Runtime())
        artifacts = [result.artifact for result in made if result.artifact is not None]
        return {artifact.config["role"]: artifact for artifact in artifacts}

    def sevila(self, changes: dict[str, Any]) -> Sevila:
        """As `vqa eval` loads it."""
        answerer, localizer = self.sides["answerer"], self.sides["localizer"]
        return load_sevila(
            str(self.base), CPU, "float32", changes, answerer=answerer, localizer=localizer
        )

    def tower(self) -> VisionTower:
        """As `vqa extract-features` loads it."""
        return VisionTower.load(BackboneFolder(self.base))
