"""Engines without Ray: what is opened and when, what travels, which machines are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.shards import Claim, ShardedDraft
from stages.artifacts.store import Request, Workspace
from stages.core.errors import DataError, MachineError, MissingExtra
from stages.core.runtime import Runtime, ShardSelection
from stages.engines import Build, Built, ShardWork, build_shards
from stages.engines.elsewhere import TRIES, Ticket, ticket_for
from stages.engines.rows import Answer, RowActor, first_half, packed, second_half, unpacked, whole


@pytest.fixture(autouse=True)
def come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor goes to the directory of its run; the tests go on in their own."""
    monkeypatch.chdir(Path.cwd())


def draft(place: Path, num_shards: int = 3, part: str = "0/1") -> ShardedDraft:
    request = Request("frames", "some", {"benchmark": "none"})
    selection = ShardSelection.parse(part)
    made = Workspace(place).draft(request)
    return ShardedDraft(made, num_shards, "frames", ".bin", selection)


def committed(sharded: ShardedDraft, claim: Claim) -> Built:
    sharded.commit(claim, f"shard {claim.shard}".encode(), {"counts": {}})
    return Built(claim.shard, items=2, seconds=0.5)


def work_of(sharded: ShardedDraft, opened: list[int] | None = None) -> ShardWork:
    @contextmanager
    def open_(runtime: Runtime) -> Iterator[Build]:
        if opened is not None:
            opened.append(1)
        yield lambda claims: (committed(sharded, claim) for claim in claims)

    return ShardWork(sharded, 6, "clips", open_, None)


def test_a_run_counts_what_it_built_and_a_second_one_opens_nothing(tmp_path: Path) -> None:
    opened: list[int] = []
    work = work_of(draft(tmp_path), opened)
    spent = build_shards(work, Runtime())
    assert (spent.shards, spent.items, spent.seconds) == (3, 6, 1.5)
    for engine in ("local", "ray"):
        again = build_shards(work, Runtime(engine=engine))  # type: ignore[arg-type]
        assert (again.shards, again.items, again.seconds) == (0, 0, 0.0)
    assert opened == [1]


def test_a_part_of_the_shards_opens_nothing_once_it_is_done(tmp_path: Path) -> None:
    opened: list[int] = []
    build_shards(work_of(draft(tmp_path, part="1/2"), opened), Runtime())
    assert draft(tmp_path).missing() == [0, 2]
    build_shards(work_of(draft(tmp_path, part="1/2"), opened), Runtime())
    assert opened == [1]


def test_without_ray_the_command_that_installs_it_is_named(
    vqa: Callable[..., Any], few_videos: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra) as caught:
        build_shards(work_of(draft(tmp_path)), Runtime(engine="ray"))
    assert caught.value.exit_code == 5
    assert caught.value.hint == "pip install 'vqa-toolkit[ray]'"

    workspace = few_videos.copy(tmp_path)
    line = ("--for", few_videos.backbone, "--split", "test", "--frames", 2, "--engine", "ray")
    outcome = vqa("extract-frames", "-b", "shapes", *line, "-w", workspace)
    assert outcome.code == 5
    assert outcome.json["error"]["hint"] == "pip install 'vqa-toolkit[ray]'"


def test_an_engine_nobody_knows_is_refused(vqa: Callable[..., Any], tmp_path: Path) -> None:
    outcome = vqa("extract-frames", "-b", "shapes", "--for", "tiny", "--engine", "spark")
    assert outcome.code == 2
    assert "ray" in outcome.json["error"]["hint"]


