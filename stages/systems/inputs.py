"""What an evaluation reads and how it is configured, whichever system answers.

The defaults come from what is there: a trained prompter or localizer, an answerer's weights; what
a BLIP-2 system has no weights for is the backbone as it is (zero-shot), and that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.artifacts.atomic import sha256_file
from stages.artifacts.lookup import (
    features_of,
    prepared_splits,
    questions_for,
    questions_of,
    weights_of,
)
from stages.artifacts.store import Artifact, Workspace
from stages.artifacts.weights import backbone_of
from stages.benchmarks.batches import stores
from stages.benchmarks.manifest import load_manifest, split_name
from stages.benchmarks.prompts import AnswerMode
from stages.core.config import Config
from stages.core.device import resolve_device, torch_version
from stages.core.errors import ConfigError, MissingInput, UsageError, VqaError
from stages.models.backbones.catalog import (
    backbone_fingerprint,
    backbone_label,
    backbone_layout,
    backbone_path,
    in_layout,
)
from stages.models.backbones.folder import BackboneFolder
from stages.models.sevila import SevilaConfig
from stages.models.videodistill_config import VideoDistillConfig
from stages.models.vlap import VlapConfig
from stages.systems.blind import Blind
from stages.systems.selectors import PLAIN_SELECTORS

SystemName = Literal["vlap", "sevila", "blip2-concat", "blip2-voting", "videodistill"]
BLIP2_SYSTEMS = ("sevila", "blip2-concat", "blip2-voting")
OWN_SELECTOR = {"vlap": "own", "sevila": "localizer", "videodistill": "own"}
"""What a system keeps frames by; the others take uniform ones."""
NETWORK_SELECTORS = ("localizer", "prompter")
"""Selectors that score frames with a network of their own."""
JOINT_SELECTORS = ("topk", "atp")
"""Selectors that were trained with an answerer and lie beside its weights."""
FILE_SELECTORS = ("clip", "spans")
"""Selectors that read something else than the answerer's features."""
SELECTOR_ROLE = {"localizer": ("sevila", "localizer"), "prompter": ("vlap", "student")}
"""System and role of their weights."""
ZERO_SHOT = "none"
"""In place of weights: the backbone as it is."""
DEFAULT_KEEP = 4
TEXTS_PER_SHARD = 16
"""Retrieval: each text is a forward pass for every video."""
VLAP_CHANGEABLE = ("answer", "eval_noise", "frame_prefix_text", "rank_norm", "restrict_options")
"""Options of VLAP's network that leave its weights as they are."""
SEVILA_CHANGEABLE = ("score", "score_rounding", "first_token", "rank_norm", "row_budget")
"""The same of SeViLA's."""
VIDEODISTILL_CHANGEABLE = ("eval_noise", "match_score")
"""The same of VideoDistill's."""
VIDEODISTILL_ROLES = ("trained", "pretrained")


class EvaluateConfig(Config):
    """What decides the bytes of a predictions artifact, besides features and weights."""

    benchmark: str
    """Name of the benchmark."""
    split: str
    """Split that is answered."""
    system: SystemName
    """Name of the system."""
    backbone: str
    """Name of the answerer's backbone."""
    backbone_weights: str
    """Its fingerprint."""
    select: str = "own"
    """`own`: what was trained with the answerer; or localizer, prompter, uniform, random, oracle,
    all, topk, atp, clip, spans."""
    selector_backbone: str = ""
    """Name of the selector's backbone, where it is another one."""
    selector_backbone_weights: str = ""
    """Its fingerprint."""
    spans: str = ""
    """Sha256 of the file of predicted spans that a selector reads."""
    stored_sampling: bool = False
    """`uniform` takes the K frames that extraction sampled, not the middle ones of the T."""
    keep: int
    """Frames that are kept."""
    frames: int
    """Frames that they are kept from."""
    answer: AnswerMode
    """How answers are read."""
    read: str = ""
    """VideoDistill: answer, matched or similarity, the head that is asked; empty: the one that
    the weights were trained for."""
    blind: Blind | None = None
    """What is shown instead of the video."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of a zero-shot backbone; trained weights bring their own."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Options of the network that differ from training (`eval_noise`, `first_token`, ...)."""
    seed: int = Field(default=42, ge=0)
    """Seed of random selection, noise and intervals."""
    batch_size: int = Field(default=16, ge=1)
    """Questions per forward pass."""
    questions_per_shard: int = Field(default=256, ge=1)
    """Questions in one shard."""
    device: str
    """Device type."""
    torch: str
    """Major and minor version."""


