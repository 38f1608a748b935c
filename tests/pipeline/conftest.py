"""The published questions about the real clips at hand, and how answers to them are checked."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

SEEN, KEPT = 8, 2


def clips_of(shared: Path) -> Path:
    """The folder of the clips."""
    return shared / "data" / "videos" / "msrvtt"


def names_of(shared: Path) -> list[str]:
    """`video7010` and so on."""
    return [path.stem for path in sorted(clips_of(shared).glob("*.mp4"))]


def choice_rows_of(shared: Path) -> list[dict[str, Any]]:
    """MSRVTT-MC's rows about them."""
    known = set(names_of(shared))
    with gzip.open(shared / "data" / "msrvtt_mc" / "msrvtt_mc_test.jsonl.gz", "rt") as file:
        return [row for row in map(json.loads, file) if row["clip_name"] in known]


def open_rows(shared: Path, per_clip: int) -> pd.DataFrame:
    """The first rows of MSRVTT-QA's test split about each of them."""
    path = shared / "data" / "msrvtt_qa" / "test_hqga.csv.gz"
    rows = pd.read_csv(path, keep_default_na=False, dtype=str)
    rows = rows[("video" + rows["video"]).isin(names_of(shared))]
    return rows.groupby("video").head(per_clip)


class RealWorld:
    """A workspace with questions about the clips.

    Args:
        folder: Where to put it, and the annotation files.
        shared: The folder of real files.
        vqa: Runs a command line.
        backbone: Whose features are extracted.
    """

    def __init__(self, folder: Path, shared: Path, vqa: Callable[..., Any], backbone: str) -> None:
        self.folder, self.shared, self.vqa, self.backbone = folder, shared, vqa, backbone
        self.workspace = folder / "ws"

    def done(self, command: str, benchmark: str, *arguments: object) -> dict[str, Any]:
        """The JSON of a command line that has to succeed."""
        outcome = self.vqa(command, "-b", benchmark, "-w", self.workspace, *arguments)
        assert outcome.code == 0, outcome.json
        found: dict[str, Any] = outcome.json
        return found

    def prepare(self, benchmark: str, split: str, annotations: Path) -> dict[str, Any]:
        """Questions about the clips."""
        given = ("--annotations", annotations, "--videos", clips_of(self.shared), "--workers", 1)
        return self.done("prepare", benchmark, "--split", split, *given)

    def extract(self, benchmark: str) -> dict[str, Any]:
        """Features of everything that is prepared."""
        frames = ("--from-videos", "--frames", f"{SEEN},{KEPT}", "--workers", 1)
        return self.done("extract-features", benchmark, "--backbone", self.backbone, *frames)

    def choice_rows(self) -> list[dict[str, Any]]:
        """MSRVTT-MC's rows about the clips."""
        return choice_rows_of(self.shared)

    def choices(self) -> Path:
        """MSRVTT-MC's file about the clips."""
        path = self.folder / "msrvtt_mc_test.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in self.choice_rows()))
        return path

    def asked(self, per_clip: int, name: str = "test.csv") -> Path:
        """MSRVTT-QA's file about the clips."""
        path = self.folder / name
        open_rows(self.shared, per_clip).to_csv(path, index=False)
        return path

    def videos(self, benchmark: str) -> dict[str, dict[str, Any]]:
        """What probing found out about each clip."""
        (table,) = (self.workspace / "questions").glob(f"{benchmark}-test-*/videos.parquet")
        return {row["video"]: row for row in pd.read_parquet(table).to_dict("records")}

    def video_of(self, benchmark: str) -> dict[str, str]:
        """The clip of each question."""
        (table,) = (self.workspace / "questions").glob(f"{benchmark}-test-*/questions.parquet")
        rows = pd.read_parquet(table)
        return {row.question_id: row.videos[0] for row in rows.itertuples()}

    def check_frames(self, benchmark: str, rows: pd.DataFrame, keep: int = KEPT) -> None:
        """Kept frames lie in their clip, and their times are those of its clock."""
        videos, video_of = self.videos(benchmark), self.video_of(benchmark)
        for row in rows.itertuples():
            clip = videos[video_of[row.question_id]]
            assert len(row.frames) == len(row.times) == keep
            assert 0 <= min(row.frames) <= max(row.frames) < clip["num_frames"]
            for frame, seconds in zip(row.frames, row.times, strict=True):
                assert 0 <= seconds <= clip["duration"]
                assert seconds == pytest.approx(frame / clip["average_fps"], abs=0.1)

    @staticmethod
    def rows(found: dict[str, Any]) -> pd.DataFrame:
        """The predictions of an evaluation, whose counts must add up."""
        counts = [found[f"n_{name}"] for name in ("scored", "failed", "unlabelled")]
        assert sum(counts) == found["n_questions"]
        rows = pd.read_parquet(Path(found["artifact"]["path"]) / "predictions.parquet")
        assert len(rows) == found["n_questions"]
        return rows


@pytest.fixture(scope="session")
def real_world(shared: Path, vqa: Callable[..., Any]) -> Callable[[Path, str], RealWorld]:
    """A workspace about the real clips in a folder, for a backbone."""
    return lambda folder, backbone: RealWorld(folder, shared, vqa, backbone)