def test_a_process_that_only_decodes_needs_no_torch() -> None:
    code = (
        "import sys; import stages.engines.rows, stages.video.shard_decoder; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- which machines may build ---------------------------------------------------------------------


def test_a_machine_that_sees_the_same_files_may_build(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with ticket_for(work_of(draft(tmp_path / "w"))) as ticket:
        here = Path.cwd()
        os.chdir(elsewhere)
        ticket.enter()
        assert Path.cwd() == here
    assert not list((tmp_path / "w" / ".locks").rglob("*run-*"))


def broken_sign(ticket: Ticket, place: Path) -> Ticket:
    ticket.sign.write_text("the sign of another workspace of the same name")
    return ticket


def no_sign(ticket: Ticket, place: Path) -> Ticket:
    ticket.sign.unlink()
    return ticket


def no_videos(ticket: Ticket, place: Path) -> Ticket:
    return replace(ticket, folders=(place / "videos",))


def no_directory(ticket: Ticket, place: Path) -> Ticket:
    return replace(ticket, cwd=place / "gone")


@pytest.mark.parametrize("otherwise", [broken_sign, no_sign, no_videos, no_directory])
def test_a_machine_that_does_not_see_them_is_refused(
    otherwise: Callable[[Ticket, Path], Ticket], tmp_path: Path
) -> None:
    with ticket_for(work_of(draft(tmp_path / "w"))) as ticket:
        with pytest.raises(MachineError, match="is not what it is where") as caught:
            otherwise(ticket, tmp_path).enter()
    assert "all machines share" in caught.value.hint


def test_a_machine_without_the_manifest_of_an_input_is_refused(
    few_videos: Any, tmp_path: Path
) -> None:
    workspace = Workspace(few_videos.copy(tmp_path))
    questions = workspace.finished("questions")[0]
    request = Request("frames", "some", {}, {"questions": questions})
    sharded = ShardedDraft(workspace.draft(request), 1, "frames", ".bin", ShardSelection())
    with ticket_for(work_of(sharded)) as ticket:
        ticket.enter()
        (questions.path / "manifest.json").rename(tmp_path / "hidden")
        with pytest.raises(MachineError, match=r"manifest\.json"):
            ticket.enter()


@pytest.mark.parametrize("other", [{"torch": "1.0"}, {"decord": "9"}, {"new-package": "1"}])
def test_a_machine_with_other_versions_is_refused(other: dict[str, str], tmp_path: Path) -> None:
    with ticket_for(work_of(draft(tmp_path))) as ticket:
        (name,) = other
        with pytest.raises(MachineError, match=f"other versions .*{name}"):
            replace(ticket, versions=ticket.versions | other).enter()


def test_a_shard_that_takes_its_process_down_is_given_up_after_some_tries(tmp_path: Path) -> None:
    with ticket_for(work_of(draft(tmp_path))) as ticket:
        dead = [ticket.attempt(1, "whole") for _ in range(TRIES)]
        for attempt in dead:
            attempt.__enter__()  # and nobody leaves: the process is gone
        with pytest.raises(MachineError, match="have died of this shard"):
            ticket.attempt(1, "whole").__enter__()
        for _ in range(TRIES + 1):  # shards that end are never given up
            with ticket.attempt(2, "whole"):
                pass


# --- what travels ---------------------------------------------------------------------------------


@contextmanager
def decoder(runtime: Runtime) -> Iterator[Callable[[int], str]]:
    yield lambda shard: f"frames of {shard}"


def actor(ticket: Ticket, open_: Any, run: Any) -> RowActor:
    return RowActor(ticket, Runtime(), open_, run)


def row(made: RowActor, answer: Answer) -> Answer:
    return unpacked(made(packed(answer)))


def test_halves_in_two_actors_build_what_one_builds(tmp_path: Path) -> None:
    sharded = draft(tmp_path / "halves")
    seen: list[str] = []

    @contextmanager
    def encoder(runtime: Runtime) -> Iterator[Callable[[Claim, str], Built]]:
        def build(claim: Claim, frames: str) -> Built:
            seen.append(frames)
            return committed(sharded, claim)

        yield build

    with ticket_for(work_of(sharded)) as ticket:
        first = actor(ticket, decoder, first_half)
        second = actor(ticket, encoder, second_half)
        for shard in range(3):
            made = row(first, Answer(shard))
            assert made.made == f"frames of {shard}"
            assert row(second, made) == Answer(shard, built=Built(shard, 2, 0.5))
        assert row(second, replace(made, shard=0)) == Answer(0), "done: nothing of it travels on"
    assert seen == [f"frames of {shard}" for shard in range(3)]
    alone = draft(tmp_path / "alone")
    build_shards(work_of(alone), Runtime())
    for shard in range(3):
        assert alone.data_path(shard).read_bytes() == sharded.data_path(shard).read_bytes()


def test_a_shard_in_other_hands_is_left_to_them(tmp_path: Path) -> None:
    sharded = draft(tmp_path)
    held = sharded.claim(1)
    assert held is not None
    assert [shard for shard in range(3) if sharded.is_free(shard)] == [0, 2]
    with ticket_for(work_of(sharded)) as ticket:
        assert row(actor(ticket, decoder, first_half), Answer(1)) == Answer(1)
        assert row(actor(ticket, decoder, second_half), Answer(1, made="frames")) == Answer(1)
        one = actor(ticket, work_of(sharded).open, whole)
        assert row(one, Answer(1)) == Answer(1)
        assert row(one, Answer(2)).built == Built(2, 2, 0.5)
    held.lock.release()
    assert sharded.is_free(1)


def test_an_error_travels_as_a_row_and_lets_the_shard_go(tmp_path: Path) -> None:
    sharded = draft(tmp_path)

    @contextmanager
    def failing(runtime: Runtime) -> Iterator[Any]:
        def build(claim: Claim, made: str) -> Built:
            raise DataError("video 7: no frames", "run without --strict")

        yield build

    with ticket_for(work_of(sharded)) as ticket:
        one = actor(ticket, failing, second_half)
        told = row(one, Answer(0, made="frames")).error
        assert isinstance(told, DataError)
        assert told.message.startswith("video 7: no frames (shard 0 on ")
        assert told.hint == "run without --strict"
        passed = row(actor(ticket, decoder, first_half), Answer(0, error=told))
        assert passed.error is not None
        assert passed.error.message == told.message
    assert sharded.is_free(0)