@dataclass(frozen=True)
class EvaluateInputs:
    """Artifacts that an evaluation reads.

    Attributes:
        system: Name of the system.
        select: Name of the selector.
        questions: What is asked.
        features: Of the questions' clips.
        weights: The answerer's; none: the backbone as it is.
        selector: The selector's, where it is trained apart from the answerer; none: it has none,
            or its backbone as it is.
        backbone: Name or folder of the answerer's backbone.
        selector_backbone: The same of the selector's.
        selector_features: By a CLIP, for its similarity.
        spans: File of predicted spans.
    """

    system: str
    select: str
    questions: Artifact
    features: Artifact
    weights: Artifact | None
    selector: Artifact | None
    backbone: str
    selector_backbone: str
    selector_features: Artifact | None = None
    spans: Path | None = None

    def as_inputs(self) -> dict[str, Artifact]:
        """Role to artifact, for the request."""
        named = {
            "questions": self.questions,
            "features": self.features,
            "weights": self.weights,
            "selector": self.selector,
            "selector_features": self.selector_features,
        }
        return {role: item for role, item in named.items() if item is not None}

    def notes(self) -> list[str]:
        """What was chosen, for the terminal."""
        notes = [f"questions: {self.questions.id}", f"features: {self.features.id}"]
        weights = self.weights.id if self.weights else f"{self.backbone} as it is (zero-shot)"
        notes.append(f"weights: {weights}")
        if self.select in NETWORK_SELECTORS:
            chosen = self.selector.id if self.selector else f"{self.selector_backbone} as it is"
            notes.append(f"{self.select}: {chosen}")
        if self.selector_features is not None:
            notes.append(f"{self.select}: {self.selector_features.id}")
        asked = self.questions.config["benchmark"]
        for item in (self.weights, self.selector):
            if item is not None and item.config["benchmark"] != asked:
                trained = item.config["benchmark"]
                notes.append(f"{item.id} was trained on {trained}, not on {asked}")
        return notes


def find_inputs(
    workspace: Workspace,
    benchmark: str,
    split: str | None,
    *,
    system: str = "vlap",
    select: str | None = None,
    role: str | None = None,
    weights: str | None = None,
    selector: str | None = None,
    features: Sequence[str] = (),
    questions: str | None = None,
    backbone: str | None = None,
    selector_backbone: str | None = None,
    frames: int | None = None,
    spans: Path | None = None,
) -> EvaluateInputs:
    """Choose what to evaluate: the report split; a student before a start or a teacher.

    Args:
        workspace: Where to look.
        benchmark: Name of the benchmark.
        split: Its split; none: the one that the literature prints.
        system: Name of the system.
        select: Name of the selector; none: the system's own.
        role: Role of VLAP weights; none: the first of student, start, teacher that there is.
        weights: The answerer's weights that the user named, or `none`; they may be another
            benchmark's.
        selector: The selector's, in the same way.
        features: Features that the user named.
        questions: Questions that the user named.
        backbone: Name or folder of the backbone; none: whatever the weights were trained with, or
            the features were made with.
        selector_backbone: The same of a selector with a backbone of its own.
        frames: Frames per clip that must be stored, for systems whose weights do not fix it.
        spans: File of predicted spans, for the selector of that name.

    Raises:
        UsageError: No such selector, several artifacts fit, or names contradict each other.
        MissingInput: Something is not there; says which command makes it.
    """
    search = _Search(workspace, benchmark, split, features, questions)
    chosen = selector_name(system, select)
    if system == "vlap":
        held = search.trained(["student", "start", "teacher"], role, weights, backbone)
    elif system == "videodistill":
        held = search.trained(VIDEODISTILL_ROLES, role, weights, backbone, system=system)
    else:
        held = search.blip2(weights, backbone, frames)
    if (chosen == "spans") != (spans is not None):
        raise UsageError("--select spans and --spans FILE go together")
    found, selected = search.selector(chosen, selector, selector_backbone, held)
    similar = search.clip_features(selector_backbone, held) if chosen == "clip" else None
    return EvaluateInputs(
        system,
        chosen,
        held.questions,
        held.features,
        held.weights,
        found,
        held.backbone,
        backbone_of(similar) if similar else selected,
        similar,
        spans,
    )


