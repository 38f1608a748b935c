"""How often the half-precision policies choose the frames and answers that float32 chooses.

    python benchmarks/precision_agreement.py [--questions 1000] [--device cpu] [--machine TEXT]

Generated `shapes` videos and their questions, 32 frames seen and 4 kept, through the selectors and
answerers of `vqa eval`. Two systems on the embedded trained backbones:

    sevila   localizer (the backbone's own side) and answerer, raw `yes` logits
    vlap     a visual frame prompter with random weights (seed 0), InstructBLIP as answerer

For both, `bfloat16` and `float16` are (specs/vlap.md 7.4, specs/sevila.md 8) the policy of the
network alone, over float32 features, and that of tower and network (`... with its tower`). SeViLA
is run as well with the head multiplied in float32 before frames are compared
(`score_rounding: float32`), which parts ties of rounded scores. float32 by float32 has to agree
with itself one question at a time, which shows what rounding alone does.

Shares are of questions; `kept` counts frames. `answers_on_float32s_frames` is the answerer alone.
Prints one JSON object. Half precisions on a CPU are emulated in part, and slow: no time is taken.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import transformers
from torch import Tensor

from stages.artifacts.clips import ClipRows
from stages.benchmarks.manifest import load_manifest
from stages.benchmarks.questions import Question
from stages.benchmarks.shapes.generate import generate
from stages.core.errors import DataError
from stages.core.midpoints import midpoint_indices
from stages.models.backbones.blip2 import Blip2
from stages.models.backbones.folder import BackboneFolder
from stages.models.backbones.frozen_t5 import DtypePolicy
from stages.models.backbones.instructblip import InstructBlip
from stages.models.backbones.vision import VisionTower
from stages.models.embedded import embedded_folder
from stages.models.sevila import Sevila, SevilaConfig
from stages.models.vlap import VlapConfig, VlapStudent
from stages.systems.face import Answerer, Selector
from stages.systems.seen import SeenFrames
from stages.systems.sevila import BlipAnswerer, SevilaLocalizer
from stages.systems.vlap import VlapAnswerer, VlapPrompter

FRAMES, KEEP = 32, 4
QUESTIONS_A_VIDEO = 3
BACKBONES = {"sevila": "tiny-blip2", "vlap": "tiny"}
HALVES: tuple[DtypePolicy, ...] = ("bfloat16", "float16")


@dataclass(frozen=True)
class Policy:
    """One way to compute: precisions of tower and network, and SeViLA's rounding of scores."""

    name: str
    tower: DtypePolicy
    network: DtypePolicy
    model: dict[str, Any] = field(default_factory=dict)


def policies(system: str) -> list[Policy]:
    """The ways that are compared with float32."""
    found = []
    for half in HALVES:
        found.append(Policy(f"{half} network", "float32", half))
        found.append(Policy(f"{half} network with its tower", half, half))
        if system == "sevila":
            parted = {"score_rounding": "float32"}
            found.append(Policy(f"{half} network, scores in float32", "float32", half, parted))
    return found


# --- what is asked -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """Questions, the video of each, and the files of the videos."""

    questions: list[Question]
    video_of: list[int]
    paths: list[Path]


def make_work(folder: Path, questions: int) -> Work:
    """Generated videos, three questions about each."""
    videos = -(-questions // QUESTIONS_A_VIDEO)
    records = generate(folder, "test", videos, seed=17, workers=1)[:questions]
    names = list(dict.fromkeys(record["video"] for record in records))
    asked = [
        Question(
            question_id=str(number),
            videos=(record["video"],),
            question=record["question"],
            options=tuple(record["options"]),
            answer=record["answer"],
            answer_text=None,
            start=None,
            end=None,
            type=None,
            spans=(),
            split="test",
            source_row=number + 1,
        )
        for number, record in enumerate(records)
    ]
    return Work(asked, [names.index(item.videos[0]) for item in asked], [folder / n for n in names])


def decoded(path: Path, size: int) -> Tensor:
    """T frames uint8 [T, size, size, 3] of a file, at the midpoints of equal intervals."""
    with av.open(str(path)) as container:
        every = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    kept = np.stack([every[int(index)] for index in midpoint_indices(0, len(every), FRAMES)])
    pixels = torch.from_numpy(kept).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="nearest")
    return resized.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class StoredRows:
    """Features by row number, T rows a video."""

    def __init__(self, features: Any) -> None:
        self.features = features.reshape(-1, *features.shape[2:])
        self.tokens, self.width = self.features.shape[1:]

    def read(self, rows: Any) -> Any:
        """Features [len(rows), N, C]; see `FeatureRows`."""
        return self.features[rows]

    def read_cls(self, rows: Any) -> Any:
        """See `FeatureRows`; these towers keep no frame CLS apart."""
        raise DataError("this tower keeps no frame CLS apart")


def extract(backbone: str, paths: Sequence[Path], device: torch.device, precision: Any) -> Any:
    """float32 [videos, T, N, C] of the files."""
    folder = BackboneFolder(embedded_folder(backbone))
    tower = VisionTower.load(folder, device, precision)
    size = tower.spec.image_size
    return np.stack(
        [
            tower.features(tower.preprocess(decoded(path, size)).to(device)).cpu().numpy()
            for path in paths
        ]
    )


# --- systems -------------------------------------------------------------------------------------


