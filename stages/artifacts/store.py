"""The workspace: finished artifacts, drafts on the way to becoming one, and how they are named.

An artifact is a directory `<workspace>/<kind>/<label>-<fingerprint>/` whose `manifest.json` is
written last; without it the directory is a draft and no reader opens it. The fingerprint is the
sha256 of kind, format version, config and the content of the inputs, so equal requests meet in one
directory and changed ones stand beside each other. Contract: docs/artifacts.md.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stages.artifacts import atomic
from stages.artifacts.locks import is_locked, locked
from stages.core.errors import (
    ArtifactVersionError,
    DataError,
    MissingInput,
    UsageError,
    VerificationError,
)
from stages.core.paths import relative_problem

MANIFEST = "manifest.json"

FORMAT_VERSIONS = {
    "questions": 2,
    "frames": 1,
    "features": 1,
    "pseudo-labels": 1,
    "weights": 1,
    "predictions": 2,
    "metrics": 1,
    "report": 1,
}
"""The format that this version writes and reads, per kind."""

REBUILD_COMMANDS = {
    "questions": "vqa prepare",
    "frames": "vqa extract-frames",
    "features": "vqa extract-features",
    "pseudo-labels": "vqa pseudo-label",
    "weights": "the training command of its system and role",
    "predictions": "vqa eval",
    "metrics": "vqa score",
    "report": "vqa report",
}
"""Which command writes each kind, for messages."""

VERSIONED_PACKAGES = (
    "vqa-toolkit", "torch", "transformers", "numpy", "h5py", "pyarrow", "av", "decord"
)  # fmt: skip

MANIFEST_PARTS = {
    "label": str, "fingerprint": str, "config": dict, "inputs": list, "files": dict,
    "counts": dict, "created": str, "host": dict,
}  # fmt: skip
"""What every manifest holds."""

CONFIG_KEYS = {
    "questions": ("benchmark", "split"),
    "features": ("benchmark", "split", "backbone", "sampling"),
    "pseudo-labels": ("benchmark", "split", "round"),
    "weights": ("system", "role", "benchmark", "backbone", "model"),
    "predictions": ("benchmark", "split", "system"),
    "metrics": ("benchmark", "split", "system"),
}
"""What the config of a kind must hold for artifacts to be chosen by it."""

DRAFT_NAME = re.compile(r"[\w.-]+-[0-9a-f]{12}", re.ASCII)
"""Directory names that a draft can have."""

REBUILD_HINT = "delete the folder and rebuild the artifact"

LABEL_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, opened for reading.

    Attributes:
        path: Its directory.
        manifest: The parsed `manifest.json`.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        """Kind of artifact, such as `features`."""
        return str(self.manifest["kind"])

    @property
    def id(self) -> str:
        """Directory name: label and shortened fingerprint."""
        return self.path.name

    @property
    def label(self) -> str:
        """The readable part of the id, or the name given with `--name`."""
        return str(self.manifest["label"])

    @property
    def fingerprint(self) -> str:
        """Full fingerprint."""
        return str(self.manifest["fingerprint"])

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that made it."""
        return dict(self.manifest["config"])

    @property
    def counts(self) -> dict[str, int]:
        """Items: total, done, failed."""
        return dict(self.manifest["counts"])

    @cached_property
    def content(self) -> str:
        """Digest of the fingerprint and of every data file; what dependants are keyed on."""
        files = {name: entry["sha256"] for name, entry in self.manifest["files"].items()}
        return atomic.sha256_json({"fingerprint": self.fingerprint, "files": files})

    def input_ids(self) -> list[str]:
        """Ids of the artifacts that this one was made from."""
        return [str(item["id"]) for item in self.manifest["inputs"]]

    def as_json(self) -> dict[str, Any]:
        """The `artifact` object of the command line's JSON."""
        return {
            "kind": self.kind,
            "id": self.id,
            "path": str(self.path),
            "format_version": self.manifest["format_version"],
            "fingerprint": self.fingerprint,
            "finished": True,
        }


