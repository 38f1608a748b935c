"""Turn an official annotation file and folders of videos into checked questions.

Reads: files of other people, or nothing for the generated benchmark.   Writes: questions.
Every video is found, identified and probed here, so that coverage is known before heavy work. The
questions pass through: memory holds video names and counts, however many rows there are.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.artifacts import atomic
from stages.artifacts.clips import Failure
from stages.artifacts.questions import (
    GENERATED_VIDEOS,
    VIDEOS_TABLE,
    QuestionSpool,
    question_spool,
    video_records,
    write_failures,
    write_videos,
)
from stages.artifacts.result import StageResult, finished_result
from stages.artifacts.store import MANIFEST, Artifact, Draft, Request, Workspace
from stages.benchmarks.coverage import STATUSES, Coverage, examples
from stages.benchmarks.manifest import load_manifest, split_name
from stages.benchmarks.official import OfficialSplit, PrepareChoices, Sources
from stages.benchmarks.readers import QuestionStream
from stages.benchmarks.shapes.generate import (
    DEFAULT_VIDEOS,
    generate,
    generator_identity,
    write_jsonl,
)
from stages.benchmarks.streaming import Reading, TellRows, read_into
from stages.benchmarks.video_files import HashMode, Tell, VideoFile, VideoFiles, identify
from stages.benchmarks.videos import folder_with, locate_videos
from stages.core.config import Config
from stages.core.errors import DataError, MissingInput
from stages.core.runtime import Runtime
from stages.video.pool import DecodePool
from stages.video.tasks import DecodeFailure, Probed, ProbeTask

STAGE = "prepare"
IDENTIFIED = "videos identified"
ROWS_WORTH_A_RATE = 1000
"""Rows from which on the reader's rate is said: of fewer it is the clock's noise."""
TWO_STEPS = (
    "to keep the frames too: vqa extract-frames --benchmark {0} --for tiny --frames 32, then "
    "extract-features without --from-videos"
)
WARNINGS_SAID = 4
"""In the message that no video is usable: the last ones, which are about unpublished counts."""

SHAPES_SEEDS = {"train": 1, "val": 2, "test": 3}
"""Seed of each generated split."""


class PrepareConfig(Config):
    """What decides the bytes of a questions artifact."""

    benchmark: str
    """Name of the benchmark."""
    split: str
    """Split, under its own name."""
    release: str = ""
    """Release of the annotations, where the benchmark has several that must not be mixed."""
    annotations: str = ""
    """Sha256 of the annotation file."""
    video_map: str = ""
    """Sha256 of the file that maps names to paths, if there is one."""
    captions: str = ""
    """Sha256 of the file of captions that a list of videos is joined with, if there is one."""
    columns: tuple[str, ...] = ()
    """Where a file of the user's own has what, as `FIELD=COLUMN`, sorted."""
    video_rule: str = ""
    """Named rule for the videos' files, where the benchmark has several."""
    videos: str = ""
    """Sha256 over every video's name, path, size and digest."""
    hash: HashMode = "edges"
    """What of a video its digest covers: its first and last MiB, or all of it."""
    generated: dict[str, Any] = Field(default_factory=dict)
    """For the generated benchmark: videos, seed, difficulty, generator and encoder."""


# --- official files ------------------------------------------------------------------------------


def prepare(
    workspace: Workspace,
    benchmark: str,
    split: str,
    sources: Sources,
    runtime: Runtime,
    choices: PrepareChoices | None = None,
) -> StageResult:
    """Read, locate, identify and probe; write the questions of one split.

    Raises:
        DataError: Unknown layout, too many bad rows, or a bad row with `strict`.
        MissingInput: Not one video is usable; the questions are still written.
    """
    started = time.monotonic()
    official = OfficialSplit(benchmark, split, sources, choices or PrepareChoices())
    config = _config(official)
    known = _finished_before(workspace, official, config, runtime)
    if known is not None:
        artifact = _with_host(known, official.host())
        return _result(artifact, True, started, official, None)
    with question_spool(workspace) as spool:
        reading = read_into(
            official.stream,
            spool.write,
            strict=runtime.strict,
            tell=_tell_rows(official, runtime),
        )
        files = official.find(reading.videos, config.hash, _tell(runtime, IDENTIFIED))
        config = config.model_copy(update={"videos": files.digest()})
        request = Request("questions", runtime.name or official.label, config.as_json())
        with workspace.exclusive(request, force=runtime.force) as (draft, done):
            if done is not None:
                artifact = _with_host(done, official.host())
            else:
                facts = {"layout": official.stream.layout, "warnings": official.warnings(reading)}
                writer = _Writer(draft, spool, reading, files, facts)
                artifact = writer.write(runtime, official.host())
    return _result(artifact, done is not None, started, official, reading)


