"""`vqa prepare` finds each benchmark's videos as people keep them; annotations are our own."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny real video."""
    path = REPOSITORY / "benchmarks" / "prepare_rate.py"
    spec = importlib.util.spec_from_file_location("prepare_rate_videos", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("one") / "videos"
    module.write_videos(folder, ["v"])
    return folder / "v.mp4"


@pytest.fixture
def keep(video: Path, tmp_path: Path) -> Callable[..., Path]:
    """Puts copies of the video under the given names into a folder."""

    def put(*names: str) -> Path:
        for name in names:
            (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(video, tmp_path / "videos" / name)
        return tmp_path / "videos"

    return put


def prepared(
    vqa: Callable[..., Any], name: str, annotations: Path, videos: Path, *more: object
) -> Any:
    place = annotations.parent / "workspace"
    line = ["prepare", "-b", name, "-a", annotations, "--videos", videos, "-w", place]
    return vqa(*line, "--workers", 1, "--max-failures", 1, *more)


def table(outcome: Any, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(
        Path(outcome.json["artifact"]["path"]) / f"{name}.parquet"
    ).to_pylist()
    return rows


def paths(outcome: Any) -> dict[str, str]:
    return {row["video"]: row["path"] for row in table(outcome, "videos")}


def egomcq(path: Path, choices: list[list[tuple[str, float]]]) -> Path:
    """Questions over (video, start) choices of one second each."""

    def clip(video: str, start: float) -> dict[str, Any]:
        times = {"clip_start": start, "clip_end": start + 1.0}
        return {"video_uid": video, "clip_text": "#C C opens a door", **times}

    rows = {
        str(number): {
            "answer": 1,
            "types": 1 + number % 2,
            "query": clip(*five[1]),
            "choices": {str(place): clip(*choice) for place, choice in enumerate(five)},
        }
        for number, five in enumerate(choices)
    }
    path.write_text(json.dumps(rows))
    return path


def test_a_question_over_five_videos_needs_all_of_them(
    vqa: Callable[..., Any], keep: Callable[..., Path], tmp_path: Path
) -> None:
    inter = [(name, 0.0) for name in "abcde"]
    lacking = [(name, 0.0) for name in "abcdX"]
    intra = [("a", 0.1 * place) for place in range(5)]
    path = egomcq(tmp_path / "egomcq.json", [inter, lacking, intra, lacking])

    outcome = prepared(vqa, "egomcq", path, keep(*(f"{name}.mp4" for name in "abcde")),
                       "--split", "test")  # fmt: skip

    assert outcome.code == 0, outcome.json
    assert outcome.json["coverage"] == {
        "videos": {"found": 5, "missing": 1}, "questions": {"found": 2, "missing": 2}
    }  # fmt: skip
    assert outcome.json["counts"] == {"total": 4, "done": 2, "failed": 2}
    first, _, third, _ = table(outcome, "questions")
    assert first["videos"] == list("abcde")
    assert third["videos"] == ["a"] * 5
    assert len(third["clips"]) == 5
    frames = vqa("extract-frames", "-b", "egomcq", "--for", "tiny", "--frames", 1,
                 "-w", tmp_path / "workspace", "--max-failures", 1)  # fmt: skip
    # a..e from 0 to 1 s, X, and four further clips of a
    assert frames.json["counts"]["total"] == 5 + 1 + 4
    assert frames.json["counts"]["failed"] == 1


def test_videos_cut_into_pieces_are_found_by_a_named_rule(
    vqa: Callable[..., Any], keep: Callable[..., Path], tmp_path: Path
) -> None:
    five = [("u1", 5.0), ("u1", 601.5), ("u2", 1799.0), ("u2", 0.0), ("u3", 300.0)]
    path = egomcq(tmp_path / "egomcq.json", [five])
    videos = keep("u1/0.mp4", "u1/1.mp4", "u2/2.mp4", "u2/0.mp4", "u3/0.mp4")

    cut = prepared(vqa, "egomcq", path, videos, "--split", "val", "--video-rule", "egovlp")
    whole = prepared(vqa, "egomcq", path, videos, "--split", "val")
    unknown = prepared(vqa, "egomcq", path, videos, "--split", "val", "--video-rule", "mine")

    assert cut.code == 0, cut.json
    assert set(paths(cut).values()) == {
        "u1/0.mp4", "u1/1.mp4", "u2/2.mp4", "u2/0.mp4", "u3/0.mp4"
    }  # fmt: skip
    (row,) = table(cut, "questions")
    assert row["clips"][1] == [1.5, 2.5]
    assert whole.code == 4
    assert (unknown.code, "egovlp" in unknown.json["error"]["hint"]) == (2, True)


def test_a_record_with_the_wrong_extension_finds_its_file(
    vqa: Callable[..., Any], keep: Callable[..., Path], tmp_path: Path
) -> None:
    names = ["10175347@N00_48_4eeb", "-92@N01_1", "7@N02_none"]
    path = tmp_path / "test.tsv"
    path.write_text("".join(f"a cat sits\t{name}.mp4\n" for name in names))
    videos = keep(f"{names[0]}.mov", f"{names[1]}.mp4", names[2])

    outcome = prepared(vqa, "didemo", path, videos, "--split", "test")

    assert outcome.code == 0, outcome.json
    assert sorted(paths(outcome).values()) == sorted(
        [f"{names[0]}.mov", f"{names[1]}.mp4", names[2]]
    )
    assert outcome.json["coverage"]["questions"] == {"found": 3}


def test_a_video_map_names_the_files(
    vqa: Callable[..., Any], keep: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"answer": "cat", "id": n, "question": "what is it?", "video_id": n} for n in (1, 2)]
    path = tmp_path / "test_qa.json"
    path.write_text(json.dumps(rows))
    mapping = tmp_path / "elsewhere.txt"
    mapping.write_text("-4wsuPCjDBc_5_15 vid1\nz_1_2 vid2\n")
    videos = keep("-4wsuPCjDBc_5_15.mp4", "z_1_2.mp4")

    mapped = prepared(
        vqa, "msvd-qa", path, videos, "--split", "test_public", "--video-map", mapping
    )
    without = prepared(vqa, "msvd-qa", path, videos, "--split", "test")

    assert mapped.code == 0, mapped.json
    assert sorted(paths(mapped).values()) == ["-4wsuPCjDBc_5_15.mp4", "z_1_2.mp4"]
    assert mapped.json["artifact"]["id"].startswith("msvd-qa-test-")
    assert without.code == 4


def test_names_with_colons_bars_and_frame_folders_are_found(
    vqa: Callable[..., Any], keep: Callable[..., Path], tmp_path: Path
) -> None:
    from PIL import Image

    youtube = "lg0ldbwZhPQ_subs_003_00:04:00_00:05:00_ep"
    show = "castle_s01e01_seg02_clip_00"
    rows = [
        {"example_id": 20142 + n, "vid_name": name, "ts": [0.0, 0.5], "events": ["a", "b"],
         "answer": n, "split": "dev"}
        for n, name in enumerate([youtube, f"{show}_ep"])
    ]  # fmt: skip
    path = tmp_path / "vlep_dev.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    videos = keep(f"vlep_ytb_clips/{youtube}.mp4")
    frames = tmp_path / "frames" / show
    frames.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(frames / f"{number:05d}.jpg")

    outcome = prepared(vqa, "vlep", path, videos, "--split", "dev", "--videos", tmp_path / "frames")

    assert outcome.code == 0, outcome.json
    assert paths(outcome) == {
        youtube: f"vlep_ytb_clips/{youtube}.mp4", f"{show}_ep": show
    }  # fmt: skip
    assert {row["video"]: row["root"] for row in table(outcome, "videos")} == {
        youtube: 0, f"{show}_ep": 1
    }  # fmt: skip
    assert outcome.json["coverage"]["questions"] == {"found": 2}


def test_captions_are_joined_to_a_list_of_videos(
    vqa: Callable[..., Any], keep: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "MSRVTT_train.9k.csv"
    path.write_text("video_id\nvideo1\nvideo2\n")
    captions = tmp_path / "elsewhere.json"
    sentences = [
        {"caption": words, "video_id": name, "sen_id": number}
        for number, (name, words) in enumerate(
            [("video1", "a man runs"), ("video2", "a dog"), ("video1", "he runs"), ("video9", "x")]
        )
    ]
    captions.write_text(json.dumps({"videos": [], "sentences": sentences}))
    videos = keep("video1.mp4", "video2.mp4")
    name = "msrvtt-retrieval"

    joined = prepared(vqa, name, path, videos, "--split", "train_9k", "--captions", captions)
    alone = prepared(vqa, name, path, videos, "--split", "train")
    again = prepared(vqa, name, path, videos, "--split", "train", "--captions", captions)

    assert joined.code == alone.code == 0, (joined.json, alone.json)
    texts = sorted((row["video"], row["question"]) for row in table(joined, "questions"))
    assert texts == [("video1", "a man runs"), ("video1", "he runs"), ("video2", "a dog")]
    assert [row["question"] for row in table(alone, "questions")] == ["", ""]
    assert [text for text in alone.json["warnings"] if "--captions" in text]
    assert again.json["reused"]
    assert again.json["artifact"]["id"] == joined.json["artifact"]["id"]
    assert alone.json["artifact"]["id"] != joined.json["artifact"]["id"]
