"""Questions and options as one sentence, and what is cut where they are too long."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.models.backbones.folder import BackboneFolder
from stages.models.sentences import Sentences


def random_clip() -> Any:
    path = Path(__file__).with_name("random_clip.py")
    spec = importlib.util.spec_from_file_location("random_clip", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> BackboneFolder:
    return BackboneFolder(random_clip().write_clip_folder(tmp_path_factory.mktemp("c") / "clip"))


def test_question_and_option_are_one_sentence(folder: BackboneFolder) -> None:
    sentences = Sentences.load(folder)
    pair = sentences.encode([("what color is the circle ?", "red")])
    whole = sentences.encode(["what color is the circle ? red"])
    assert torch.equal(pair.ids, whole.ids)
    assert torch.equal(sentences.encode([("", "red")]).ids, sentences.encode(["red"]).ids)


def test_a_long_question_loses_its_end_and_never_the_option(folder: BackboneFolder) -> None:
    sentences = Sentences.load(folder)
    long = " ".join(["red"] * 100)
    tokens = sentences.encode([(long, "blue square"), (long, "green square"), long])
    assert tokens.ids.shape[1] == sentences.limit == 77
    assert torch.equal(tokens.ids[0, 1:74], tokens.ids[1, 1:74])
    assert not torch.equal(tokens.ids[0], tokens.ids[1])
    expected = sentences.encode(["blue square"]).ids[0, 1:]
    assert torch.equal(tokens.ids[0, -3:], expected)
    assert tokens.mask.all()
