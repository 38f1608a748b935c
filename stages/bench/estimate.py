"""What a step of a recipe would take before anything of it is there: items, bytes, operations.

Counts come from the benchmark's manifest (or from questions that are prepared already), sizes from
the backbone's config, operations from `sizes`. Time is operations over a share of the rate of a
matrix product on this machine, probed for a moment; it is an estimate to plan by. Decoding, reading
and scoring are not in it.

Axes: T frames seen, K kept.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stages.bench.cluster import StepWork
from stages.benchmarks.manifest import BenchmarkManifest
from stages.benchmarks.shapes.questions import QUESTIONS_PER_VIDEO
from stages.core.errors import ConfigError
from stages.models.backbones.catalog import PUBLISHED_LAYOUTS, backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.sizes import (
    BackboneSize,
    backbone_config,
    backbone_size,
    clip_config,
    tower_size,
)
from stages.models.videodistill_config import PAPER, TABLE_4, VideoDistillConfig
from stages.models.videodistill_cost import pair_cost
from stages.recipes.recipe import Recipe

T5_WORDS, BERT_WORDS = 80, 75
"""Pieces of a prompt of NExT-QA (specs/vlap.md 9.2)."""
ANSWER_STEPS = 2
TRAINING_COMMANDS = (
    "train-teacher", "distill", "train-localizer", "refine-localizer", "train-answerer",
    "train-videodistill", "pretrain-videodistill",
)  # fmt: skip
SHARD_BYTES = 256 * 1024 * 1024
"""Of features, as `vqa extract-features` cuts them."""
BACKWARD = 2.0
"""Operations of a backward pass, in forward passes; half of it through frozen weights."""
PRODUCT_SHARE = 0.5
"""Share of a large product's rate that networks reach: 0.6 measured with `vqa bench features` on
the CPU that this was written on, 0.5 is what is aimed for on an accelerator."""
VIDEODISTILL_WORDS = 16
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1, "float8": 1}


@dataclass(frozen=True)
class Estimate:
    """What a step would take; none where the counts are not known.

    Attributes:
        items: Questions, clips or pairs.
        item: What they are.
        frames: Frames that go through a tower.
        bytes: Written, of features.
        operations: Floating-point operations.
        memory: The most of it: `Peak` as plain values.
        seconds: On this machine.
    """

    items: int | None = None
    item: str = "questions"
    frames: int | None = None
    bytes: int | None = None
    operations: int | None = None
    memory: dict[str, int] | None = None
    seconds: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Step:
    """One command line of a recipe, read as far as an estimate needs it.

    Attributes:
        recipe: What it is a step of.
        line: Its command and options, each option long and apart from its value.
        number: Of the step, for messages; 0: not said.
    """

    recipe: Recipe
    line: Sequence[str]
    number: int = 0

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"recipe {self.recipe.name}, step {self.number}" if self.number else self.line[0]

    @property
    def command(self) -> str:
        """Its name."""
        return self.line[0]

    def option(self, name: str) -> str | None:
        """The last value of `--name`."""
        given = self.options(name)
        return given[-1] if given else None

    def options(self, name: str) -> list[str]:
        """All values of `--name`."""
        flag = f"--{name}"
        return [self.line[n + 1] for n, text in enumerate(self.line[:-1]) if text == flag]

    @property
    def assigned(self) -> dict[str, Any]:
        """What `--set` says, by the setting's full name, read as the commands read it."""
        pairs = [text.partition("=") for text in self.options("set")]
        return {name: _json_or_text(value) for name, _, value in pairs}

    def value(self, name: str) -> Any:
        """A setting of the command: `--set`, else its own option, else the recipe's section."""
        if name in self.assigned:
            return self.assigned[name]
        if self.option(name) is not None:
            return self.option(name)
        found: Any = self.recipe.section(self.command)
        for part in name.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def text(self, name: str, default: str) -> str:
        """A setting that is a word."""
        found = self.value(name)
        return default if found is None else str(found)

    def whole(self, name: str, default: int) -> int:
        """A setting that is a whole number.

        Raises:
            ConfigError: It is something else.
        """
        found = self.value(name)
        return default if found is None else self._whole(name, found)

    def group(self, name: str) -> dict[str, Any]:
        """A nested group of settings, `--set` over the recipe's section."""
        found = self.recipe.section(self.command).get(name, {})
        if not isinstance(found, dict):
            raise ConfigError(f"{self.place}: {name} is not a group of settings")
        own = {key: value for key, value in self.assigned.items() if key.startswith(f"{name}.")}
        return {**found, **{key.partition(".")[2]: value for key, value in own.items()}}

    def counts(self, name: str) -> list[int]:
        """`--frames 32,4` or the section's list; empty: not said.

        Raises:
            ConfigError: One of them is no whole number.
        """
        found = self.value(name)
        if found is None:
            return []
        each = found if isinstance(found, list) else str(found).split(",")
        return [self._whole(name, one) for one in each]

    def _whole(self, name: str, found: Any) -> int:
        try:
            return int(found)
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(f"{self.place}: {name} {found!r} is no whole number") from None

    @property
    def frames(self) -> int:
        """T: the option's, else what the features' names or the recipe's own extraction say."""
        if self.counts("frames"):
            return max(self.counts("frames"))
        named = [re.search(r"-(\d+)f-", text) for text in self.options("features")]
        stored = [int(found.group(1)) for found in named if found]
        others = [max(one.counts("frames") or [0]) for one in self._extractions()]
        return max([*stored, *([] if stored else others), 0]) or 32

    @property
    def keep(self) -> int | None:
        """K."""
        return max(self.counts("keep"), default=None)

    @property
    def runs(self) -> list[Step]:
        """One step for each combination of a sweep, its values set; without one, itself.

        Raises:
            ConfigError: `--sweep` is not of the form `name=value,value ...`.
        """
        sweep = self.option("sweep")
        if sweep is None:
            return [self]
        axes = [axis.partition("=") for axis in sweep.split()]
        if not axes or not all(name and values for name, _, values in axes):
            raise ConfigError(
                f"{self.place}: sweep {sweep!r} is not of the form name=value,value",
                '--sweep "frames=8,16,32 keep=1,4"',
            )
        place = list(self.line).index("--sweep")
        once = [*self.line[:place], *self.line[place + 2 :]]
        each = [[f"{name}={value}" for value in values.split(",")] for name, _, values in axes]
        return [
            replace(self, line=[*once, *(part for text in chosen for part in ("--set", text))])
            for chosen in itertools.product(*each)
        ]

    @property
    def backbone(self) -> str | None:
        """The step's, else that of the recipe's extraction."""
        own = self.option("backbone") or self.option("for")
        others = [one.option("backbone") for one in self._extractions()]
        return own or next((name for name in others if name), None)

    def _extractions(self) -> list[Step]:
        lines = [line for line in self.recipe.steps if line[0].startswith("extract-")]
        return [Step(self.recipe, line) for line in lines]


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def named_config(backbone: str) -> dict[str, Any]:
    """`config.json` of a backbone; published ones need not be on this machine."""
    layout = PUBLISHED_LAYOUTS.get(backbone)
    if layout == "clip":
        return clip_config("full")
    if layout is not None:
        return backbone_config(layout, "full")
    return BackboneFolder(backbone_path(backbone)).config