def selector_name(system: str, select: str | None) -> str:
    """The selector that is meant: `select`, or the system's own.

    Raises:
        UsageError: There is none of that name, or not for this system.
    """
    own = OWN_SELECTOR.get(system, "uniform")
    name = own if select in (None, "own") else str(select)
    known = (*PLAIN_SELECTORS, *NETWORK_SELECTORS, *JOINT_SELECTORS, *FILE_SELECTORS)
    if name != own and name not in known:
        raise UsageError(f"no selector called {name!r}", f"known: own, {', '.join(known)}")
    return name


@dataclass(frozen=True)
class _Held:
    """What an answerer reads."""

    questions: Artifact
    features: Artifact
    weights: Artifact | None
    backbone: str


class _Search:
    """The workspace, seen by one benchmark's split and by what the user named."""

    def __init__(
        self,
        workspace: Workspace,
        benchmark: str,
        split: str | None,
        features: Sequence[str],
        questions: str | None,
    ) -> None:
        self.workspace, self.benchmark = workspace, benchmark
        self.features, self.questions = features, questions
        self.named = [workspace.by_reference("features", reference) for reference in features]
        if questions is not None:
            self.named.append(workspace.by_reference("questions", questions))
        self.split = self._split(split)
        if self.split not in prepared_splits(workspace, benchmark):
            questions_of(workspace, benchmark, self.split)  # says how to prepare it

    def _split(self, split: str | None) -> str:
        """The split asked for; none: that of what the user named, else the report split."""
        manifest = load_manifest(self.benchmark)
        if split is not None:
            return split_name(manifest, split)
        splits = {
            str(item.config["split"])
            for item in self.named
            if item.config["benchmark"] == self.benchmark
        }
        return splits.pop() if len(splits) == 1 else manifest.report_split

    def _made_by(self) -> str | None:
        made_by = [item for item in self.named if item.kind == "features"]
        return str(made_by[0].config["backbone"]) if made_by else None

    def _asked(self, label: str | None, weights: Artifact | None) -> Artifact:
        if self.questions is not None:
            return questions_of(self.workspace, self.benchmark, self.split, self.questions)
        return questions_for(
            self.workspace,
            self.benchmark,
            self.split,
            features=self.features,
            backbone=label,
            weights=weights,
        )

    def trained(
        self,
        roles: Sequence[str],
        role: str | None,
        weights: str | None,
        backbone: str | None,
        *,
        system: str = "vlap",
    ) -> _Held:
        """Trained weights decide what is read."""
        label = backbone_label(backbone) if backbone else self._made_by()
        chosen = weights_of(
            self.workspace,
            self.benchmark,
            [role] if role else roles,
            system=system,
            backbone=label,
            reference=weights,
        )
        label = label or str(chosen.config["backbone"])
        asked = self._asked(label, chosen)
        found = features_of(
            self.workspace,
            asked,
            backbone=label,
            frames=chosen.config["model"]["frames"],
            references=self.features,
            folder=backbone or backbone_of(chosen),
        )
        return _Held(asked, found, chosen, backbone or backbone_of(chosen))

    def blip2(self, weights: str | None, backbone: str | None, frames: int | None) -> _Held:
        """Weights if there are any, else the backbone as it is."""
        chosen = self._optional("sevila", "answerer", weights, "--weights")
        if backbone is None and chosen is not None:
            backbone = backbone_of(chosen)
        asked, label = self._asked(None, chosen), None
        if backbone is None:
            label = self._only_blip2(asked, frames)
            made = features_of(
                self.workspace,
                asked,
                backbone=label,
                frames=frames,
                references=self.features,
                with_cls=False,
            )
            backbone = backbone_of(made)
        backbone = in_layout(backbone, "blip-2")
        found = features_of(
            self.workspace,
            asked,
            backbone=label,
            frames=frames,
            references=self.features,
            folder=backbone,
            tower=BackboneFolder(backbone_path(backbone)).tower_fingerprint(),
        )
        return _Held(asked, found, chosen, backbone)

    def _only_blip2(self, asked: Artifact, frames: int | None) -> str | None:
        """Label of the one backbone of BLIP-2's layout that there are features by; else None."""
        labels = {
            str(item.config["backbone"])
            for item in self.workspace.finished("features")
            if asked.id in item.input_ids()
            and (frames is None or max(item.config["sampling"]["frames"]) >= frames)
            and _layout_of(item) == "blip-2"
        }
        return labels.pop() if len(labels) == 1 else None

    def selector(
        self, name: str, reference: str | None, backbone: str | None, held: _Held
    ) -> tuple[Artifact | None, str]:
        """The selector's weights and backbone; both empty for one without a network."""
        if name in JOINT_SELECTORS and (
            held.weights is None or held.weights.config.get("select") != name
        ):
            holder = held.weights.id if held.weights else held.backbone
            raise UsageError(
                f"{holder} holds no {name} selector", f"vqa train-answerer --select {name}"
            )
        if name not in NETWORK_SELECTORS:
            if reference is not None:
                raise UsageError(f"--select {name} has no weights", "leave --selector out")
            return None, ""
        system, role = SELECTOR_ROLE[name]
        chosen = self._optional(system, role, reference, "--selector")
        if name == "prompter":
            if chosen is None:
                raise UsageError("a frame prompter needs its weights", "vqa distill --keep 4")
            return chosen, backbone or backbone_of(chosen)
        if chosen is not None and backbone is None:
            backbone = backbone_of(chosen)
        return chosen, in_layout(backbone or held.backbone, "blip-2")

    def clip_features(self, backbone: str | None, held: _Held) -> Artifact:
        """Features of the same questions by a CLIP, which have a table of frame CLS."""
        found = [
            item
            for item in [*self.named, *self.workspace.finished("features")]
            if item.kind == "features"
            and held.questions.id in item.input_ids()
            and "cls_width" in item.manifest
            and (backbone is None or item.config["backbone"] == backbone_label(backbone))
        ]
        if not found:
            wanted = backbone or "clip-vit-base-patch16"
            raise MissingInput(
                f"no features of {held.questions.id} by a CLIP",
                f"vqa extract-features --benchmark {self.benchmark} --split {self.split} "
                f"--backbone {wanted} --from-videos",
            )
        return found[0] if found[0] in self.named else found[-1]

    def _optional(
        self, system: str, role: str, reference: str | None, option: str
    ) -> Artifact | None:
        """Weights that the user named, or the workspace's, or none."""
        if reference == ZERO_SHOT:
            return None
        if reference is None and not any(
            (item.config["system"], item.config["role"], item.config["benchmark"])
            == (system, role, self.benchmark)
            for item in self.workspace.finished("weights")
        ):
            return None
        return weights_of(
            self.workspace,
            self.benchmark,
            [role],
            system=system,
            reference=reference,
            option=option,
        )


