"""Turn an official annotation file and folders of videos into checked questions.

Reads: files of other people, or nothing for the generated benchmark.   Writes: questions.
Every video is found, identified and probed here, so that coverage is known before heavy work.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.artifacts import atomic
from stages.artifacts.clips import Failure
from stages.artifacts.questions import (
    GENERATED_VIDEOS,
    QUESTIONS_TABLE,
    VIDEOS_TABLE,
    video_records,
    write_failures,
    write_questions,
    write_videos,
)
from stages.artifacts.result import StageResult, finished_result
from stages.artifacts.store import MANIFEST, Artifact, Draft, Request, Workspace
from stages.benchmarks.manifest import BenchmarkManifest, load_manifest, split_name
from stages.benchmarks.questions import Question
from stages.benchmarks.readers import BadRow, find_video_map, read_questions
from stages.benchmarks.records import question_schema, to_record
from stages.benchmarks.shapes.generate import (
    DEFAULT_VIDEOS,
    generate,
    generator_identity,
    write_jsonl,
)
from stages.benchmarks.videos import Located, VideoSearch, folder_with, locate_videos
from stages.core.config import Config
from stages.core.errors import DataError, MissingInput, UsageError
from stages.core.runtime import Runtime
from stages.video.pool import DecodePool
from stages.video.tasks import DecodeFailure, Probed, ProbeTask

log = logging.getLogger(__name__)

STAGE = "prepare"
MAX_BAD_ROWS = 0.2
"""Share of unreadable annotation rows above which the file is taken to be a wrong one."""

EDGE_BYTES = 1024 * 1024
SHAPES_SEEDS = {"train": 1, "val": 2, "test": 3}
"""Seed of each generated split."""


class PrepareConfig(Config):
    """What decides the bytes of a questions artifact."""

    benchmark: str
    """Name of the benchmark."""
    split: str
    """Split, under its own name."""
    annotations: str = ""
    """Sha256 of the annotation file."""
    video_map: str = ""
    """Sha256 of the file that maps names to paths, if there is one."""
    videos: str = ""
    """Sha256 over every video's name, path, size and digest."""
    hash: Literal["edges", "full"] = "edges"
    """What of a video its digest covers: its first and last MiB, or all of it."""
    generated: dict[str, Any] = Field(default_factory=dict)
    """For the generated benchmark: videos, seed, difficulty, generator and encoder."""


@dataclass(frozen=True)
class Sources:
    """Where the user's files are; never part of a fingerprint.

    Attributes:
        annotations: Official annotation file.
        video_roots: Folders of videos, searched in order.
        video_map: File that maps video names to paths (NExT-QA); found by itself beside the
            annotations.
    """

    annotations: Path
    video_roots: list[Path]
    video_map: Path | None = None


@dataclass(frozen=True)
class VideoFile:
    """What is known of a video before it is opened as one."""

    video: str
    status: str
    reason: str = ""
    root: int = -1
    relative: str = ""
    size: int = 0
    digest: str = ""

    def identity(self) -> list[Any]:
        """What the fingerprint covers."""
        return [self.video, self.status, self.relative, self.size, self.digest]


@dataclass
class Coverage:
    """How many videos and questions can be used."""

    videos: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """For the JSON and the manifest."""
        return {"videos": dict(self.videos), "questions": dict(self.questions)}

    def sentence(self) -> str:
        """For the terminal."""
        parts = [f"{count} {status}" for status, count in sorted(self.videos.items())]
        return "videos: " + ", ".join(parts)


def hash_mode(name: str) -> Literal["edges", "full"]:
    """Check the name of a hash mode."""
    known: dict[str, Literal["edges", "full"]] = {"edges": "edges", "full": "full"}
    if name in known:
        return known[name]
    raise UsageError(f"--hash {name!r}", "edges or full")


# --- official files ------------------------------------------------------------------------------


