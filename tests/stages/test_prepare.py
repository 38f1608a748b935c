"""prepare: questions from anybody's files, every video found and probed before heavy work."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.questions import question_records, video_records, video_roots
from stages.artifacts.store import Artifact, Workspace
from stages.benchmarks.official import Sources
from stages.core.errors import DataError, MissingInput
from stages.core.runtime import Runtime
from stages.prepare import prepare, prepare_shapes

ONE_WORKER = Runtime(workers=1)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    workspace = Workspace(tmp_path_factory.mktemp("shapes"))
    made = prepare_shapes(workspace, "test", ONE_WORKER, num_videos=3, seed=4).artifact
    assert made is not None
    return made


@pytest.fixture
def videos(generated: Artifact, tmp_path: Path) -> Path:
    """A folder with a.mp4, b.mp4 and c.mp4."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, source in zip("abc", sorted(generated.path.rglob("*.mp4")), strict=True):
        shutil.copy(source, folder / f"{name}.mp4")
    return folder


def line(number: int, video: str, **changes: Any) -> dict[str, Any]:
    asked = {"question_id": f"q{number}", "video": video, "question": "what?"}
    return asked | {"options": ["a", "b"], "answer": 0} | changes


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    return path


def run(place: Path, annotations: Path, videos: Path, **runtime: Any) -> Artifact:
    sources = Sources(annotations, [videos])
    made = prepare(
        Workspace(place), "custom", "test", sources, replace(ONE_WORKER, **runtime)
    ).artifact
    assert made is not None
    return made