def _layout_of(features: Artifact) -> str:
    """Layout of their backbone; empty where it is not there any more."""
    try:
        return backbone_layout(backbone_of(features))
    except VqaError:
        return ""


# --- configuration -------------------------------------------------------------------------------


def evaluate_config(inputs: EvaluateInputs, values: dict[str, Any], device: str) -> EvaluateConfig:
    """The configuration of an evaluation; what is not given comes from the weights.

    Raises:
        UsageError: More frames are to be kept than are seen, or another number than a prompter was
            trained for or `all` implies.
        ConfigError: An unknown key, or a network option that only training may set.
    """
    values = {name: value for name, value in values.items() if name != "select"}
    defaults = DEFAULTS.get(inputs.system, _blip2_defaults)(inputs)
    frames = values.pop("frames", None) or defaults.frames
    if defaults.fixed_frames and frames != defaults.frames:
        raise UsageError(f"{defaults.named} sees {defaults.frames} frames, not {frames}")
    keep = _keep(inputs, values.pop("keep", None), frames, defaults)
    if load_manifest(inputs.questions.config["benchmark"]).task == "retrieval":
        values = {"questions_per_shard": TEXTS_PER_SHARD, **values}
    config = EvaluateConfig.build(
        {
            "answer": defaults.answer,
            "precision": defaults.precision,
            **values,
            "system": inputs.system,
            "benchmark": inputs.questions.config["benchmark"],
            "split": inputs.questions.config["split"],
            "backbone": backbone_label(inputs.backbone),
            "backbone_weights": _fingerprint(inputs.backbone),
            "select": inputs.select,
            "selector_backbone": _label(inputs.selector_backbone),
            "selector_backbone_weights": _fingerprint(inputs.selector_backbone),
            "spans": sha256_file(inputs.spans) if inputs.spans else "",
            "stored_sampling": inputs.select == "uniform" and stores(inputs.features, keep),
            "keep": keep,
            "frames": frames,
            "device": resolve_device(device).type,
            "torch": torch_version(),
        },
        "eval",
    )
    _check_network(config, defaults)
    return config


