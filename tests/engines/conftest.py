"""A Ray of two cores for the tests of the engine, and what two runs are compared by."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.artifacts.result import StageResult
from stages.artifacts.store import Artifact, Workspace
from stages.core.runtime import Runtime
from stages.features import FeatureChoices, FeatureJob, extract_features, feature_job
from stages.prepare import prepare_shapes

STORE_BYTES = 150 * 2**20
"""Of shared memory a node; little, so that what is not bounded is seen."""
LOCAL = Runtime(workers=1, device="cpu")
MAY_DIFFER = ("created", "seconds", "host")
"""What of a manifest may differ between two equal runs."""

# Before Ray is imported: nothing is reported to anybody, no key is left in the home directory.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


def _module(name: str, path: str) -> Any:
    """A module of another test folder; test folders are not packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


_worlds = _module("videodistill_worlds", "videodistill/conftest.py")
generated_videos = _worlds.generated_videos
random_clip_folder = _worlds.random_clip_folder
retrieval_world = _worlds.retrieval_world


@dataclass(frozen=True)
class FewVideos:
    """Eight generated videos with questions, and a random tower of a few thousand parameters."""

    questions: Artifact
    backbone: Path

    def job(self, place: Path, **choices: Any) -> FeatureJob:
        """Features from the videos, two videos a shard unless told otherwise."""
        return feature_job(
            Workspace(place),
            self.questions,
            str(self.backbone),
            FeatureChoices(**{"videos_per_shard": 2, **choices}),
            device="cpu",
            decoder="auto",
            from_videos=True,
            sampling={"frames": [4, 2]},
        )

    def copy(self, place: Path) -> Path:
        """A workspace with the questions, to write into."""
        shutil.copytree(self.questions.path.parent, place / "workspace" / "questions")
        return place / "workspace"

    def extract(self, place: Path, runtime: Runtime, **choices: Any) -> StageResult:
        """The features in a workspace of their own."""
        return extract_features(Workspace(place), self.job(place, **choices), runtime)


@pytest.fixture(scope="session")
def few_videos(tmp_path_factory: pytest.TempPathFactory) -> FewVideos:
    """Built once, never written to."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("few-videos")
    made = prepare_shapes(Workspace(root), "test", LOCAL, num_videos=8, seed=4).artifact
    assert made is not None
    writer = _module("models_conftest", "models/conftest.py")
    return FewVideos(made, writer.write_folder(root / "toy"))


@pytest.fixture(scope="session")
def ray_package() -> Any:
    """Ray itself; tests that use it are skipped where it is not installed."""
    pytest.importorskip("ray.data", reason="the extra ray is not installed")
    import ray

    return ray


@pytest.fixture(scope="module")
def ray(ray_package: Any) -> Iterator[Any]:
    """Ray on this machine: two cores, no dashboard."""
    ray_package.init(
        "local",
        num_cpus=2,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray_package
    ray_package.shutdown()


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, str]]:
    """Every file of an artifact's folder and what must be equal of it between two runs."""

    def of(file: Path) -> str:
        if file.name != "manifest.json":
            return hashlib.sha256(file.read_bytes()).hexdigest()
        manifest = json.loads(file.read_text())
        return json.dumps({k: v for k, v in manifest.items() if k not in MAY_DIFFER})

    def read(folder: Path) -> dict[str, str]:
        return {file.name: of(file) for file in sorted(folder.iterdir()) if file.is_file()}

    return read