def digests(artifact: Artifact) -> dict[str, str]:
    return {
        str(file.relative_to(artifact.path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in artifact.path.rglob("*")
        if file.is_file() and file.name != "manifest.json"
    }


def test_videos_are_found_missing_or_undecodable_and_counted(videos: Path, tmp_path: Path) -> None:
    (videos / "bad.mp4").write_bytes(b"this is no video")
    names = ["a.mp4", "b.mp4", "bad.mp4", "gone.mp4", "a.mp4"]
    annotations = write(tmp_path / "q.jsonl", [line(i, name) for i, name in enumerate(names)])

    artifact = run(tmp_path / "w", annotations, videos)

    statuses = {name: row["status"] for name, row in video_records(artifact).items()}
    assert statuses == {
        "a.mp4": "found", "b.mp4": "found", "bad.mp4": "undecodable", "gone.mp4": "missing",
    }  # fmt: skip
    assert artifact.manifest["coverage"]["questions"] == {
        "found": 3, "undecodable": 1, "missing": 1,
    }  # fmt: skip
    assert artifact.counts == {"total": 5, "done": 3, "failed": 2}
    assert len(question_records(artifact)) == 5


def test_no_video_at_all_ends_with_a_hint_and_the_questions_are_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    annotations = write(tmp_path / "q.jsonl", [line(0, "a.mp4"), line(1, "b.mp4")])

    with pytest.raises(MissingInput, match="none of the 2 videos") as caught:
        run(tmp_path / "w", annotations, tmp_path / "empty")

    assert "--videos" in caught.value.hint
    (artifact,) = Workspace(tmp_path / "w").finished("questions")
    assert len(question_records(artifact)) == 2


def test_a_bad_row_of_ones_own_costs_itself_however_many_there_are(
    videos: Path, tmp_path: Path
) -> None:
    good = [line(i, "a.mp4") for i in range(9)]
    one_bad = write(tmp_path / "one.jsonl", [*good, line(9, "a.mp4", answer=7)])
    many_bad = write(
        tmp_path / "many.jsonl", [*good, *(line(i, "a.mp4", answer=7) for i in range(10, 20))]
    )

    artifact = run(tmp_path / "w", one_bad, videos)

    assert artifact.counts == {"total": 10, "done": 9, "failed": 1}
    with pytest.raises(DataError, match="answer"):
        run(tmp_path / "w", one_bad, videos, strict=True)
    assert run(tmp_path / "w", many_bad, videos).counts == {"total": 19, "done": 9, "failed": 10}
    no_good = write(tmp_path / "none.jsonl", [line(i, "a.mp4", answer=7) for i in range(7)])
    with pytest.raises(DataError, match="7 of 7 rows do not fit") as raised:
        run(tmp_path / "w", no_good, videos)
    assert raised.value.message.count("none.jsonl") == 1
    assert raised.value.message.count("\n  row ") == 5
    assert raised.value.message.endswith("\n  and 2 more")


def test_a_file_that_is_hardly_the_official_one_is_refused(videos: Path, tmp_path: Path) -> None:
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
    rows = [f"{i},9,32,32,what,{1 if i < 6 else 9},{i},CW,v,w,x,y,z" for i in range(9)]
    path = tmp_path / "other.csv"
    path.write_text("\n".join([header, *rows]) + "\n")

    with pytest.raises(DataError, match="3 of 9 rows do not fit the layout nextqa") as raised:
        prepare(Workspace(tmp_path / "w"), "nextqa", "val", Sources(path, [videos]), ONE_WORKER)

    assert "vqa benchmarks nextqa" in raised.value.hint
    assert not list((tmp_path / "w").rglob("questions.parquet"))


def test_what_is_said_names_a_video_once_and_no_rate_of_a_handful(
    videos: Path, tmp_path: Path
) -> None:
    (videos / "bad.mp4").write_bytes(b"this is no video")
    asked = write(tmp_path / "q.jsonl", [line(0, "a.mp4"), line(1, "bad.mp4")])

    made = prepare(
        Workspace(tmp_path / "w"), "custom", "test", Sources(asked, [videos]), ONE_WORKER
    )

    (said,) = [note for note in made.notes if note.startswith("undecodable: ")]
    assert said.count("bad.mp4") == 1
    assert not [note for note in made.notes if "rows read in" in note]
    assert made.next == ["vqa extract-features --benchmark custom --backbone tiny --from-videos"]


def test_moved_videos_keep_the_artifact_and_its_new_folder_is_known(
    videos: Path, tmp_path: Path
) -> None:
    annotations = write(tmp_path / "q.jsonl", [line(0, "a.mp4")])
    first = run(tmp_path / "w", annotations, videos)
    moved = videos.rename(tmp_path / "elsewhere")
    with pytest.raises(MissingInput, match="is gone"):
        video_roots(first)

    second = run(tmp_path / "w", annotations, moved)

    assert second.id == first.id
    assert video_roots(second) == [moved]
    assert second.content == first.content


def test_other_bytes_under_the_same_name_are_another_artifact(videos: Path, tmp_path: Path) -> None:
    annotations = write(tmp_path / "q.jsonl", [line(0, "a.mp4")])
    first = run(tmp_path / "w", annotations, videos)
    shutil.copy(videos / "b.mp4", videos / "a.mp4")

    second = run(tmp_path / "w", annotations, videos)

    assert second.id != first.id
    assert first.path.exists()


def test_touching_a_video_changes_nothing(videos: Path, tmp_path: Path) -> None:
    import os

    annotations = write(tmp_path / "q.jsonl", [line(0, "a.mp4")])
    first = run(tmp_path / "w", annotations, videos)
    os.utime(videos / "a.mp4", (1, 1))

    assert run(tmp_path / "w", annotations, videos).id == first.id


def test_the_folders_never_enter_the_data_files(videos: Path, tmp_path: Path) -> None:
    annotations = write(tmp_path / "q.jsonl", [line(0, "a.mp4"), line(1, "bad.mp4")])
    (videos / "bad.mp4").write_bytes(b"this is no video")
    first = run(tmp_path / "w", annotations, videos)
    other = shutil.copytree(videos, tmp_path / "other")

    second = run(tmp_path / "w2", annotations, other, workers=2)

    assert first.fingerprint == second.fingerprint
    assert digests(first) == digests(second)


def test_generated_videos_are_the_same_again_and_with_force(
    generated: Artifact, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    first = prepare_shapes(workspace, "test", ONE_WORKER, num_videos=3, seed=4)
    again = prepare_shapes(workspace, "test", ONE_WORKER, num_videos=3, seed=4)
    forced = prepare_shapes(
        workspace, "test", replace(ONE_WORKER, force=True), num_videos=3, seed=4
    )

    assert (first.reused, again.reused, forced.reused) == (False, True, False)
    assert forced.artifact is not None
    assert digests(forced.artifact) == digests(generated)
    other = prepare_shapes(workspace, "test", ONE_WORKER, num_videos=3, seed=5)
    assert other.artifact is not None
    assert other.artifact.id != generated.id


@pytest.mark.parametrize("kind", ["missing", "undecodable"])
def test_strict_stops_at_the_first_video_that_cannot_be_used(
    kind: str, videos: Path, tmp_path: Path
) -> None:
    if kind == "undecodable":
        (videos / "bad.mp4").write_bytes(b"this is no video")
    annotations = write(tmp_path / "q.jsonl", [line(0, "a.mp4"), line(1, "bad.mp4")])

    with pytest.raises(DataError, match=rf"bad\.mp4: {kind}"):
        run(tmp_path / "w", annotations, videos, strict=True)

    assert Workspace(tmp_path / "w").finished("questions") == []


def test_the_hint_names_the_folder_that_does_hold_the_videos(videos: Path, tmp_path: Path) -> None:
    annotations = write(tmp_path / "q.jsonl", [line(0, "a.mp4")])

    with pytest.raises(MissingInput) as caught:
        run(tmp_path / "w", annotations, tmp_path)

    assert f"--videos {videos}" in caught.value.hint