def prepare(
    workspace: Workspace,
    benchmark: str,
    split: str,
    sources: Sources,
    runtime: Runtime,
    *,
    hashing: Literal["edges", "full"] = "edges",
) -> StageResult:
    """Read, locate, identify and probe; write the questions of one split.

    Raises:
        DataError: Unknown layout, too many bad rows, or a bad row with `strict`.
        MissingInput: Not one video is usable; the questions are still written.
    """
    started = time.monotonic()
    manifest = load_manifest(benchmark)
    if manifest.generated:
        raise UsageError(f"{benchmark} is generated: it takes no annotation file")
    split = split_name(manifest, split)
    mapping = sources.video_map or find_video_map(manifest, sources.annotations)
    read = read_questions(manifest, split, sources.annotations, mapping)
    _check_bad_rows(sources.annotations, read.bad_rows, read.num_rows, runtime)
    names = [video for question in read.questions for video in question.videos]
    search = locate_videos(names, sources.video_roots, manifest.videos.extensions)
    files = _identify(search, sources.video_roots, hashing, runtime)
    config = PrepareConfig(
        benchmark=benchmark,
        split=split,
        annotations=atomic.sha256_file(sources.annotations),
        video_map=atomic.sha256_file(mapping) if mapping else "",
        videos=atomic.sha256_json([file.identity() for file in files]),
        hash=hashing,
    )
    host = {
        "annotations": str(sources.annotations.absolute()),
        "video_map": str(mapping.absolute()) if mapping else None,
        "video_roots": [str(root.absolute()) for root in sources.video_roots],
    }
    warnings = [*read.warnings, *_count_warnings(manifest, split, read.questions)]
    request = Request("questions", runtime.name or f"{benchmark}-{split}", config.as_json())
    with workspace.exclusive(request, force=runtime.force) as (draft, done):
        if done is not None:
            artifact = _with_host(done, host)
        else:
            paths = {
                file.video: sources.video_roots[file.root] / file.relative
                for file in files
                if file.status == "found"
            }
            writer = _Writer(draft, read.questions, read.bad_rows, read.open_ended, files, paths)
            artifact = writer.write(runtime, warnings, host)
    return _result(artifact, done is not None, started, sources)


def _check_bad_rows(path: Path, bad: list[BadRow], total: int, runtime: Runtime) -> None:
    shown = "; ".join(str(row) for row in bad[:3])
    if bad and runtime.strict:
        raise DataError(str(bad[0]), "run without --strict to go on past it")
    if total == 0:
        raise DataError(f"{path} holds no question")
    if len(bad) == total:
        raise DataError(f"{path}: not one of {total} rows can be read: {shown}")
    if len(bad) > MAX_BAD_ROWS * total:
        raise DataError(
            f"{path}: {len(bad)} of {total} rows cannot be read: {shown}",
            "is it the right file for this benchmark and split?",
        )


def _count_warnings(
    manifest: BenchmarkManifest, split: str, questions: Sequence[Question]
) -> list[str]:
    """A sentence for each count that differs from the official one."""
    videos = {video for question in questions for video in question.videos}
    found = manifest.splits[split].differences(len(questions), len(videos))
    return [f"{manifest.name} {split}: {difference}" for difference in found]


def _identify(
    search: VideoSearch, roots: Sequence[Path], hash_mode: str, runtime: Runtime
) -> list[VideoFile]:
    """Size and digest of every video, by name."""
    files = [
        VideoFile(item.video, "refused" if item.refused else "missing", item.reason)
        for item in search.missing
    ]
    for number, (video, place) in enumerate(search.found.items()):
        files.append(_identify_one(video, place, roots[place.root_index], hash_mode))
        runtime.progress(number + 1, len(search.found), "videos identified")
    return sorted(files, key=lambda file: file.video)


def _identify_one(video: str, place: Located, root: Path, hash_mode: str) -> VideoFile:
    path = root / place.relative
    try:
        if place.is_folder:
            size, digest = _folder_digest(path)
        else:
            size, digest = path.stat().st_size, _file_digest(path, hash_mode)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        return VideoFile(video, "undecodable", reason, place.root_index, place.relative)
    return VideoFile(video, "found", "", place.root_index, place.relative, size, digest)


