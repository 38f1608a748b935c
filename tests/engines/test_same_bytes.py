"""Every inference stage: in one go, in five parts and on Ray, the same bytes."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PARTS = 5
CLI = Path(__file__).parents[1] / "cli"


@dataclass(frozen=True)
class Line:
    """A command line and the workspace that it is run in copies of."""

    workspace: Path
    kind: str
    arguments: tuple[object, ...]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def moments_world(vqa: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A little QVHighlights of generated videos, with features of the tiny backbone."""
    spec = importlib.util.spec_from_file_location("eval_moments", CLI / "test_eval_moments.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("moments")
    common = ("-b", "qvhighlights", "-w", folder / "workspace", "--workers", 1)
    rows = module.annotations(folder, "test")
    given = ("--split", "test", "--videos", folder / "test", "--annotations", rows)
    assert vqa("prepare", *common, *given).code == 0
    frames = ("--backbone", "tiny", "--from-videos", "--frames", 10)
    assert vqa("extract-features", *common, *frames).code == 0
    return folder / "workspace"


def without(workspace: Path, kind: str, place: Path) -> Path:
    """A copy of a workspace in which artifacts of one kind are missing."""
    return Path(shutil.copytree(workspace, place, ignore=shutil.ignore_patterns(kind)))


@pytest.fixture(scope="module")
def lines(
    tiny_world: Any,
    trained_world: Any,
    sevila_world: Any,
    moments_world: Path,
    retrieval_world: Any,
    vqa: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Line]:
    """One line a stage, each of at least five shards."""
    root = tmp_path_factory.mktemp("lines")
    shapes, one_video = ("-b", "shapes", "--split", "test"), ("--set", "videos_per_shard=1")
    few = ("--set", "questions_per_shard=3")
    bare = without(tiny_world.workspace, "features", root / "bare")
    framed = Path(shutil.copytree(bare, root / "framed"))
    frames = ("extract-frames", *shapes, "--for", tiny_world.backbone, "--frames", "4,2")
    assert vqa(*frames, "-w", framed, "--workers", 1).code == 0
    encode = ("extract-features", *shapes, "--backbone", tiny_world.backbone, *one_video)
    ranking = retrieval_world.copy(root / "ranking")
    training = ("--set", "model.width=16", "--set", "model.heads=2", "--set", "model.layers=1")
    quick = ("--set", "training.epochs=1", "--set", "training.batch_size=4", "--keep", 3)
    ranking.done("train-videodistill", "-b", "msrvtt-retrieval", *training, *quick)
    moments = ("eval", "-b", "qvhighlights", "--split", "test", "--system", "sevila")
    rank = ("eval", "-b", "msrvtt-retrieval", "--system", "videodistill")
    noisy = ("--system", "vlap", "--set", "model.eval_noise=true")
    return {
        "frames": Line(bare, "frames", (*frames, *one_video)),
        "features": Line(framed, "features", encode),
        "from-videos": Line(bare, "features", (*encode, "--from-videos", "--frames", "4,2")),
        "pseudo-label": Line(
            sevila_world.workspace,
            "pseudo-labels",
            ("pseudo-label", *shapes, "--backbone", sevila_world.backbone, *few),
        ),
        "eval": Line(trained_world.workspace, "predictions", ("eval", *shapes, *noisy, *few)),
        "moments": Line(
            moments_world,
            "predictions",
            (*moments, "--set", "moments.gap=3", "--set", "questions_per_shard=1"),
        ),
        "retrieval": Line(
            ranking.workspace, "predictions", (*rank, "--set", "questions_per_shard=1")
        ),
    }


@pytest.mark.parametrize(
    "name",
    ["frames", "features", "from-videos", "pseudo-label", "eval", "moments", "retrieval"],
)
def test_one_run_five_parts_and_ray_write_the_same_bytes(
    name: str,
    ray: Any,
    lines: dict[str, Line],
    vqa: Callable[..., Any],
    content: Callable[[Path], dict[str, str]],
    tmp_path: Path,
) -> None:
    line = lines[name]

    def run(place: str, *more: object) -> Any:
        workspace = tmp_path / place
        if not workspace.exists():
            shutil.copytree(line.workspace, workspace)
        outcome = vqa(*line.arguments, *more, "-w", workspace)
        assert outcome.code == 0, outcome.json
        return outcome.json

    def bytes_of(found: dict[str, Any]) -> dict[str, str]:
        assert found["artifact"]["finished"]
        return content(Path(found["artifact"]["path"]))

    whole = bytes_of(run("whole"))
    assert sum(name.endswith(("0.h5", "0.parquet")) for name in whole) >= 1
    for part in range(PARTS):
        last = run("parts", "--shard", f"{part}/{PARTS}")
        assert last["artifact"]["finished"] == (part == PARTS - 1)
    assert bytes_of(last) == whole
    on_ray = run("ray", "--engine", "ray")
    assert bytes_of(on_ray) == whole
    assert run("ray", "--engine", "ray")["reused"]
    run("both", "--shard", f"1/{PARTS}")
    assert bytes_of(run("both", "--engine", "ray")) == whole
    run("turned", "--shard", f"2/{PARTS}", "--engine", "ray")
    assert bytes_of(run("turned")) == whole
