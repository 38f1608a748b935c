"""Whom to ask: trained weights of a workspace, or a backbone as it is.

Reads: manifests of weights, config files of backbones; no torch, so that a wrong name is told at
once. Without weights it is SeViLA on the embedded backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.artifacts.store import Artifact, Workspace
from stages.core.errors import MissingInput, UsageError
from stages.models.backbones.catalog import backbone_path, in_layout
from stages.models.embedded import EMBEDDED

SYSTEMS = ("vlap", "sevila", "blip2-concat", "videodistill")
SELECTS = ("own", "localizer", "prompter", "topk", "atp", "uniform", "random", "all")
"""Selectors that need no more than the video."""
ELSEWHERE = {
    "oracle": "the oracle needs the true spans",
    "clip": "clip needs features by a second backbone",
    "spans": "spans needs a file of predicted spans",
}
"""What `vqa eval` knows and one video has not."""
OWN_SELECT = {"vlap": "own", "sevila": "localizer", "videodistill": "own"}
"""What a system keeps frames by; the others take uniform ones."""
ROLES = {
    "vlap": ("student", "start", "teacher"),
    "sevila": ("answerer",),
    "blip2-concat": ("answerer",),
    "videodistill": ("trained", "pretrained"),
}
"""Roles of the weights that answer, the preferred one first."""
MADE_AS = {"blip2-concat": "sevila"}
"""Whose weights a system reads, where they are another's."""
TRAINED = {"vlap": "vqa distill --keep 4", "videodistill": "vqa train-videodistill"}
"""Systems that have no zero-shot form, and the command that makes weights."""
NO_WEIGHTS = "none"
"""In place of weights: the backbone as it is."""
DEFAULT_SYSTEM = "sevila"
DEFAULT_BACKBONE = "tiny-blip2"
DEFAULT_FRAMES = 32
MOST_FRAMES = 1024
"""Of one video, in memory at once."""
MOST_SEED = 2**32 - 1
"""What a generator of random numbers takes."""
SHAPES_ONLY = (
    "the embedded backbones know generated shapes and nothing of the world; for real videos: "
    "--backbone blip2-flan-t5-xl, or --weights trained on a real backbone"
)
PLAIN_BENCHMARK = "custom"
"""Whose wording is used without weights."""


@dataclass(frozen=True)
class AskRequest:
    """Who answers, and from how many frames.

    Attributes:
        system: One of `SYSTEMS`.
        select: Who keeps frames; one of `SELECTS`.
        weights: The answerer's; none: the backbone as it is.
        selector: The selector's, where it is trained apart.
        backbone: Name or folder of the answerer's backbone.
        selector_backbone: The same of a localizer's or prompter's; empty: it has none.
        frames: Frames that are decoded and seen.
        values: Settings given by the user: frames, keep, answer, seed, model.
    """

    system: str
    select: str
    weights: Artifact | None
    selector: Artifact | None
    backbone: str
    selector_backbone: str
    frames: int
    values: dict[str, Any]

    @property
    def benchmark(self) -> str:
        """Whose wording the prompts have: the one that the weights were trained on."""
        made = self.weights or self.selector
        return str(made.config["benchmark"]) if made is not None else PLAIN_BENCHMARK

    def notes(self) -> list[str]:
        """What was chosen, for the terminal."""
        answers = self.weights.id if self.weights else f"{self.backbone} as it is (zero-shot)"
        notes = [f"system: {self.system}, weights: {answers}"]
        if self.selector_backbone:
            chosen = self.selector.id if self.selector else f"{self.selector_backbone} as it is"
            notes.append(f"{self.select}: {chosen}")
        return [*notes, self.warning] if self.warning else notes

    @property
    def warning(self) -> str:
        """What the answers are not good for, or an empty string."""
        return SHAPES_ONLY if self.backbone in EMBEDDED else ""


def ask_request(
    workspace: Workspace,
    *,
    system: str | None = None,
    select: str | None = None,
    weights: str | None = None,
    selector: str | None = None,
    backbone: str | None = None,
    selector_backbone: str | None = None,
    values: dict[str, Any] | None = None,
) -> AskRequest:
    """Find what a user named, and what follows from it.

    Args:
        workspace: Where weights are looked for.
        system: One of `SYSTEMS`; none: that of the weights, else `DEFAULT_SYSTEM`.
        select: Who keeps frames; none: the system's own.
        weights: Id, label or path of weights, or `none`.
        selector: The same of the weights of `select`.
        backbone: Name or folder; none: that of the weights, else the embedded one.
        selector_backbone: The same of the selector.
        values: Settings, see `AskRequest`.

    Raises:
        UsageError: No such system or selector, or names contradict each other.
        MissingInput: Weights or a backbone are not there.
    """
    named = None if weights in (None, NO_WEIGHTS) else workspace.by_reference("weights", weights)
    name = _system(system, named)
    held = named or _held(workspace, name)
    chosen = _select(name, select, held)
    base = backbone or (_backbone_of(held) if held else DEFAULT_BACKBONE)
    if name not in TRAINED:
        base = in_layout(base, "blip-2")
    found, selected = _selector(workspace, chosen, selector, selector_backbone, base)
    for folder in filter(None, (base, selected)):
        backbone_path(folder)  # says how to get one that is not here
    given = dict(values or {})
    frames = _trained_frames(name, chosen, held, found) or given.get("frames", DEFAULT_FRAMES)
    if type(frames) is not int or not 1 <= frames <= MOST_FRAMES:
        raise UsageError(f"--frames {frames!r}: a number from 1 to {MOST_FRAMES} is expected")
    seed = given.get("seed", 0)
    if type(seed) is not int or not 0 <= seed <= MOST_SEED:
        raise UsageError(f"--seed {seed!r}: a number from 0 to {MOST_SEED} is expected")
    keep = given.get("keep")
    if isinstance(keep, int) and keep > frames:
        raise UsageError(f"cannot keep {keep} of {frames} frames", "a smaller --keep")
    return AskRequest(name, chosen, held, found, base, selected, frames, given)