def _config(official: OfficialSplit) -> PrepareConfig:
    """Everything but the videos."""
    sources, choices = official.sources, official.choices
    return PrepareConfig(
        benchmark=official.manifest.name,
        split=official.split,
        release=official.stream.release,
        annotations=atomic.sha256_file(sources.annotations),
        video_map=_digest(official.mapping),
        captions=_digest(official.stream.captions),
        columns=tuple(sorted(choices.columns)),
        video_rule=choices.video_rule,
        hash=choices.hashing,
    )


def _digest(path: Path | None) -> str:
    return atomic.sha256_file(path) if path is not None else ""


def _finished_before(
    workspace: Workspace, official: OfficialSplit, config: PrepareConfig, runtime: Runtime
) -> Artifact | None:
    """The artifact of the same files with the same videos, found without reading a row again."""
    if runtime.force or runtime.strict:
        return None
    for item in reversed(workspace.finished("questions")):
        if item.config | {"videos": ""} == config.as_json():
            files = official.find(
                list(video_records(item)), config.hash, _tell(runtime, IDENTIFIED)
            )
            if files.digest() == item.config["videos"]:
                return item
    return None


def plan(
    benchmark: str,
    split: str,
    sources: Sources,
    runtime: Runtime,
    choices: PrepareChoices | None = None,
) -> dict[str, Any]:
    """What `prepare` would find, coverage included; writes nothing.

    Raises:
        DataError: As `prepare`.
    """
    official = OfficialSplit(benchmark, split, sources, choices or PrepareChoices())
    reading = read_into(
        official.stream, None, strict=runtime.strict, tell=_tell_rows(official, runtime)
    )
    files = official.find(reading.videos, None, _tell(runtime, IDENTIFIED))
    records = _probed_records(files, runtime)
    coverage = Coverage.of(reading.asked, {row["video"]: row["status"] for row in records})
    return {
        "layout": official.stream.layout,
        "release": official.stream.release,
        "rows": reading.num_rows,
        "bad_rows": len(reading.bad_rows),
        "rows_per_second": round(reading.rows_per_second, 1),
        **{f"videos_{status}": coverage.videos.get(status, 0) for status in STATUSES},
        **{f"questions_{status}": coverage.questions.get(status, 0) for status in STATUSES},
        "examples": examples(records),
        "warnings": official.warnings(reading),
    }


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
    request = _shapes_request(split, runtime, num_videos, seed, hard)
    with workspace.exclusive(request, force=runtime.force) as (draft, done):
        artifact = done or _generate(draft, runtime)
    return _result(artifact, done is not None, started, None, None)


def plan_shapes(
    workspace: Workspace,
    split: str,
    runtime: Runtime,
    *,
    num_videos: int | None = None,
    seed: int | None = None,
    hard: bool = False,
) -> dict[str, Any]:
    """What `prepare_shapes` would make; writes nothing."""
    request = _shapes_request(split, runtime, num_videos, seed, hard)
    existing = workspace.existing(request)
    return {
        "artifact": existing.id if existing else request.id,
        "reused": existing is not None,
        "videos": request.config["generated"]["videos"],
    }


def _shapes_request(
    split: str, runtime: Runtime, num_videos: int | None, seed: int | None, hard: bool
) -> Request:
    split = split_name(load_manifest("shapes"), split)
    generated = {
        "videos": num_videos or DEFAULT_VIDEOS[split],
        "seed": SHAPES_SEEDS[split] if seed is None else seed,
        "hard": hard,
        **generator_identity(),
    }
    config = PrepareConfig(benchmark="shapes", split=split, generated=generated)
    return Request("questions", runtime.name or f"shapes-{split}", config.as_json())


def _generate(draft: Draft, runtime: Runtime) -> Artifact:
    split, generated = draft.request.config["split"], draft.request.config["generated"]
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
    stream = QuestionStream(load_manifest("shapes"), split, annotations)
    with question_spool(draft.workspace) as spool:
        reading = read_into(stream, spool.write)
        search = locate_videos(reading.videos, [root])
        files = identify(search, [root], "edges", _tell(runtime, IDENTIFIED))
        facts = {"layout": stream.layout, "warnings": stream.warnings}
        return _Writer(draft, spool, reading, VideoFiles(files, [root]), facts).write(runtime, {})


# --- writing -------------------------------------------------------------------------------------


