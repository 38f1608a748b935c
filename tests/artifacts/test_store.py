"""Artifacts are complete or absent, named by what they hold, refused when they are not right."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.artifacts import atomic
from stages.artifacts.locks import is_locked, locked, try_lock
from stages.artifacts.store import FORMAT_VERSIONS, Artifact, Request, Workspace, verify_files
from stages.core.errors import (
    ArtifactVersionError,
    DataError,
    MissingInput,
    UsageError,
    VqaError,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=5),
    lambda children: st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)


def build(workspace: Workspace, request: Request, text: str = "hello") -> Artifact:
    """A finished artifact that holds one file."""
    with workspace.exclusive(request) as (draft, done):
        assert done is None
        atomic.write_text(draft.path / "data.txt", text)
        return draft.finish({"total": 1, "done": 1, "failed": 0})


def request(config: dict[str, object] | None = None, **inputs: Artifact) -> Request:
    return Request("frames", "toy", config or {"size": 4}, inputs)


def test_a_finished_artifact_is_found_again_by_an_equal_request(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    made = build(workspace, request())

    found = workspace.existing(request())

    assert found is not None
    assert found.manifest == made.manifest
    assert found.path.name == f"toy-{made.fingerprint[:12]}"


def test_a_changed_config_or_input_is_another_artifact(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = build(workspace, request({"size": 4}))
    second = build(workspace, request({"size": 5}))
    dependant = request({"size": 4}, source=first)
    other = request({"size": 4}, source=second)

    assert len({first.fingerprint, second.fingerprint, dependant.fingerprint}) == 3
    assert dependant.fingerprint != other.fingerprint
    assert first.path.exists()


def test_equal_config_with_other_content_changes_the_dependants(tmp_path: Path) -> None:
    one = build(Workspace(tmp_path / "a"), request(), "one")
    two = build(Workspace(tmp_path / "b"), request(), "two")

    assert one.fingerprint == two.fingerprint
    assert request(source=one).fingerprint != request(source=two).fingerprint


@given(JSON, JSON)
def test_fingerprints_are_equal_exactly_when_configs_are(first: object, second: object) -> None:
    prints = [Request("frames", "x", {"value": value}).fingerprint for value in (first, second)]

    assert (prints[0] == prints[1]) == (json.dumps(first, sort_keys=True)
                                        == json.dumps(second, sort_keys=True))  # fmt: skip


def test_an_unfinished_artifact_is_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    draft = workspace.draft(request())

    with pytest.raises(MissingInput, match="not a finished"):
        workspace.open(draft.path)
    assert workspace.finished("frames") == []
    assert [item.state for item in workspace.listings("frames")] == ["unfinished"]


@pytest.mark.parametrize(("step", "words"), [(-1, "rebuild it"), (1, "update vqa")])
def test_other_format_versions_say_what_to_do(tmp_path: Path, step: int, words: str) -> None:
    artifact = build(Workspace(tmp_path), request())
    manifest = artifact.manifest | {"format_version": FORMAT_VERSIONS["frames"] + step}
    atomic.write_json(artifact.path / "manifest.json", manifest)

    with pytest.raises(ArtifactVersionError) as caught:
        Workspace(tmp_path).open(artifact.path)

    assert words in caught.value.hint
    assert Workspace(tmp_path).listings("frames")[0].state == "unreadable"


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    artifact = build(Workspace(tmp_path), request())
    (artifact.path / "manifest.json").write_text("{}")

    with pytest.raises(DataError, match=r"manifest\.json"):
        Workspace(tmp_path).open(artifact.path)


@given(position=st.integers(0, 4))
def test_any_flipped_byte_is_found(tmp_path_factory: pytest.TempPathFactory, position: int) -> None:
    artifact = build(Workspace(tmp_path_factory.mktemp("flip")), request())
    file = artifact.path / "data.txt"
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)

    assert verify_files(artifact) == ["data.txt: checksum differs"]


def test_choose_takes_the_newest_and_asks_when_configs_differ(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    described = {
        "described": "frames of toy",
        "option": "--frames-from",
        "command": "vqa extract-frames",
    }
    with pytest.raises(MissingInput) as missing:
        workspace.choose("frames", lambda item: True, **described)
    assert missing.value.hint == "vqa extract-frames"
    first = build(workspace, request({"size": 4}))
    assert workspace.choose("frames", lambda item: True, **described).id == first.id
    second = build(workspace, request({"size": 5}))

    with pytest.raises(UsageError, match=second.id):
        workspace.choose("frames", lambda item: True, **described)
    chosen = workspace.choose("frames", lambda item: True, reference=first.id, **described)

    assert chosen.id == first.id


@pytest.mark.parametrize("name", ["", "a/b", "../up", "nul\0", "späce"])
def test_names_that_are_not_plain_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not usable as a name"):
        Workspace(tmp_path).draft(Request("frames", name, {}))


def test_force_starts_from_nothing_and_ends_in_the_same_fingerprint(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = build(workspace, request(), "one")

    with workspace.exclusive(request(), force=True) as (draft, done):
        assert done is None
        assert list(draft.path.iterdir()) == []
        atomic.write_text(draft.path / "data.txt", "two")
        second = draft.finish({"total": 1, "done": 1, "failed": 0})

    assert second.fingerprint == first.fingerprint
    assert (second.path / "data.txt").read_text() == "two"


def test_locks_exclude_and_end_with_their_holder(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with locked(path):
        assert try_lock(path) is None
        assert is_locked(path)

    held = try_lock(path)

    assert held is not None
    held.release()
    assert not is_locked(path)


def test_errors_survive_a_process_border() -> None:
    error = DataError("bad row", "fix it")

    copy = pickle.loads(pickle.dumps(error))

    assert isinstance(copy, DataError)
    assert isinstance(copy, VqaError)
    assert (copy.message, copy.hint, copy.exit_code) == ("bad row", "fix it", 3)