@dataclass(frozen=True)
class Request:
    """What one artifact is to be: everything that its fingerprint covers, and its label.

    Attributes:
        kind: Kind of artifact.
        label: Readable start of the directory name; not in the fingerprint.
        config: Resolved configuration as plain JSON.
        inputs: Role to finished artifact.
    """

    kind: str
    label: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Artifact] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 of kind, format version, config and inputs' content."""
        return atomic.sha256_json(
            {
                "kind": self.kind,
                "format_version": FORMAT_VERSIONS[self.kind],
                "config": dict(self.config),
                "inputs": {role: item.content for role, item in self.inputs.items()},
            }
        )

    @property
    def id(self) -> str:
        """Directory name."""
        return f"{self.label}-{self.fingerprint[:12]}"

    def input_records(self) -> list[dict[str, str]]:
        """What the manifest keeps of each input."""
        return [
            {
                "role": role,
                "kind": item.kind,
                "id": item.id,
                "fingerprint": item.fingerprint,
                "content": item.content,
            }
            for role, item in sorted(self.inputs.items())
        ]


class Draft:
    """An artifact being written; `finish` turns it into one.

    Several processes may hold the same draft: shards are guarded by their own locks and
    `finish` by the draft's.
    """

    def __init__(self, workspace: Workspace, request: Request) -> None:
        self.workspace = workspace
        self.request = request
        self.path = workspace.root / request.kind / request.id
        self.started = time.monotonic()
        self.expected: dict[str, str] = {}
        """Sha256 of files as they were written, by name; `finish` refuses any other bytes."""

    def lock_path(self, name: str = "artifact") -> Path:
        """Where the lock called `name` of this draft lives."""
        return self.workspace.lock_path(self.request.kind, self.request.id, name)

    def outlook_path(self) -> Path:
        """Where an unfinished sharded artifact's number of shards and items is noted."""
        return self.lock_path("outlook").with_suffix(".json")

    def finish(
        self,
        counts: Mapping[str, int],
        *,
        logs: frozenset[str] = frozenset(),
        left_out: frozenset[str] = frozenset(),
        extra: Mapping[str, Any] | None = None,
        host: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Checksum every file, write the manifest, and return the finished artifact.

        Call it under the draft's lock.

        Args:
            counts: Items total, done, failed.
            logs: Files whose bytes may differ between two equal runs (timings); the manifest keeps
                them among the host's facts.
            left_out: Files of the unfinished state, deleted once the manifest is there.
            extra: Further deterministic facts for the manifest, such as metrics.
            host: Facts of this machine and run that are allowed to differ.
        """
        atomic.remove_temporaries(self.path)
        entries = {
            file.relative_to(self.path).as_posix(): self._entry(file)
            for file in sorted(item for item in self.path.rglob("*") if item.is_file())
            if file.name not in left_out
        }
        facts = {
            "machine": platform.machine(),
            "system": platform.system(),
            "logs": {name: entries[name] for name in sorted(logs & set(entries))},
            **(host or {}),
        }
        manifest = {
            "kind": self.request.kind,
            "format_version": FORMAT_VERSIONS[self.request.kind],
            "label": self.request.label,
            "fingerprint": self.request.fingerprint,
            "config": dict(self.request.config),
            "seed": find_seed(self.request.config),
            "inputs": self.request.input_records(),
            "files": {name: entry for name, entry in entries.items() if name not in logs},
            "counts": dict(counts),
            "versions": library_versions(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.monotonic() - self.started, 3),
            "host": facts,
            **(extra or {}),
        }
        atomic.write_json(self.path / MANIFEST, manifest)
        for name in left_out:
            (self.path / name).unlink(missing_ok=True)
        return Artifact(self.path, manifest)

    def _entry(self, file: Path) -> dict[str, Any]:
        """Size, checksum and rows of one file."""
        from stages.artifacts.row_counts import count_rows  # h5py, pyarrow: not for --help

        name, digest = file.relative_to(self.path).as_posix(), atomic.sha256_file(file)
        if self.expected.get(name, digest) != digest:
            self._refuse_damage(file)
        return {"size": file.stat().st_size, "sha256": digest, "rows": count_rows(file)}

    def _refuse_damage(self, file: Path) -> None:
        file.unlink()
        raise VerificationError(
            f"{file} is not what was written: the disk damaged it before the artifact was finished",
            "run the same command again: the damaged file was removed and is made again",
        )


@dataclass(frozen=True)
class Listing:
    """One directory of the workspace: a finished artifact, a draft, or one that cannot be read."""

    path: Path
    kind: str
    artifact: Artifact | None
    problem: str
    running: bool
    way_out: str = ""
    """Of an artifact that another version of `vqa` made: what to do."""

    @property
    def id(self) -> str:
        """Directory name."""
        return self.path.name

    @property
    def label(self) -> str:
        """As the manifest has it, or the directory name says."""
        return self.artifact.label if self.artifact else self.path.name[:-13]

    @property
    def state(self) -> str:
        """`finished`, `running`, `unfinished` or `unreadable`."""
        if self.artifact is not None:
            return "finished"
        if self.running:
            return "running"
        return "unreadable" if self.problem else "unfinished"


class Workspace:
    """A directory that holds artifacts of every kind."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def lock_path(self, kind: str, artifact_id: str, name: str) -> Path:
        """Path of a lock file; see `locks`."""
        return self.root / ".locks" / kind / f"{artifact_id}.{name}.lock"

    def open(self, path: Path) -> Artifact:
        """Open the finished artifact in directory `path`.

        Raises:
            MissingInput: There is no manifest, so the artifact is not finished.
            ArtifactVersionError: Written by an older or newer format.
        """
        return open_artifact(path)

    def existing(self, request: Request) -> Artifact | None:
        """The finished artifact of `request`, if there is one, under whatever label."""
        for path in self._directories(request):
            if has_manifest(path):
                artifact = open_artifact(path)
                if artifact.fingerprint == request.fingerprint:
                    return artifact
        return None

    def _directories(self, request: Request) -> list[Path]:
        """Directories of the request's fingerprint, whatever their labels."""
        return sorted((self.root / request.kind).glob(f"*-{request.fingerprint[:12]}"))

    def draft(self, request: Request, *, force: bool = False) -> Draft:
        """A draft for `request`, continuing what an earlier run left.

        With `force` whatever exists for the same fingerprint, under any label, is deleted first.
        """
        if not request.label or not set(request.label) <= LABEL_CHARACTERS:
            raise UsageError(
                f"not usable as a name: {request.label!r}",
                "use letters, digits, '.', '_' and '-'",
            )
        draft = Draft(self, request)
        atomic.make_directory(draft.path.parent)
        for path in self._directories(request) if force else []:
            with locked(self.lock_path(request.kind, path.name, "artifact")):
                delete_directory(path)
        atomic.make_directory(draft.path)
        return draft

    @contextmanager
    def exclusive(
        self, request: Request, *, force: bool = False
    ) -> Iterator[tuple[Draft, Artifact | None]]:
        """Hold the draft's lock for a stage that is not sharded.

        Yields the draft and, if the same request is finished already, the artifact; then nothing
        was created.
        """
        done = None if force else self.existing(request)
        if done is not None:
            yield Draft(self, request), done
            return
        draft = self.draft(request, force=force)
        with locked(draft.lock_path()):
            atomic.make_directory(draft.path)
            done = None if force else self.existing(request)
            if done is None:
                atomic.remove_temporaries(draft.path)
            yield draft, done

    def listings(self, kind: str | None = None) -> list[Listing]:
        """Every artifact directory, kinds in pipeline order, oldest first."""
        if kind is not None and kind not in FORMAT_VERSIONS:
            raise UsageError(
                f"no artifacts of kind {kind!r}", f"known: {', '.join(FORMAT_VERSIONS)}"
            )
        found = []
        for name in FORMAT_VERSIONS if kind is None else [kind]:
            folder = self.root / name
            if folder.is_dir():
                found += [self.listing(path) for path in _artifact_folders(folder)]
        return found

    def listing(self, path: Path) -> Listing:
        """One artifact directory, whatever its state."""
        kind = path.parent.name
        running = any(
            is_locked(lock) for lock in (self.root / ".locks" / kind).glob(f"{path.name}.*.lock")
        )
        try:
            if not has_manifest(path):
                return Listing(path, kind, None, "", running)
            artifact = open_artifact(path)
            if kind in FORMAT_VERSIONS and artifact.kind != kind:
                raise DataError(f"{path} holds {artifact.kind}, not {kind}")
            return Listing(path, kind, artifact, "", running)
        except ArtifactVersionError as error:
            return Listing(path, kind, None, error.message, running, error.hint)
        except DataError as error:
            return Listing(path, kind, None, error.message, running)

    def finished(self, kind: str) -> list[Artifact]:
        """Finished, readable artifacts of a kind, newest last."""
        items = [item.artifact for item in self.listings(kind) if item.artifact is not None]
        return sorted(items, key=lambda item: (item.manifest["created"], item.id))

    def by_reference(self, kind: str, reference: str) -> Artifact:
        """The artifact that a user named by id, label, id prefix or path.

        Raises:
            MissingInput: Nothing of that name.
            UsageError: Several.
        """
        if has_manifest(Path(reference)):
            return open_artifact(Path(reference))
        return pick_by_name(self.finished(kind), reference, f"{kind} artifact", self.root)

    def choose(
        self,
        kind: str,
        fits: Callable[[Artifact], bool],
        *,
        described: str,
        option: str,
        command: str,
        reference: str | None = None,
    ) -> Artifact:
        """The one finished artifact that a stage needs.

        The newest that fits; several with different configs are a question for the user.

        Args:
            kind: Kind of artifact.
            fits: Whether an artifact suits benchmark, split, backbone and role.
            described: What was looked for, for messages.
            option: The option that settles an ambiguity, such as `--weights`.
            command: The command that makes one.
            reference: The user's own choice, if given.
        """
        if reference is not None:
            chosen = self.by_reference(kind, reference)
            if not fits(chosen):
                raise UsageError(
                    f"{chosen.id} does not fit: {described} is needed",
                    "vqa artifacts show " + chosen.id,
                )
            return chosen
        fitting = [item for item in self.finished(kind) if fits(item)]
        if not fitting:
            raise MissingInput(f"no {described} in workspace {self.root}", command)
        if len({atomic.sha256_json(item.config) for item in fitting}) > 1:
            names = "\n  ".join(item.id for item in fitting)
            raise UsageError(
                f"several {kind} artifacts fit ({described}):\n  {names}",
                f"say which with {option} ID",
            )
        return fitting[-1]


class Named(Protocol):
    """What a user can name: an artifact, or a listing of one."""

    @property
    def id(self) -> str:
        """Directory name."""

    @property
    def label(self) -> str:
        """The readable part of the id."""


Item = TypeVar("Item", bound=Named)


def pick_by_name(artifacts: Sequence[Item], reference: str, what: str, root: Path) -> Item:
    """The artifact that `reference` names: by id, else by label, else by the start of its id.

    Raises:
        MissingInput: Nothing of that name.
        UsageError: Several.
    """
    for named in (
        [item for item in artifacts if item.id == reference],
        [item for item in artifacts if item.label == reference],
        [item for item in artifacts if item.id.startswith(reference)],
    ):
        if len(named) == 1:
            return named[0]
        if named:
            raise UsageError(
                f"several artifacts are called {reference!r}: {', '.join(i.id for i in named)}",
                "name one of them in full",
            )
    raise MissingInput(
        f"no finished {what} called {reference!r} in {root}",
        f"vqa artifacts ls --workspace {root}",
    )


def find_seed(config: Mapping[str, Any]) -> int | None:
    """The seed of a configuration, wherever it lies in it."""
    if "seed" in config:
        return None if config["seed"] is None else int(config["seed"])
    for value in config.values():
        if isinstance(value, Mapping):
            found = find_seed(value)
            if found is not None:
                return found
    return None


def delete_directory(path: Path) -> None:
    """Delete an artifact, its manifest first so that no reader meets half of one."""
    if not path.exists():
        return
    if not (path / MANIFEST).is_dir():
        (path / MANIFEST).unlink(missing_ok=True)
    atomic.fsync_directory(path)
    shutil.rmtree(path)


def has_manifest(path: Path) -> bool:
    """Whether the directory `path` holds a manifest, readable or not.

    Raises:
        DataError: It may not be entered, so that nobody can tell.
    """
    try:
        (path / MANIFEST).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # no folder's, but a slip of whoever named it
            raise
        raise _unreadable(path, error) from None
    return True


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read: {error.strerror or error}", "mend it, or take it out of the way"
    )


