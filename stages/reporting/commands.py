"""The command line that makes an artifact again, told from its manifest.

Reads: manifests.   Writes nothing. Every setting that has no option of its own is given with
`--set`, so that a later version with other defaults still makes the same. Where something was read
that the manifest does not hold (a file of spans, imported weights) there is no command.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.artifacts.store import Artifact

FOLLOWS = (
    "benchmark", "split", "system", "role", "backbone", "backbone_weights", "selector_backbone",
    "selector_backbone_weights", "select", "stored_sampling", "spans", "blind", "device", "torch",
    "tokens", "trained_on",
)  # fmt: skip
"""What options, or the inputs, decide; the rest of a configuration are settings."""
NETWORK_SELECTORS = ("localizer", "prompter")
NONE = "none"

Words = list[str]


def command_of(artifact: Artifact) -> str:
    """`vqa ...`, or an empty string where it cannot be told."""
    if "imported" in artifact.config:
        return ""
    try:
        words = COMMANDS.get(artifact.kind, _unknown)(artifact)
    except KeyError:  # made by a version, or by someone, that kept less
        return ""
    return "vqa " + shlex.join(words) if words else ""


def _unknown(artifact: Artifact) -> Words:
    return []


# --- parts of a command line ---------------------------------------------------------------------


def _inputs(artifact: Artifact) -> dict[str, str]:
    """Role -> id."""
    return {str(item["role"]): str(item["id"]) for item in artifact.manifest["inputs"]}


def _option(name: str, value: Any) -> Words:
    """Empty where there is no value."""
    return [] if value in (None, "", ()) else [name, str(value)]


def _settings(values: Mapping[str, Any], group: str = "") -> Iterator[str]:
    """`--set key=value` for each single value, names sorted."""
    for name in sorted(values):
        value = values[name]
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{group}{name}.")
        elif not isinstance(value, Mapping):
            text = value if isinstance(value, str) and value else json.dumps(value)
            yield from ("--set", f"{group}{name}={text}")


def _rest(config: Mapping[str, Any], *told: str) -> Words:
    """The settings that no option tells."""
    return list(_settings({k: v for k, v in config.items() if k not in (*FOLLOWS, *told)}))


# --- kinds ---------------------------------------------------------------------------------------


def _questions(artifact: Artifact) -> Words:
    made, host = artifact.config, artifact.manifest["host"]
    words = ["prepare", "--benchmark", made["benchmark"], "--split", made["split"]]
    if made["benchmark"] == "shapes":
        recipe = made["generated"]
        hard = ["--hard"] if recipe["hard"] else []
        return [*words, "--size", str(recipe["videos"]), "--seed", str(recipe["seed"]), *hard]
    # Names alone: where they lay is nobody's business.
    words += _option("--annotations", _name(host.get("annotations")))
    for root in host.get("video_roots") or []:
        words += _option("--videos", _name(root))
    words += _option("--video-map", _name(host.get("video_map")))
    words += _option("--captions", _name(host.get("captions")))
    for column in made["columns"]:
        words += _option("--column", column)
    words += _option("--video-rule", made["video_rule"])
    return [*words, "--hash", made["hash"]]


def _name(path: str | None) -> str:
    return Path(path).name if path else ""


def _features(artifact: Artifact) -> Words:
    made = artifact.config
    if "backbone_folder" in artifact.manifest["host"]:
        return []
    sampling, compute = made["sampling"], made["compute"]
    return [
        *("extract-features", "--benchmark", made["benchmark"], "--split", made["split"]),
        *("--backbone", made["backbone"], "--from-videos"),
        *("--frames", ",".join(map(str, sampling["frames"]))),
        *("--views", str(sampling["views"]), "--seed", str(sampling["seed"])),
        *("--dtype", made["dtype"], "--decoder", made["decoder"]["decoder"]),
        *("--questions", _inputs(artifact)["questions"], "--device", compute["device"]),
        *_settings(
            {
                "folder_fps": sampling["folder_fps"],
                "frames_per_forward": compute["frames_per_forward"],
                "precision": compute["precision"],
                "videos_per_shard": made["videos_per_shard"],
                "wrap_crops": made["wrap_crops"],
                **({"pooled": True} if made.get("pooled") else {}),
            }
        ),
    ]


def _predictions(artifact: Artifact) -> Words:
    made, given = artifact.config, _inputs(artifact)
    if made.get("spans") or "selector_features" in given:
        return []
    words = ["eval", "--benchmark", made["benchmark"], "--split", made["split"]]
    words += ["--system", made["system"], "--frames", str(made["frames"])]
    if "moments" in made:
        words += ["--selector", given.get("selector", NONE)]
        words += ["--tune-gap"] if made["tuning"] is not None else []
    else:
        words += ["--select", made["select"], "--keep", str(made["keep"])]
        words += ["--answer", made["answer"], "--weights", given.get("weights", NONE)]
        if made["select"] in NETWORK_SELECTORS:
            words += ["--selector", given.get("selector", NONE)]
    words += ["--features", given["features"], "--questions", given["questions"]]
    words += [*_option("--blind", made["blind"]), "--seed", str(made["seed"])]
    return [*words, "--device", made["device"], *_rest(_open(made), *_EVAL_TOLD)]


_EVAL_TOLD = ("frames", "keep", "answer", "seed")


def _open(made: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation's settings, without what is empty or was found by the evaluation itself."""
    values = {name: value for name, value in made.items() if value not in (None, "")}
    if values.get("tuning") is not None:
        values["moments"] = {k: v for k, v in values["moments"].items() if k != "gap"}
    return values