@dataclass(frozen=True)
class _Defaults:
    """What the weights say where the user does not."""

    named: str
    frames: int
    fixed_frames: bool
    keep: int
    answer: AnswerMode
    precision: str
    network: type[VlapConfig] | type[SevilaConfig] | type[VideoDistillConfig]
    made: Mapping[str, Any]
    changeable: tuple[str, ...]


def _vlap_defaults(inputs: EvaluateInputs) -> _Defaults:
    assert inputs.weights is not None
    made = inputs.weights.config
    trained = VlapConfig.build(made["model"], inputs.weights.id)
    keep = trained.frames if inputs.select == "all" else trained.keep
    return _Defaults(
        inputs.weights.id,
        trained.frames,
        True,
        keep,
        made["answer"],
        made["training"]["precision"],
        VlapConfig,
        made["model"],
        VLAP_CHANGEABLE,
    )


def _videodistill_defaults(inputs: EvaluateInputs) -> _Defaults:
    assert inputs.weights is not None
    made = inputs.weights.config
    trained = VideoDistillConfig.build(made["model"], inputs.weights.id)
    return _Defaults(
        inputs.weights.id,
        trained.frames,
        True,
        trained.keep,
        "rank",
        made["training"]["precision"],
        VideoDistillConfig,
        made["model"],
        VIDEODISTILL_CHANGEABLE,
    )


def _blip2_defaults(inputs: EvaluateInputs) -> _Defaults:
    frames = max(inputs.features.config["sampling"]["frames"])
    trained = inputs.weights.config if inputs.weights else {}
    benchmark = load_manifest(inputs.questions.config["benchmark"])
    return _Defaults(
        inputs.weights.id if inputs.weights else inputs.backbone,
        frames,
        False,
        frames if inputs.select == "all" else min(int(trained.get("keep", DEFAULT_KEEP)), frames),
        trained.get("answer", benchmark.answer_default),
        _precision(inputs),
        SevilaConfig,
        trained.get("model", {}),
        SEVILA_CHANGEABLE,
    )


def _precision(inputs: EvaluateInputs) -> str:
    """The answerer's, else that of a localizer trained on the same network, else float32."""
    localizer = inputs.selector if inputs.select == "localizer" else None
    for item in (inputs.weights, localizer):
        if item is not None:
            return str(item.config["training"]["precision"])
    return "float32"


DEFAULTS: Mapping[str, Callable[[EvaluateInputs], _Defaults]] = {
    "vlap": _vlap_defaults,
    "videodistill": _videodistill_defaults,
}
"""By system; the others are BLIP-2's."""


def _keep(inputs: EvaluateInputs, given: Any, frames: int, defaults: _Defaults) -> int:
    keep = defaults.keep if given is None else given
    if type(keep) is not int or keep < 1:
        raise ConfigError(f"keep: a number of frames, not {keep!r}")
    if inputs.select == "all" and keep != frames:
        raise UsageError(
            f"--select all keeps all {frames} frames, not {keep}",
            "leave --keep out, or choose another --select",
        )
    if keep > frames:
        raise UsageError(f"cannot keep {keep} of {frames} frames")
    fixed = inputs.select == "own" or inputs.system == "videodistill"
    if fixed and keep != defaults.keep:
        raise UsageError(
            f"{defaults.named} keeps {defaults.keep} frames, not {keep}",
            "choose another --select, or weights trained for it",
        )
    if inputs.select == "prompter":
        assert inputs.selector is not None
        trained = VlapConfig.build(inputs.selector.config["model"], inputs.selector.id)
        if (frames, keep) != (trained.frames, trained.keep):
            raise UsageError(
                f"{inputs.selector.id} keeps {trained.keep} of {trained.frames} frames, "
                f"not {keep} of {frames}",
                f"--frames {trained.frames} --keep {trained.keep}",
            )
    return keep


def _check_network(config: EvaluateConfig, defaults: _Defaults) -> None:
    fixed = sorted(set(config.model) - set(defaults.changeable))
    if fixed:
        raise ConfigError(
            f"eval: model.{fixed[0]} is decided by training",
            f"open: {', '.join(defaults.changeable)}",
        )
    defaults.network.build({**defaults.made, **config.model}, "eval: model")


def _fingerprint(backbone: str) -> str:
    return backbone_fingerprint(BackboneFolder(backbone_path(backbone))) if backbone else ""


def _label(backbone: str) -> str:
    return backbone_label(backbone) if backbone else ""