@dataclass(frozen=True)
class Counts:
    """Questions and clips of the splits that a step works on; none: not known."""

    questions: int | None
    clips: int | None


def split_counts(
    manifest: BenchmarkManifest,
    splits: Sequence[str],
    prepared: Mapping[str, int],
    generated: Mapping[str, int] | None = None,
) -> Counts:
    """What the manifest expects, what is prepared, or what will be generated.

    Args:
        manifest: The benchmark.
        splits: Its splits.
        prepared: Questions of splits that are prepared already.
        generated: Videos of the splits of a generated benchmark.
    """
    questions, clips = [], []
    for name in splits:
        split, videos = manifest.splits[name], (generated or {}).get(name)
        expected = split.questions if videos is None else QUESTIONS_PER_VIDEO * videos
        asked = prepared.get(name, expected)
        questions.append(asked)
        # Clips with times of their own are at most as many as questions; generated ones have none.
        whole = split.videos if manifest.clip == "whole" else asked
        clips.append(whole if videos is None else videos)
    return Counts(_total(questions), _total(clips))


def _total(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def is_estimated(step: Step) -> bool:
    """Whether its command computes anything that an estimate counts."""
    return step.command in _ESTIMATES


def estimate(step: Step, counts: Counts, rate: float, reported: Counts | None = None) -> Estimate:
    """One step; a sweep is the sum of its combinations.

    Args:
        step: The command line.
        counts: Of the splits that it works on.
        rate: Operations per second of a matrix product on this machine.
        reported: Of the splits that `--evaluate` answers; none: not known.

    Raises:
        ConfigError: A value of the step or of its settings is impossible.
    """
    backbone = step.backbone
    if backbone is None or not is_estimated(step):
        return Estimate()
    config = named_config(backbone)
    each = [_run(one, counts, config, reported) for one in step.runs]
    operations = _total([one.operations for one in each])
    return replace(
        each[0],
        operations=operations,
        seconds=None if operations is None else round(operations / (rate * PRODUCT_SHARE), 1),
    )


def step_work(
    step: Step, found: Estimate, counts: Counts, clips_per_shard: int | None = None
) -> StepWork:
    """What a step has to do, for machines that it may be laid out on.

    Args:
        step: The command line.
        found: Its estimate.
        counts: Of the splits that it works on.
        clips_per_shard: Of an extraction; none: as the stage itself would cut.
    """
    if found.operations is None or step.backbone is None:
        return StepWork()
    tower = tower_size(named_config(step.backbone))
    row = tower.tokens * tower.width * ITEM_BYTES["float16"]
    if step.command.startswith("extract-"):
        clips, frames = counts.clips or 0, found.frames or 0
        decodes = step.command == "extract-frames" or "--from-videos" in step.line
        per_clip = max((found.bytes or 0) // max(clips, 1), 1)
        per_shard = clips_per_shard or min(64, max(1, SHARD_BYTES // per_clip))
        return StepWork(
            operations=found.operations,
            clips=clips if decodes else 0,
            frames=frames if decodes else 0,
            reads=0 if decodes else frames * 3 * _side(named_config(step.backbone)) ** 2,
            writes=found.bytes or 0,
            shards=max(1, -(-clips // per_shard)),
        )
    questions, runs = counts.questions or 0, len(step.runs)
    seen = questions * step.frames * row * runs
    if step.command in TRAINING_COMMANDS:
        epochs = step.whole("training.epochs", 10)
        batch = step.whole("training.batch_size", 8)
        return StepWork(found.operations, reads=seen * epochs, shards=0, batch=batch)
    return StepWork(found.operations, reads=seen, shards=max(1, -(-questions // 256)))


def _side(config: Mapping[str, Any]) -> int:
    return int(config.get("vision_config", {}).get("image_size", 224))


def _run(
    step: Step, counts: Counts, config: Mapping[str, Any], reported: Counts | None
) -> Estimate:
    """One combination, with its answers to the report split where `--evaluate` wants them."""
    found = _ESTIMATES[step.command](step, counts, config)
    if "--evaluate" not in step.line:
        return found
    answered = _videodistill(step, reported or Counts(None, None), config, train=False)
    times = 1 if step.option("blind") is None else 2
    operations = [found.operations, *[answered.operations] * times]
    return replace(found, operations=_total(operations))


def _extraction(step: Step, counts: Counts, config: Mapping[str, Any]) -> Estimate:
    """Frames of every clip through the tower, once."""
    tower = tower_size(config)
    per_clip = sum(step.counts("frames") or [step.frames])
    per_clip *= 1 + step.whole("views", 0)
    frames = None if counts.clips is None else counts.clips * per_clip
    item = _item_bytes(step)
    row = tower.tokens * tower.width * item
    pixels = 3 * _side(config) ** 2
    written = pixels if step.command == "extract-frames" else row
    work = 0 if step.command == "extract-frames" else tower.flops
    return Estimate(
        items=counts.clips,
        item="clips",
        frames=frames,
        bytes=None if frames is None else frames * written,
        operations=None if frames is None else frames * work,
    )


def _item_bytes(step: Step) -> int:
    dtype = step.text("dtype", "float16")
    if dtype not in ITEM_BYTES:
        raise ConfigError(f"{step.place}: dtype {dtype!r}", f"known: {', '.join(ITEM_BYTES)}")
    return ITEM_BYTES[dtype]


def _training(step: Step, counts: Counts, config: Mapping[str, Any]) -> Estimate:
    """Every question in every epoch, forward and backward."""
    if config.get("model_type") == "clip":
        return _videodistill(step, counts, config, train=True)
    size = backbone_size(config)
    epochs = step.whole("training.epochs", 10)
    operations = _step_operations(step, size)
    return Estimate(
        items=counts.questions,
        operations=None if counts.questions is None else counts.questions * epochs * operations,
    )


def _step_operations(step: Step, size: BackboneSize) -> int:
    """Operations of one question in training."""
    T, K = step.frames, step.keep
    qformer = size.qformer.flops(size.tower.tokens, BERT_WORDS)
    learns = 1 + BACKWARD
    through = 1 + BACKWARD / 2  # T5's weights get no gradient
    if step.command == "train-teacher":
        seen = K or T
        return int(seen * qformer * learns + _answer(size, seen) * through)
    if step.command == "distill":
        K = K or T
        return int((T + K * learns) * qformer + _answer(size, K) * through)
    if step.command == "train-answerer":
        chosen = step.text("select", "localizer") == "localizer"
        # The frozen localizer's choice is made once, unless its dropout is wanted in every step.
        afresh = step.value("dropout_in_choice") is True
        times = 1 if afresh else 1 / max(step.whole("training.epochs", 10), 1)
        looks = T * (qformer + _single(size)) * times if chosen else 0
        K = K or 4
        return int(looks + K * qformer * learns + _answer(size, K) * through)
    seen = step.whole("frames_per_question", 4)
    return int(seen * (qformer * learns + _single(size) * through))


def _answering(step: Step, counts: Counts, config: Mapping[str, Any]) -> Estimate:
    """Every question once, from stored features."""
    if config.get("model_type") == "clip":
        return _videodistill(step, counts, config, train=False)
    size = backbone_size(config)
    T = step.frames
    qformer = size.qformer.flops(size.tower.tokens, BERT_WORDS)
    system = step.option("system") or "vlap"
    select = step.text("select", "localizer" if system == "sevila" else "")
    K = T if select == "all" else step.keep or min(4, T)
    if step.command == "pseudo-label":
        each = T * (qformer + _single(size))
    elif system == "sevila":
        scored = T if select == "localizer" else 0
        each = (scored + K) * qformer + scored * _single(size) + _answer(size, K)
    elif system == "blip2-voting":
        each = K * (qformer + _single(size))
    else:
        each = K * qformer + _answer(size, K)
    return Estimate(
        items=counts.questions,
        operations=None if counts.questions is None else counts.questions * each,
    )


def _videodistill(
    step: Step, counts: Counts, config: Mapping[str, Any], *, train: bool
) -> Estimate:
    """Every (question, video) pair through sampler and refinement."""
    if step.command == "eval":  # the network's sizes are said where it is trained
        step = replace(step, line=["train-videodistill", *step.line[1:]])
    tower = tower_size(config)
    values = {**PAPER, "frames": step.frames, "keep": min(step.keep or 16, step.frames)}
    variant = TABLE_4.get(step.text("variant", ""), {})
    network = VideoDistillConfig.build(
        {**values, **step.group("model"), **variant}, f"{step.place}: model"
    )
    cost = pair_cost(
        network,
        patches=tower.tokens - 1,
        patch_width=tower.width,
        cls_width=tower.width,
        words=VIDEODISTILL_WORDS,
    )
    passes = (1 + BACKWARD) * step.whole("training.epochs", 10) if train else 1
    pairs = counts.questions
    return Estimate(
        items=pairs,
        item="pairs" if not train else "questions",
        operations=None if pairs is None else int(pairs * passes * cost.total),
    )


def _answer(size: BackboneSize, frames: int) -> int:
    """T5 on the tokens of `frames` frames and a prompt."""
    length = frames * size.qformer.queries + T5_WORDS
    language = size.language
    return language.encoder_flops(length) + language.decoder_flops(length, ANSWER_STEPS)


def _single(size: BackboneSize) -> int:
    """T5 on one frame and a prompt, one step."""
    length = size.qformer.queries + T5_WORDS
    return size.language.encoder_flops(length) + size.language.decoder_flops(length, 1)


_ESTIMATES = {
    "extract-frames": _extraction,
    "extract-features": _extraction,
    "train-teacher": _training,
    "distill": _training,
    "train-localizer": _training,
    "refine-localizer": _training,
    "train-answerer": _training,
    "train-videodistill": _training,
    "pretrain-videodistill": _training,
    "pseudo-label": _answering,
    "eval": _answering,
}