def _pseudo_labels(artifact: Artifact) -> Words:
    made, given = artifact.config, _inputs(artifact)
    return [
        *("pseudo-label", "--benchmark", made["benchmark"], "--split", made["split"]),
        *("--weights", given.get("weights", NONE), "--round", str(made["round"])),
        *("--frames", str(made["frames"]), "--answer", made["answer"]),
        *("--features", given["features"], "--questions", given["questions"]),
        *("--device", made["device"], *_rest(made, "round", "frames", "answer")),
    ]


def _weights(artifact: Artifact) -> Words:
    made, given = artifact.config, _inputs(artifact)
    if "tune_questions" not in given:
        return []  # the command would take a tune split that is prepared by now
    told = TRAINING.get((made["system"], made["role"]))
    if told is None:
        return []
    command, own = told(made, given)
    values = {name: value for name, value in made.items() if name != "model"}
    model, training = dict(made["model"]), dict(made["training"])
    seed = training.pop("seed")
    frames = model.pop("frames", None) or values.pop("frames", None)
    keep = model.pop("keep", None) or values.pop("keep", None)
    select = values.pop("select", None)
    words = [command, "--benchmark", made["benchmark"], *_option("--select", select)]
    words += _option("--frames", frames)
    words += [] if made["role"] == "teacher" else _option("--keep", keep)
    for role in ("train", "tune"):
        words += [
            "--features",
            given[f"{role}_features"],
            "--questions",
            given[f"{role}_questions"],
        ]
    rest = _rest({**values, "model": model, "training": training}, "task", "round", "answer")
    answer = _option("--answer", made.get("answer")) if command not in WITHOUT_ANSWER else []
    return [*words, *own, *answer, "--seed", str(seed), *rest]


Told = tuple[str, Sequence[str]]
"""A command and the options that only it has."""


def _student(made: Mapping[str, Any], given: Mapping[str, str]) -> Told:
    start = ("--weights", given["start"]) if "start" in given else ("--init", "base")
    return "distill", (*_option("--teacher", given.get("teacher")), *start)


def _localizer(made: Mapping[str, Any], given: Mapping[str, str]) -> Told:
    init = ("--init", given.get("start", NONE))
    if made["trained_on"] == "spans":
        return "train-localizer", init
    labels = _option("--labels", given.get("pseudo_labels"))
    answerer = ("--weights", given.get("answerer", NONE))
    return "refine-localizer", (*labels, *init, *answerer, "--round", str(made["round"]))


def _answerer(made: Mapping[str, Any], given: Mapping[str, str]) -> Told:
    asks = "localizer" in (made["select"], made["eval_select"])
    selector = ("--selector", given.get("selector", NONE)) if asks else ()
    return "train-answerer", selector


def _videodistill(made: Mapping[str, Any], given: Mapping[str, str]) -> Told:
    init = ("--init", given.get("init", NONE))
    if made["role"] == "pretrained":
        return "pretrain-videodistill", init
    return "train-videodistill", ("--task", made["task"], *init)


TRAINING: Mapping[tuple[str, str], Callable[[Mapping[str, Any], Mapping[str, str]], Told]] = {
    ("vlap", "teacher"): lambda made, given: ("train-teacher", ()),
    ("vlap", "start"): lambda made, given: ("train-teacher", ()),
    ("vlap", "student"): _student,
    ("sevila", "localizer"): _localizer,
    ("sevila", "answerer"): _answerer,
    ("videodistill", "trained"): _videodistill,
    ("videodistill", "pretrained"): _videodistill,
}
"""(system, role) -> the command."""

WITHOUT_ANSWER = ("train-localizer", "train-videodistill", "pretrain-videodistill")

COMMANDS: Mapping[str, Callable[[Artifact], Words]] = {
    "questions": _questions,
    "features": _features,
    "predictions": _predictions,
    "pseudo-labels": _pseudo_labels,
    "weights": _weights,
}
"""By kind; frames are no ancestor of anything, and metrics come from files."""
