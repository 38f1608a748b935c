"""Ask a system about one video: load it once, look at the video once, answer any question.

Reads: a video, weights or a backbone.   Writes nothing.
The system is built by `stages.systems.build`, as `vqa eval` builds it; questions and features are
the same objects, in memory instead of in a workspace.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from stages.artifacts.clips import ClipRows
from stages.artifacts.features import StoredValues, decode_values
from stages.artifacts.rows import Array
from stages.artifacts.store import Artifact
from stages.asking.answers import Answered, SeenFrame, unanswered
from stages.asking.questions import SPLIT, Asked
from stages.asking.request import AskRequest
from stages.asking.video import SeenVideo
from stages.benchmarks.questions import Question
from stages.core.device import resolve_device
from stages.core.errors import DataError, UsageError
from stages.features import FeatureChoices, FeaturesConfig, VideoEncoder, features_config
from stages.models.backbones.catalog import backbone_path
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.towers import load_tower
from stages.systems.build import build_system
from stages.systems.face import Answers, Selection, System
from stages.systems.inputs import EvaluateConfig, EvaluateInputs, evaluate_config
from stages.systems.seen import SeenFrames
from stages.video.clips import SamplingConfig


class VideoRows:
    """Features of one video in memory; `FeatureRows` of `systems.seen`.

    Rows of different videos have different numbers, because systems keep what they computed of a
    clip by its row numbers.

    Args:
        values: Features as `vqa extract-features` would store them.
        stored: The type that they are stored in.
        first: Number of the first row.
    """

    def __init__(self, values: StoredValues, stored: str, first: int) -> None:
        self._values, self._stored, self._first = values, stored, first
        self.tokens, self.width = int(values.tokens.shape[1]), int(values.tokens.shape[2])

    def read(self, rows: Array) -> Array:
        """See `FeatureRows`."""
        chosen = self._values.only(rows - self._first)
        return decode_values(chosen.tokens, self._stored, chosen.scale)

    def read_cls(self, rows: Array) -> Array:
        """See `FeatureRows`."""
        assert self._values.cls is not None
        return np.asarray(self._values.cls[rows - self._first], dtype=np.float32)

    def read_pooled(self, rows: Array) -> Array | None:
        """See `FeatureRows`; the tokens are at hand."""
        return None


@dataclass(frozen=True)
class EncodedVideo:
    """A video that was looked at.

    Attributes:
        seen: Its frames.
        rows: Their features.
        clip: Which T rows the questions are about.
    """

    seen: SeenVideo
    rows: VideoRows
    clip: ClipRows


class Asker:
    """A system that is loaded once and asked about any number of videos.

    Args:
        request: Who answers.
        device: `auto`, `cpu`, `cuda`, ...
        decoder: From `decoder_identity`, for the features' configuration.

    Raises:
        UsageError: More frames are to be kept than are seen, or another number than trained for.
        ConfigError: An impossible setting.
        DataError: Weights and backbone do not belong together.
    """

    def __init__(self, request: AskRequest, device: str, decoder: dict[str, str]) -> None:
        started = time.monotonic()
        self.request, self.device = request, resolve_device(device)
        asked = _in_memory("questions", {"benchmark": request.benchmark, "split": SPLIT})
        self.features = _features_config(asked, request, device, decoder)
        _check_crossing(request, self.features)
        inputs = _inputs(request, asked, self.features)
        self.config: EvaluateConfig = evaluate_config(inputs, dict(request.values), device)
        self.system: System = build_system(self.config, inputs, self.device)
        folder = BackboneFolder(backbone_path(request.backbone))
        tower = load_tower(folder, self.device, self.features.compute.precision)
        self._encode = VideoEncoder(tower, self.features, self.device)
        self._rows = 0
        self.seconds = time.monotonic() - started

    @property
    def writes(self) -> bool:
        """Whether the system answers questions without options."""
        return not self.system.problem(Asked("?").about("video", None, None))

    def look(self, video: SeenVideo) -> EncodedVideo:
        """Encode the frames of a video, once for all its questions.

        Raises:
            DataError: A feature is not finite.
        """
        encoded = self._encode(video.frames)
        if encoded.failures:
            raise DataError(f"{video.name}: {encoded.failures[0].words}")
        first, self._rows = self._rows, self._rows + len(encoded.rows)
        places = np.asarray(encoded.clips[0].rows, dtype=np.int64)
        frames = np.asarray([encoded.rows[place].frame for place in places], dtype=np.int64)
        times = np.asarray([encoded.rows[place].time for place in places], dtype=np.float64)
        rows = VideoRows(encoded.values, self.features.dtype, first)
        return EncodedVideo(video, rows, ClipRows(places + first, frames, times))

    def problem(self, asked: Asked, video: SeenVideo) -> str:
        """Why this system cannot be asked this, or an empty string."""
        return self.system.problem(self._question(asked, video))

    @torch.no_grad()
    def answer(self, video: EncodedVideo, asked: Asked) -> Answered:
        """One question's answer; of one that cannot be asked, why."""
        started = time.monotonic()
        problem = self.problem(asked, video.seen)
        if problem:
            return unanswered(asked, problem)
        torch.manual_seed(self.config.seed)
        question = self._question(asked, video.seen)
        candidates = list(self.system.candidates(question))
        count = len(candidates)
        seen = SeenFrames(
            video.rows,
            [question] * count,
            [video.clip] * count,
            self.device,
            shared=[True] * count,
            candidates=candidates,
        )
        selection = self.system.selector.select(seen, self.system.keep)
        answers = self.system.answerer.answer(seen, selection.indices)
        row = 0 if answers.rows is None else answers.rows[0]
        choice, text, scores = _chosen(asked, answers)
        return Answered(
            asked,
            choice,
            text,
            scores,
            _frames(video.clip, selection, row),
            self.system.selector.rule,
            None if selection.tied is None else selection.tied[row],
            time.monotonic() - started,
        )

    def answer_or_refuse(self, video: EncodedVideo, asked: Asked) -> Answered:
        """`answer`, where a question that cannot be asked is the caller's mistake.

        Raises:
            UsageError: It cannot be asked.
        """
        answered = self.answer(video, asked)
        if answered.problem:
            hint = (
                "--answer rank"
                if "rank" in answered.problem
                else "other --weights, or another --system"
            )
            raise UsageError(f"{self.request.system}: {answered.problem}", hint)
        return answered

    def _question(self, asked: Asked, video: SeenVideo) -> Question:
        return asked.about(video.name, video.clip.start, video.clip.end)