def _artifact_folders(folder: Path) -> list[Path]:
    """Directories of a kind's folder that are artifacts; what others put beside them is not."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and _is_ours(path)]


def _is_ours(path: Path) -> bool:
    """Whether a directory has a draft's name, or holds a manifest under any other."""
    return DRAFT_NAME.fullmatch(path.name) is not None or os.access(path / MANIFEST, os.F_OK)


def open_artifact(path: Path) -> Artifact:
    """Open a finished artifact by its directory; see `Workspace.open`."""
    kind = path.parent.name
    command = REBUILD_COMMANDS.get(kind, "the command that makes it")
    manifest_path = path / MANIFEST
    if not has_manifest(path):
        raise MissingInput(
            f"not a finished artifact (no {MANIFEST}): {path}", f"run {command} again"
        )
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        kind, version = str(manifest["kind"]), int(manifest["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{manifest_path} is not a manifest ({type(error).__name__}: {error})",
            REBUILD_HINT,
        ) from None
    except OSError as error:
        raise _unreadable(manifest_path, error) from None
    if kind not in FORMAT_VERSIONS:
        raise ArtifactVersionError(
            f"{path} is of a kind unknown to this version: {kind!r}", "update vqa"
        )
    _check_version(path, kind, version)
    _check_names(manifest_path, manifest)
    return Artifact(path, manifest)


def _check_names(path: Path, manifest: dict[str, Any]) -> None:
    """A manifest may come from anyone: its names must not lead out of the workspace."""
    for name, kind in MANIFEST_PARTS.items():
        if not isinstance(manifest.get(name), kind):
            raise DataError(f"{path} has no {name!r}, or of another type", REBUILD_HINT)
    for key in CONFIG_KEYS.get(manifest["kind"], ()):
        if key not in manifest["config"]:
            raise DataError(f"{path} has no {key!r} in its config", REBUILD_HINT)
    places = [f"{item.get('kind')}/{item.get('id')}" for item in manifest["inputs"]]
    logs = manifest["host"].get("logs", {}) if isinstance(manifest["host"], dict) else {}
    for name in [*manifest["files"], *logs, *places]:
        problem = relative_problem(name)
        if problem:
            raise DataError(f"{path} names {name!r}: {problem}; refused", REBUILD_HINT)


def _check_version(path: Path, kind: str, version: int) -> None:
    current = FORMAT_VERSIONS[kind]
    if version < current:
        raise ArtifactVersionError(
            f"{path} has {kind} format {version}; this version reads {current}",
            f"rebuild it: {REBUILD_COMMANDS[kind]} (the old one is left as it is)",
        )
    if version > current:
        raise ArtifactVersionError(
            f"{path} has {kind} format {version}, newer than this version reads ({current})",
            "update vqa",
        )


def verify_files(artifact: Artifact) -> list[str]:
    """What is wrong with an artifact's files: one line each, empty if all is well."""
    return [f"{name}: {problem}" for name, problem in _damages(artifact)]


def damaged_files(artifact: Artifact) -> list[str]:
    """Names of the files that are not what the manifest says."""
    return [name for name, _ in _damages(artifact)]


def _damages(artifact: Artifact) -> Iterator[tuple[str, str]]:
    logs = artifact.manifest["host"].get("logs", {})
    for name, entry in (artifact.manifest["files"] | logs).items():
        file = artifact.path / name
        try:
            problem = _damage(file, entry)
        except OSError as error:
            problem = f"cannot be read: {error.strerror or error}"
        if problem:
            yield name, problem


def _damage(file: Path, entry: dict[str, Any]) -> str:
    if not file.is_file():
        return "missing"
    if file.stat().st_size != entry["size"]:
        return f"{file.stat().st_size} bytes instead of {entry['size']}"
    return "" if atomic.sha256_file(file) == entry["sha256"] else "checksum differs"


def library_versions() -> dict[str, str]:
    """Versions of what can influence bytes, without importing any of it."""
    versions = {"python": platform.python_version()}
    for name in VERSIONED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