def _file_digest(path: Path, hash_mode: str) -> str:
    if hash_mode == "full":
        return atomic.sha256_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(EDGE_BYTES))
        start = max(file.tell(), path.stat().st_size - EDGE_BYTES)
        file.seek(start)
        digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def _folder_digest(path: Path) -> tuple[int, str]:
    """A frame folder is its images' names and sizes."""
    entries = sorted((item.name, item.stat().st_size) for item in path.iterdir())
    return sum(size for _, size in entries), atomic.sha256_json(entries)


def _with_host(artifact: Artifact, host: dict[str, Any]) -> Artifact:
    """The same artifact with the folders as they are now: they may have moved."""
    known = artifact.manifest["host"]
    if all(known.get(name) == value for name, value in host.items()):
        return artifact
    manifest = artifact.manifest | {"host": known | host}
    atomic.write_json(artifact.path / MANIFEST, manifest)
    return Artifact(artifact.path, manifest)


# --- the generated benchmark ---------------------------------------------------------------------


def prepare_shapes(
    workspace: Workspace,
    split: str,
    runtime: Runtime,
    *,
    num_videos: int | None = None,
    seed: int | None = None,
    hard: bool = False,
) -> StageResult:
    """Generate the videos and questions of one split of `shapes`; same seed, same bytes."""
    started = time.monotonic()
    manifest = load_manifest("shapes")
    split = split_name(manifest, split)
    generated = {
        "videos": num_videos or DEFAULT_VIDEOS[split],
        "seed": SHAPES_SEEDS[split] if seed is None else seed,
        "hard": hard,
        **generator_identity(),
    }
    config = PrepareConfig(benchmark="shapes", split=split, generated=generated)
    label = runtime.name or f"shapes-{split}"
    request = Request("questions", label, config.as_json())
    with workspace.exclusive(request, force=runtime.force) as (draft, done):
        artifact = done or _generate(draft, split, generated, manifest, runtime)
    return _result(artifact, done is not None, started, None)


def _generate(
    draft: Draft,
    split: str,
    generated: dict[str, Any],
    manifest: BenchmarkManifest,
    runtime: Runtime,
) -> Artifact:
    root = draft.path / GENERATED_VIDEOS
    atomic.make_directory(root)
    runtime.progress(0, generated["videos"], "videos generated")
    records = generate(
        root,
        split,
        generated["videos"],
        generated["seed"],
        hard=generated["hard"],
        workers=runtime.num_workers,
    )
    annotations = draft.path / "generated.jsonl"
    write_jsonl(annotations, records)
    atomic.fsync_tree(draft.path)
    read = read_questions(manifest, split, annotations)
    names = [question.video for question in read.questions]
    files = _identify(locate_videos(names, [root]), [root], "edges", runtime)
    paths = {file.video: root / file.relative for file in files}
    writer = _Writer(draft, read.questions, read.bad_rows, read.open_ended, files, paths)
    return writer.write(runtime, read.warnings, {})


# --- writing -------------------------------------------------------------------------------------


