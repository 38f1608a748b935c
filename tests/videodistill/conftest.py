"""What the VideoDistill stages are tested on: small `shapes`, EgoMCQ and MSR-VTT made of generated
videos, with features of a random CLIP."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

SMALL = (
    "model.width=16",
    "model.heads=2",
    "model.layers=1",
    "training.epochs=1",
    "training.batch_size=4",
    "training.schedule.warmup_steps=2",
    "training.schedule.init_lr=1e-3",
)
FRAMES, KEEP = 8, 3


@dataclass(frozen=True)
class ClipWorld:
    """A workspace with features of a random CLIP: 8 frames of 4 patches per clip.

    Attributes:
        workspace: Where they are.
        backbone: The random CLIP's folder.
        vqa: Runs a command line.
    """

    workspace: Path
    backbone: Path
    vqa: Callable[..., Any]

    def copy(self, folder: Path) -> ClipWorld:
        """A copy in `folder`, to train and evaluate in."""
        workspace = Path(shutil.copytree(self.workspace, folder / "workspace"))
        return ClipWorld(workspace, self.backbone, self.vqa)

    def run(self, command: str, *arguments: object) -> Any:
        """One command line in this workspace, whatever comes of it."""
        return self.vqa(command, "-w", self.workspace, *arguments)

    def done(self, command: str, *arguments: object) -> dict[str, Any]:
        """The JSON of a command line that has to succeed."""
        outcome = self.run(command, *arguments)
        assert outcome.code == 0, outcome.json
        found: dict[str, Any] = outcome.json
        return found

    def train(self, benchmark: str, *arguments: object) -> dict[str, Any]:
        """`vqa train-videodistill` of a small network."""
        return self.done("train-videodistill", "-b", benchmark, *small(), *arguments)

    def answer(self, benchmark: str, *arguments: object) -> dict[str, Any]:
        """`vqa eval --system videodistill`."""
        return self.done("eval", "-b", benchmark, "--system", "videodistill", *arguments)


def small(*more: str) -> list[object]:
    """The options of a small network."""
    pairs = [("--set", text) for text in (*SMALL, *more)]
    return ["--keep", KEEP, *(part for pair in pairs for part in pair)]


@pytest.fixture(scope="session", name="small")
def small_settings() -> Callable[..., list[object]]:
    """See `small`."""
    return small


@pytest.fixture(scope="session")
def random_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in CLIPModel layout with random weights."""
    path = Path(__file__).parents[1] / "models/random_clip.py"
    spec = importlib.util.spec_from_file_location("random_clip", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.write_clip_folder(tmp_path_factory.mktemp("clip") / "toy-clip")
    return folder


@pytest.fixture(scope="session")
def shapes_world(
    tiny_world: Any,
    random_clip_folder: Path,
    vqa: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> ClipWorld:
    """The tiny `shapes`, whose features of another backbone lie beside those of the CLIP."""
    torch.set_num_threads(1)
    workspace = tiny_world.copy(tmp_path_factory.mktemp("shapes-clip"))
    world = ClipWorld(workspace, random_clip_folder, vqa)
    extract(world, "shapes")
    return world


def extract(world: ClipWorld, benchmark: str) -> None:
    """Features of every prepared split."""
    frames = ("--from-videos", "--frames", f"{FRAMES},{KEEP}", "--workers", 1)
    world.done("extract-features", "-b", benchmark, "--backbone", world.backbone, *frames)


@pytest.fixture(scope="session")
def generated_videos(tiny_world: Any) -> list[Path]:
    """The videos of the tiny `shapes`' train split."""
    return sorted((tiny_world.workspace / "questions").glob("shapes-train-*/videos/train/*.mp4"))


@pytest.fixture(scope="session")
def retrieval_world(
    generated_videos: list[Path],
    random_clip_folder: Path,
    vqa: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> ClipWorld:
    """MSR-VTT in small: five train videos of two captions, six test videos of one."""
    root = tmp_path_factory.mktemp("retrieval")
    world = ClipWorld(root / "workspace", random_clip_folder, vqa)
    folder = root / "videos"
    folder.mkdir()
    for number, path in enumerate(generated_videos[:6]):
        shutil.copy(path, folder / f"video{number}.mp4")
    colors = ["red", "green", "blue", "red", "green", "blue"]
    shapes = ["circle", "square", "circle", "square", "circle", "square"]
    texts = [f"a {color} {shape}" for color, shape in zip(colors, shapes, strict=True)]
    (root / "MSRVTT_train.9k.csv").write_text(
        "video_id\n" + "".join(f"video{number}\n" for number in range(5))
    )
    sentences = [
        {"caption": f"{text} {side}", "video_id": f"video{number}", "sen_id": 2 * number + extra}
        for number, text in enumerate(texts)
        for extra, side in enumerate(("left", "right"))
    ]
    (root / "MSRVTT_data.json").write_text(json.dumps({"sentences": sentences}))
    rows = [f"ret{n},msr{n},video{n},{text}" for n, text in enumerate(texts)]
    (root / "MSRVTT_JSFUSION_test.csv").write_text(
        "\n".join(["key,vid_key,video_id,sentence", *rows]) + "\n"
    )
    for split, file in (("train", "MSRVTT_train.9k.csv"), ("test", "MSRVTT_JSFUSION_test.csv")):
        given = ("--annotations", root / file, "--videos", folder, "--workers", 1)
        world.done("prepare", "-b", "msrvtt-retrieval", "--split", split, *given)
    extract(world, "msrvtt-retrieval")
    return world


@pytest.fixture(scope="session")
def egomcq_world(
    generated_videos: list[Path],
    random_clip_folder: Path,
    vqa: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> ClipWorld:
    """EgoMCQ in small: six questions about five clips each of generated videos."""
    root = tmp_path_factory.mktemp("egomcq")
    world = ClipWorld(root / "workspace", random_clip_folder, vqa)
    folder = root / "videos"
    folder.mkdir()
    for number, path in enumerate(generated_videos[:6]):
        shutil.copy(path, folder / f"uid{number}.mp4")
    (root / "egomcq.json").write_text(json.dumps({str(n): egomcq_record(n) for n in range(6)}))
    given = ("--annotations", root / "egomcq.json", "--videos", folder, "--workers", 1)
    world.done("prepare", "-b", "egomcq", "--split", "val", *given)
    extract(world, "egomcq")
    return world


def egomcq_record(number: int) -> dict[str, Any]:
    """One question: clips of five videos (inter), or five clips of one video (intra)."""
    inter = number % 2 == 0
    choices = {
        str(place): {
            "video_uid": f"uid{(number + place) % 6 if inter else number}",
            "clip_start": 0.0 if inter else 0.6 * place,
            "clip_end": 1.5 if inter else 0.6 * place + 0.5,
            "clip_text": "#C C turns",
        }
        for place in range(5)
    }
    return {
        "answer": number % 5,
        "types": 1 if inter else 2,
        "query": {"clip_text": f"#C C shows the {('red', 'blue', 'green')[number % 3]} circle"},
        "choices": choices,
    }
