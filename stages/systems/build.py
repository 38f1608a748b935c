"""From a configuration and weights artifacts to a system: any selector × any answerer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stages.artifacts.store import Artifact
from stages.artifacts.weights import read_weights
from stages.benchmarks.batches import QuestionFeatures
from stages.benchmarks.manifest import load_manifest
from stages.core.errors import DataError
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.catalog import backbone_fingerprint, backbone_path
from stages.models.backbones.clip import ClipMatcher
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.frozen_t5 import DtypePolicy
from stages.models.learnt_selectors import sides_of
from stages.models.sevila import Sevila, SevilaConfig, load_sides, selection_settings
from stages.systems.clip_similarity import ClipSimilarity
from stages.systems.face import Answerer, Selector, System
from stages.systems.inputs import (
    BLIP2_SYSTEMS,
    JOINT_SELECTORS,
    NETWORK_SELECTORS,
    EvaluateConfig,
    EvaluateInputs,
)
from stages.systems.predicted_spans import PredictedSpans, read_spans
from stages.systems.selectors import plain_selector
from stages.systems.sevila import BlipAnswerer, SevilaLocalizer, VotingAnswerer
from stages.systems.trained_selectors import learnt_selector
from stages.systems.videodistill import load_videodistill
from stages.systems.vlap import load_vlap


def build_system(config: EvaluateConfig, inputs: EvaluateInputs, device: torch.device) -> System:
    """The system that an evaluation runs.

    Raises:
        DataError: The features come from another vision tower than the backbones have, or a
            backbone is not the one that weights were trained on.
    """
    torch.manual_seed(config.seed)
    _check_tower(inputs.features, inputs.backbone)
    if inputs.select in NETWORK_SELECTORS:
        _check_tower(inputs.features, inputs.selector_backbone)
    if config.system == "vlap":
        assert inputs.weights is not None
        own = load_vlap(
            inputs.weights,
            device,
            backbone=inputs.backbone,
            answer=config.answer,
            overrides=config.model,
            benchmark=config.benchmark,
        )
        if config.select == "own":
            return own
        selector = _selector(config, inputs, device, None)
        return System("vlap", selector, own.answerer, config.frames, config.keep, device)
    if config.system == "videodistill":
        assert inputs.weights is not None
        return load_videodistill(
            inputs.weights,
            device,
            backbone=inputs.backbone,
            overrides=config.model,
            benchmark=config.benchmark,
            reading=config.read,
            selector=None if config.select == "own" else _selector(config, inputs, device, None),
            rows=config.batch_size,
        )
    return _blip2_system(config, inputs, device)


def _blip2_system(config: EvaluateConfig, inputs: EvaluateInputs, device: torch.device) -> System:
    manifest = load_manifest(config.benchmark)
    model = load_sevila(
        inputs.backbone,
        device,
        config.precision,
        {**_network(inputs), **config.model},
        answerer=inputs.weights,
        localizer=inputs.selector if _shares(inputs) else None,
        with_localizer=_shares(inputs),
    )
    selector = _selector(config, inputs, device, model)
    answerer: Answerer
    if config.system == "blip2-voting":
        answerer = VotingAnswerer(model, config.answer, manifest, uniform=True)
    else:
        uniform = config.select != "localizer"
        answerer = BlipAnswerer(model, config.answer, manifest, uniform=uniform)
    return System(config.system, selector, answerer, config.frames, config.keep, device)


def _shares(inputs: EvaluateInputs) -> bool:
    """Whether localizer and answerer are two sides of one network."""
    return inputs.select == "localizer" and inputs.selector_backbone == inputs.backbone


def _network(inputs: EvaluateInputs) -> dict[str, Any]:
    """Options of the answerer's weights, and the localizer's own where it is on the same network.

    What decides the choice of frames comes with the weights that choose them.
    """
    made = {} if inputs.weights is None else dict(inputs.weights.config["model"])
    return {**made, **_selection(inputs.selector)} if _shares(inputs) else made


def _selection(localizer: Artifact | None) -> dict[str, Any]:
    """By what trained localizer weights keep frames; nothing without weights."""
    return {} if localizer is None else selection_settings(localizer.config["model"])


def _selector(
    config: EvaluateConfig, inputs: EvaluateInputs, device: torch.device, model: Sevila | None
) -> Selector:
    if config.select == "prompter":
        assert inputs.selector is not None
        return load_vlap(
            inputs.selector,
            device,
            backbone=inputs.selector_backbone,
            benchmark=config.benchmark,
        ).selector
    if config.select in JOINT_SELECTORS:
        assert inputs.weights is not None
        assert model is not None
        manifest = load_manifest(config.benchmark)
        return learnt_selector(inputs.weights, model.backbone, manifest, device)
    if config.select == "clip":
        return _clip_similarity(config, inputs, device)
    if config.select == "spans":
        assert inputs.spans is not None
        return PredictedSpans(read_spans(inputs.spans))
    if config.select != "localizer":
        return plain_selector(config.select, config.seed, stored=config.stored_sampling)
    if model is None or not _shares(inputs):
        given = config.model if config.system in BLIP2_SYSTEMS else {}
        network = {**_selection(inputs.selector), **given}
        model = load_sevila(
            inputs.selector_backbone, device, config.precision, network, localizer=inputs.selector
        )
    return SevilaLocalizer(model, load_manifest(config.benchmark))


def _clip_similarity(
    config: EvaluateConfig, inputs: EvaluateInputs, device: torch.device
) -> ClipSimilarity:
    assert inputs.selector_features is not None
    folder = BackboneFolder(backbone_path(inputs.selector_backbone))
    data = QuestionFeatures(inputs.questions, inputs.selector_features, config.frames)
    rule = load_manifest(config.benchmark).prompt
    return ClipSimilarity(data, ClipMatcher.load(folder, device), rule)


def load_sevila(
    backbone: str,
    device: torch.device,
    precision: DtypePolicy,
    network: dict[str, Any],
    *,
    answerer: Artifact | None = None,
    localizer: Artifact | None = None,
    with_localizer: bool = True,
) -> Sevila:
    """SeViLA with trained sides; a side without weights is the backbone's own (zero-shot).

    Raises:
        DataError: Weights were trained on another backbone.
    """
    folder = BackboneFolder(backbone_path(backbone))
    for item in (answerer, localizer):
        if item is not None and backbone_fingerprint(folder) != item.config["backbone_weights"]:
            raise DataError(
                f"backbone {folder.path} is not the one that {item.id} was trained on",
                "give the right folder with --backbone",
            )
    config = SevilaConfig.build(network, "model")
    model = Sevila(Blip2.load(folder, device, precision), config, with_localizer=with_localizer)
    for item in (answerer, localizer):
        if item is not None:
            load_sides(model, sides_of(read_weights(item)))
    return model.to(device).eval()


def _check_tower(features: Artifact, backbone: str) -> None:
    folder = BackboneFolder(Path(backbone_path(backbone)))
    if folder.tower_fingerprint() != features.config["weights"]:
        raise DataError(
            f"{features.id} was extracted with another vision tower than {folder.path} has",
            "give the folder it was made with: --backbone PATH, or extract again",
        )