def trained_answerers(workspace: Workspace) -> list[str]:
    """Ids of weights in the workspace that could be asked, newest first."""
    roles = {(MADE_AS.get(name, name), role) for name in SYSTEMS for role in ROLES[name]}
    made = [(item.config.get("system"), item.config.get("role"), item.id)
            for item in workspace.finished("weights")]  # fmt: skip
    return [name for system, role, name in reversed(made) if (system, role) in roles]


def _system(asked: str | None, weights: Artifact | None) -> str:
    if asked is not None and asked not in SYSTEMS:
        raise UsageError(f"--system {asked!r}", f"known: {', '.join(SYSTEMS)}")
    if weights is None:
        return asked or DEFAULT_SYSTEM
    made, role = str(weights.config["system"]), str(weights.config["role"])
    name = asked or made
    if made != MADE_AS.get(name, name):
        raise UsageError(f"{weights.id} are weights of {made}, not of {name}", f"--system {made}")
    if role not in ROLES.get(name, ()):
        hint = f"--selector {weights.id}" if role == "localizer" else "vqa artifacts ls weights"
        raise UsageError(f"{weights.id} holds a {role}, which answers no question", hint)
    return name


def _held(workspace: Workspace, system: str) -> Artifact | None:
    """The workspace's own weights of a system that cannot do without.

    Raises:
        MissingInput: There are none.
        UsageError: Several.
    """
    if system not in TRAINED:
        return None
    finished = [i for i in workspace.finished("weights") if i.config["system"] == system]
    held = next((r for r in ROLES[system] if any(i.config["role"] == r for i in finished)), None)
    if held is None:
        raise MissingInput(
            f"{system} answers with trained weights only, and {workspace.root} has none",
            f"{TRAINED[system]}, or name a workspace: --workspace DIR",
        )
    return workspace.choose(
        "weights",
        lambda item: (item.config["system"], item.config["role"]) == (system, held),
        described=f"{system} weights ({held})",
        option="--weights",
        command=TRAINED[system],
    )


def _select(system: str, asked: str | None, weights: Artifact | None) -> str:
    own = OWN_SELECT.get(system, "uniform")
    name = own if asked in (None, "own") else str(asked)
    if name in ELSEWHERE:
        raise UsageError(f"--select {name}: {ELSEWHERE[name]}", "vqa eval --select takes it")
    if name not in SELECTS:
        raise UsageError(f"--select {name!r}", f"known: {', '.join(SELECTS)}")
    if name in ("topk", "atp") and (weights is None or weights.config.get("select") != name):
        raise UsageError(
            f"--select {name} needs an answerer that was trained with it",
            f"vqa train-answerer --select {name}",
        )
    return name


def _selector(
    workspace: Workspace, select: str, reference: str | None, given: str | None, base: str
) -> tuple[Artifact | None, str]:
    """Weights and backbone of a selector with a network of its own; empty for one without."""
    system, roles = {
        "localizer": ("sevila", ("localizer",)),
        "prompter": ("vlap", ("student",)),
    }.get(select, ("", ()))
    if not system:
        if reference is not None:
            raise UsageError(f"--select {select} has no weights", "leave --selector out")
        return None, ""
    if reference in (None, NO_WEIGHTS):
        if select == "prompter":
            raise UsageError("a frame prompter needs its weights", "--selector ID of a student")
        return None, in_layout(given or base, "blip-2")
    found = workspace.by_reference("weights", str(reference))
    made = (found.config["system"], found.config["role"])
    if made[0] != system or made[1] not in roles:
        raise UsageError(f"{found.id} holds no {select}", "vqa artifacts ls weights")
    return found, given or _backbone_of(found)


def _trained_frames(
    system: str, select: str, weights: Artifact | None, selector: Artifact | None
) -> int | None:
    """How many frames the weights were trained to see, where that is fixed."""
    fixed: Sequence[Artifact | None] = (
        weights if system in TRAINED else None,
        selector if select == "prompter" else None,
    )
    return next((int(item.config["model"]["frames"]) for item in fixed if item is not None), None)


def _backbone_of(weights: Artifact) -> str:
    """As `artifacts.weights.backbone_of`, which imports torch."""
    host: dict[str, Any] = weights.manifest["host"]
    return str(host.get("backbone_folder") or weights.config["backbone"])