@dataclass
class _Writer:
    """Everything that one questions artifact is written from."""

    draft: Draft
    questions: list[Question]
    bad_rows: list[BadRow]
    open_ended: bool
    files: list[VideoFile]
    paths: dict[str, Path]

    def write(self, runtime: Runtime, warnings: list[str], host: dict[str, Any]) -> Artifact:
        """Probe the videos, write the tables, finish the artifact."""
        records = [self._record(file, probed) for file, probed in self._probe(runtime)]
        _stop_if_strict(records, runtime)
        coverage = self._coverage(records)
        directory = self.draft.path
        schema = question_schema(self.open_ended)
        total = write_questions(
            directory / QUESTIONS_TABLE, schema, (to_record(item) for item in self.questions)
        )
        write_videos(directory / VIDEOS_TABLE, records)
        write_failures(directory, [*self._bad_row_failures(), *_video_failures(records)])
        usable = coverage.questions.get("found", 0)
        failed = total - usable + len(self.bad_rows)
        return self.draft.finish(
            {"total": total + len(self.bad_rows), "done": usable, "failed": failed},
            extra={"coverage": coverage.as_json(), "warnings": warnings},
            host=host,
        )

    def _probe(self, runtime: Runtime) -> Iterator[tuple[VideoFile, Probed | DecodeFailure | None]]:
        found = [file for file in self.files if file.status == "found"]
        tasks = [ProbeTask(file.video, self.paths[file.video]) for file in found]
        with DecodePool(runtime.num_workers) as pool:
            results = pool.imap(tasks)
            done = 0
            for file in self.files:
                if file.status != "found":
                    yield file, None
                    continue
                yield file, next(results)
                done += 1
                runtime.progress(done, len(found), "videos probed")

    def _record(self, file: VideoFile, probed: Probed | DecodeFailure | None) -> dict[str, Any]:
        record: dict[str, Any] = {
            "video": file.video,
            "status": file.status,
            "reason": file.reason,
            "root": file.root,
            "path": file.relative,
            "size": file.size,
            "digest": file.digest,
        }
        if isinstance(probed, DecodeFailure):
            words = probed.decoder_words.replace(str(probed.path), file.video)
            record |= {"status": "undecodable", "reason": words}
        elif probed is not None:
            info = probed.info
            record |= {
                "num_frames": info.num_frames,
                "duration": info.duration,
                "average_fps": info.average_fps,
                "width": info.width,
                "height": info.height,
                "rotation": info.rotation,
                "codec": info.codec,
            }
        return record

    def _coverage(self, records: Sequence[dict[str, Any]]) -> Coverage:
        status = {record["video"]: record["status"] for record in records}
        coverage = Coverage(Counter(status.values()))
        for question in self.questions:
            worst = [status[video] for video in question.videos if status[video] != "found"]
            coverage.questions[worst[0] if worst else "found"] += 1
        return coverage

    def _bad_row_failures(self) -> list[Failure]:
        return [
            Failure(f"row {row.row}", STAGE, f"bad {row.field}", f"{row.file}: {row.reason}")
            for row in self.bad_rows
        ]


def _stop_if_strict(records: Sequence[dict[str, Any]], runtime: Runtime) -> None:
    bad = next((record for record in records if record["status"] != "found"), None)
    if runtime.strict and bad is not None:
        raise DataError(
            f"video {bad['video']}: {bad['status']}: {bad['reason']}",
            "run without --strict to go on past it",
        )


def _video_failures(records: Sequence[dict[str, Any]]) -> list[Failure]:
    return [
        Failure(record["video"], STAGE, record["status"], record["reason"])
        for record in records
        if record["status"] != "found"
    ]


def _where_to_look(artifact: Artifact, sources: Sources) -> str:
    """A hint: the folder below the given ones that does hold the videos, if there is one."""
    right = folder_with(list(video_records(artifact)), sources.video_roots)
    if right is not None:
        return f"they are in {right}: --videos {right}"
    benchmark = artifact.config["benchmark"]
    return f"give the folder that holds the videos with --videos; see: vqa benchmarks {benchmark}"


def _result(
    artifact: Artifact, reused: bool, started: float, sources: Sources | None
) -> StageResult:
    coverage = artifact.manifest["coverage"]
    shown = Coverage(Counter(coverage["videos"]), Counter(coverage["questions"]))
    benchmark = artifact.config["benchmark"]
    if sources is not None and not coverage["videos"].get("found"):
        folders = ", ".join(str(root) for root in sources.video_roots)
        raise MissingInput(
            f"none of the {sum(shown.videos.values())} videos of {benchmark} "
            f"{artifact.config['split']} is usable in {folders} "
            f"({shown.sentence()}); questions and coverage are in {artifact.path}",
            _where_to_look(artifact, sources),
        )
    return finished_result(
        artifact,
        reused=reused,
        seconds=time.monotonic() - started,
        next_commands=[f"vqa extract-frames --benchmark {benchmark} --for BACKBONE --frames 32"],
        notes=[shown.sentence(), *artifact.manifest["warnings"]],
        details={"coverage": coverage, "warnings": artifact.manifest["warnings"]},
    )