@torch.no_grad()
def build(
    system: str, policy: Policy, tokens: int, device: torch.device
) -> tuple[Selector, Answerer]:
    """Selector and answerer of one policy."""
    torch.manual_seed(0)
    folder = BackboneFolder(embedded_folder(BACKBONES[system]))
    manifest = load_manifest("shapes")
    mode = manifest.answer_default
    if system == "sevila":
        options = SevilaConfig.build(policy.model, "model")
        model = Sevila(Blip2.load(folder, device, policy.network), options).to(device).eval()
        return (
            SevilaLocalizer(model, manifest),
            BlipAnswerer(model, mode, manifest, uniform=False),
        )
    backbone = InstructBlip.load(folder, device, policy.network)
    config = VlapConfig(frames=FRAMES, keep=KEEP)
    student = VlapStudent(backbone, config, tokens=tokens, with_teacher=False).to(device).eval()
    return (
        VlapPrompter(student, mode, manifest.prompt),
        VlapAnswerer(backbone, config, mode, manifest.prompt),
    )


@dataclass
class Outcome:
    """Kept frames, whether a choice was a tie, and answers of every question."""

    frames: list[list[int]] = field(default_factory=list)
    ties: list[bool] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    """Answers from frames that were chosen elsewhere."""
    scores: list[list[float]] = field(default_factory=list)
    """Option scores from those frames."""


def answer_all(
    system: tuple[Selector, Answerer],
    work: Work,
    features: Any,
    device: torch.device,
    batch: int,
    chosen: list[list[int]] | None = None,
) -> Outcome:
    """Choose frames and answer; answer as well from the frames `chosen`."""
    selector, answerer = system
    reader, outcome = StoredRows(features), Outcome()
    for first in range(0, len(work.questions), batch):
        part = range(first, min(first + batch, len(work.questions)))
        asked = [work.questions[index] for index in part]
        clips = [_clip(work.video_of[index]) for index in part]
        seen = SeenFrames(reader, asked, clips, device, shared=[True] * len(clips))
        selection = selector.select(seen, KEEP)
        outcome.frames += selection.indices.tolist()
        outcome.ties += selection.tied or [False] * len(asked)
        said = answerer.answer(seen, selection.indices)
        outcome.answers += [int(value) for value in said.predictions]
        if chosen is not None:
            said = answerer.answer(seen, torch.tensor(chosen[part.start : part.stop]))
        outcome.given += [int(value) for value in said.predictions]
        outcome.scores += said.scores
    return outcome


def _clip(video: int) -> ClipRows:
    places = np.arange(FRAMES)
    return ClipRows(video * FRAMES + places, places, places.astype(np.float64))


# --- comparing -----------------------------------------------------------------------------------


def share(values: Sequence[bool]) -> float:
    """Of true ones, to four places."""
    return round(statistics.mean(values), 4)


def compare(exact: Outcome, other: Outcome, work: Work) -> dict[str, float]:
    """Shares of questions (and of kept frames) on which `other` is as `exact`."""
    pairs = list(zip(exact.frames, other.frames, strict=True))
    differences = [
        abs(a - b)
        for row, rows in zip(exact.scores, other.scores, strict=True)
        for a, b in zip(row, rows, strict=True)
    ]
    common = [len({*a} & {*b}) / KEEP for a, b in pairs]
    return {
        "same_kept_frames": share([a == b for a, b in pairs]),
        "kept_frames_in_common": round(statistics.mean(common), 4),
        "questions_with_ties": share(other.ties),
        "same_answers": share([a == b for a, b in zip(exact.answers, other.answers, strict=True)]),
        "answers_on_float32s_frames": share(
            [a == b for a, b in zip(exact.answers, other.given, strict=True)]
        ),
        "accuracy": accuracy(other, work),
        "largest_score_difference_on_float32s_frames": float(f"{max(differences):.3g}"),
    }  # fmt: skip


def accuracy(outcome: Outcome, work: Work) -> float:
    """Share of right answers."""
    return share([a == q.answer for a, q in zip(outcome.answers, work.questions, strict=True)])


def agreement(
    system: str, work: Work, device: torch.device, batch: int, note: Callable[[str], object]
) -> dict[str, Any]:
    """All policies of one system against float32."""
    kept: dict[str, Any] = {"float32": extract(BACKBONES[system], work.paths, device, "float32")}
    tokens = kept["float32"].shape[2]

    def run(policy: Policy, size: int, chosen: list[list[int]] | None) -> Outcome:
        note(f"{system}: {policy.name}")
        if policy.tower not in kept:
            kept[policy.tower] = extract(BACKBONES[system], work.paths, device, policy.tower)
        made = build(system, policy, tokens, device)
        return answer_all(made, work, kept[policy.tower], device, size, chosen)

    plain = Policy("float32", "float32", "float32")
    exact = run(plain, batch, None)
    found = {
        "backbone": BACKBONES[system],
        "answer_mode": load_manifest("shapes").answer_default,
        "accuracy_in_float32": accuracy(exact, work),
        "questions_with_ties_in_float32": share(exact.ties),
    }
    again = run(plain, 1, exact.frames)
    ways = {"float32, one question at a time": compare(exact, again, work)}
    for policy in policies(system):
        ways[policy.name] = compare(exact, run(policy, batch, exact.frames), work)
    return found | {"policies": ways}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--system", choices=tuple(BACKBONES), action="append")
    parser.add_argument("--batch", type=int, default=16, help="questions per forward pass")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--machine", default="", help="a description, for the record")
    return parser.parse_args()


def main() -> None:
    """Generate, run, compare, print."""
    given = arguments()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name:
        work = make_work(Path(name), given.questions)
        systems = {
            system: agreement(system, work, device, given.batch, note)
            for system in given.system or BACKBONES
        }
    result = {
        "benchmark": "precision_agreement",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": given.machine or f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "questions": len(work.questions),
        "videos": len(work.paths),
        "frames": FRAMES,
        "keep": KEEP,
        "batch": given.batch,
        "systems": systems,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