@dataclass
class _Writer:
    """Everything that one questions artifact is written from."""

    draft: Draft
    spool: QuestionSpool
    reading: Reading
    files: VideoFiles
    facts: dict[str, Any]

    def write(self, runtime: Runtime, host: dict[str, Any]) -> Artifact:
        """Probe the videos, write the tables, finish the artifact."""
        records = _probed_records(self.files, runtime)
        _stop_if_strict(records, runtime)
        status = {record["video"]: record["status"] for record in records}
        coverage = Coverage.of(self.reading.asked, status)
        self.spool.keep(self.draft.path)
        write_videos(self.draft.path / VIDEOS_TABLE, records)
        write_failures(self.draft.path, [*self._bad_row_failures(), *_video_failures(records)])
        usable = coverage.questions.get("found", 0)
        total = self.reading.num_rows
        return self.draft.finish(
            {"total": total, "done": usable, "failed": total - usable},
            extra={"coverage": coverage.as_json(), **self.facts},
            host=host,
        )

    def _bad_row_failures(self) -> list[Failure]:
        return [
            Failure(f"row {row.row}", STAGE, f"bad {row.field}", f"{row.file}: {row.reason}")
            for row in self.reading.bad_rows
        ]


def _probed_records(files: VideoFiles, runtime: Runtime) -> list[dict[str, Any]]:
    """One row of `videos.parquet` per video."""
    return [_record(file, probed) for file, probed in _probe(files, runtime)]


def _probe(
    files: VideoFiles, runtime: Runtime
) -> Iterator[tuple[VideoFile, Probed | DecodeFailure | None]]:
    tasks = [ProbeTask(video, path) for video, path in files.found()]
    tell = _tell(runtime, "videos probed")
    with DecodePool(runtime.num_workers) as pool:
        results = pool.imap(tasks)
        done = 0
        for file in files.files:
            if file.status != "found":
                yield file, None
                continue
            yield file, next(results)
            done += 1
            tell(done, len(tasks))


def _record(file: VideoFile, probed: Probed | DecodeFailure | None) -> dict[str, Any]:
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
        # The row names the video already: the decoder's words need not.
        words = probed.decoder_words.removeprefix(f"{probed.path}: ")
        words = words.replace(str(probed.path), file.video)
        return record | {"status": "undecodable", "reason": words}
    if probed is None:
        return record
    info = probed.info
    return record | {
        "num_frames": info.num_frames,
        "duration": info.duration,
        "average_fps": info.average_fps,
        "width": info.width,
        "height": info.height,
        "rotation": info.rotation,
        "codec": info.codec,
    }


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


# --- telling -------------------------------------------------------------------------------------


def _tell_rows(official: OfficialSplit, runtime: Runtime) -> TellRows | None:
    """Progress in rows; none where nobody knows how many there should be."""
    expected = official.expected_rows
    if expected is None:
        return None
    return lambda rows: runtime.progress(rows, max(rows, expected), "rows read")


def _tell(runtime: Runtime, what: str) -> Tell:
    return lambda done, total: runtime.progress(done, total, what)


def _where_to_look(videos: Sequence[str], official: OfficialSplit) -> str:
    """A hint: the folder below the given ones that does hold the videos, if there is one."""
    right = folder_with(videos, official.sources.video_roots, official.stream.candidates)
    if right is not None:
        return f"they are in {right}: --videos {right}"
    benchmark = official.manifest.name
    return f"give the folder that holds the videos with --videos; see: vqa benchmarks {benchmark}"


def _result(
    artifact: Artifact,
    reused: bool,
    started: float,
    official: OfficialSplit | None,
    reading: Reading | None,
) -> StageResult:
    coverage = artifact.manifest["coverage"]
    shown = Coverage(Counter(coverage["videos"]), Counter(coverage["questions"]))
    benchmark = artifact.config["benchmark"]
    if official is not None and not coverage["videos"].get("found"):
        folders = ", ".join(str(root) for root in official.sources.video_roots)
        odd = "".join(f"; {warning}" for warning in artifact.manifest["warnings"][-WARNINGS_SAID:])
        raise MissingInput(
            f"none of the {sum(shown.videos.values())} videos of {benchmark} "
            f"{artifact.config['split']} is usable in {folders} "
            f"({shown.sentence()}); questions and coverage are in {artifact.path}{odd}",
            _where_to_look(list(video_records(artifact)), official),
        )
    details = {name: artifact.manifest[name] for name in ("coverage", "layout", "warnings")} | {
        "release": artifact.config["release"]
    }
    notes = [shown.sentence(), *examples(video_records(artifact).values())]
    if reading is not None:
        details["reading"] = reading.rate()
    if reading is not None and reading.num_rows >= ROWS_WORTH_A_RATE:
        notes.append(
            f"{reading.num_rows:,} rows read in {reading.seconds:.1f} s "
            f"({reading.rows_per_second:,.0f} a second)"
        )
    notes.append(TWO_STEPS.format(benchmark))
    return finished_result(
        artifact,
        reused=reused,
        seconds=time.monotonic() - started,
        next_commands=[
            f"vqa extract-features --benchmark {benchmark} --backbone tiny --from-videos"
        ],
        notes=notes,
        details=details,
    )