def _chosen(asked: Asked, answers: Answers) -> tuple[int | None, str, tuple[float, ...]]:
    """Index, text and scores; a letter that no option has is no answer."""
    if not asked.options:
        return None, str(answers.predictions[0]), ()
    scores = tuple(float(score) for score in answers.scores[0][: len(asked.options)])
    if not all(math.isfinite(score) for score in scores):
        raise DataError("the system's scores are not finite", "--set precision=float32")
    choice = scores.index(max(scores))
    return choice, asked.options[choice], scores


def _frames(clip: ClipRows, selection: Selection, row: int) -> tuple[SeenFrame, ...]:
    """The frames of a clip, each once; short clips repeat some."""
    kept = set(clip.frames[selection.indices[row].cpu().numpy()].tolist())
    scores: Sequence[float | None] = [None] * len(clip.frames)
    if selection.scores is not None:
        given = selection.scores[row].tolist()
        scores = [float(score) if math.isfinite(score) else None for score in given]
    found = {
        int(frame): SeenFrame(int(frame), float(seconds), score, int(frame) in kept)
        for frame, seconds, score in zip(clip.frames, clip.times, scores, strict=True)
    }
    return tuple(found[frame] for frame in sorted(found))


# --- what a workspace would hold -----------------------------------------------------------------


def _in_memory(kind: str, config: dict[str, object]) -> Artifact:
    """What a stage would find in a workspace, of which only the configuration is read."""
    return Artifact(Path("video"), {"kind": kind, "config": config, "inputs": []})


def _features_config(
    asked: Artifact, request: AskRequest, device: str, decoder: dict[str, str]
) -> FeaturesConfig:
    sampling = SamplingConfig(frames=(request.frames,))
    return features_config(asked, request.backbone, sampling, FeatureChoices(), device, decoder)


def _check_crossing(request: AskRequest, features: FeaturesConfig) -> None:
    """Selector and answerer read the same features, so they need one vision tower.

    Raises:
        UsageError: They have two.
    """
    if not request.selector_backbone:
        return
    folder = BackboneFolder(backbone_path(request.selector_backbone))
    if folder.tower_fingerprint() != features.weights:
        raise UsageError(
            f"the {request.select} sees with the vision tower of {request.selector_backbone}, "
            f"the answerer with that of {request.backbone}",
            "choose another --select, or backbones with one tower",
        )


def _inputs(request: AskRequest, asked: Artifact, features: FeaturesConfig) -> EvaluateInputs:
    return EvaluateInputs(
        system=request.system,
        select=request.select,
        questions=asked,
        features=_in_memory("features", features.as_json()),
        weights=request.weights,
        selector=request.selector,
        backbone=request.backbone,
        selector_backbone=request.selector_backbone,
    )
