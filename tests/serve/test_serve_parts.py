"""The parts of `vqa serve` by themselves: turns, kept videos, names, uploads that stop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from stages import serve
from stages.core.errors import DataError, MachineError
from stages.serving import uploads
from stages.serving.guard import host_names
from stages.serving.limits import Limits
from stages.serving.routes import Service, build_app
from stages.serving.turns import Turns
from stages.serving.videos import KeptVideos, LookedAt


def test_one_computation_runs_at_a_time_in_the_order_asked() -> None:
    running, most, order = 0, 0, []

    def job(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        order.append(number)
        running -= 1
        return number * 2

    async def ask() -> list[int]:
        turns = Turns(waiting=8)
        try:
            return await asyncio.gather(*(turns.do(lambda n=n: job(n)) for n in range(6)))
        finally:
            turns.stop(1)

    assert asyncio.run(ask()) == [0, 2, 4, 6, 8, 10]
    assert (most, order) == (1, list(range(6)))


def test_an_error_belongs_to_who_asked_and_the_next_is_answered() -> None:
    def broken() -> None:
        raise DataError("no frames")

    async def ask() -> int:
        turns = Turns(waiting=2)
        with pytest.raises(DataError, match="no frames"):
            await turns.do(broken)
        try:
            return await turns.do(lambda: 3)
        finally:
            turns.stop(1)

    assert asyncio.run(ask()) == 3


def test_who_comes_when_too_many_wait_is_sent_away_and_who_waits_is_told_of_the_end() -> None:
    async def ask() -> None:
        turns, started, go_on = Turns(waiting=1), threading.Event(), threading.Event()

        def slow() -> str:
            started.set()
            go_on.wait(10)
            return "done"

        first = asyncio.create_task(turns.do(slow))
        await asyncio.to_thread(started.wait, 10)
        second = asyncio.create_task(turns.do(lambda: "never"))
        await asyncio.sleep(0.05)
        with pytest.raises(MachineError, match="wait"):
            await turns.do(lambda: "too many")
        turns.stop(0)
        with pytest.raises(MachineError, match="stopping"):
            await second
        go_on.set()
        assert await first == "done"

    asyncio.run(ask())


def test_who_leaves_frees_the_place_and_is_no_trouble_at_the_end() -> None:
    async def ask() -> None:
        turns, started, go_on = Turns(waiting=1), threading.Event(), threading.Event()

        def slow() -> str:
            started.set()
            go_on.wait(10)
            return "done"

        first = asyncio.create_task(turns.do(slow))
        await asyncio.to_thread(started.wait, 10)
        for _ in range(3):
            left = asyncio.create_task(turns.do(lambda: "never"))
            await asyncio.sleep(0.01)
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
        last = asyncio.create_task(turns.do(lambda: "never"))
        await asyncio.sleep(0.01)
        last.cancel()  # at the same moment
        turns.stop(0)
        go_on.set()
        assert await first == "done"
        with pytest.raises(MachineError, match="stopping"):
            await turns.do(lambda: "too late")

    asyncio.run(ask())


@contextmanager
def listening_to(turns: Turns, folder: Path) -> Iterator[tuple[str, int]]:
    """A server in this process, with nobody to answer; where it listens."""
    listening = serve.listen(0)
    address: tuple[str, int] = listening.getsockname()
    service = Service(None, {}, folder, "auto", Limits(), turns)  # type: ignore[arg-type]
    server = uvicorn.Server(serve.configuration(build_app(service, address[1])))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield address
    finally:
        server.should_exit = True
        thread.join(20)


def wait_until(happened: Callable[[], bool], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_the_places_of_those_who_have_closed_their_sockets_are_free(tmp_path: Path) -> None:
    turns, started, go_on = Turns(waiting=2), threading.Event(), threading.Event()

    def slow() -> bool:
        started.set()
        return go_on.wait(60)

    running = threading.Thread(target=lambda: asyncio.run(turns.do(slow)))
    running.start()
    try:
        assert started.wait(20)
        with listening_to(turns, tmp_path) as (host, port):
            head = f"POST /api/videos HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 4\r\n\r\n"
            for _ in range(2):  # as many as wait, and as are received at once
                sockets = [socket.create_connection((host, port)) for _ in range(2)]
                for each in sockets:
                    each.sendall(head.encode() + b"film")
                wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
                for each in sockets:
                    each.close()
                wait_until(lambda: not list(tmp_path.iterdir()))
    finally:
        go_on.set()
        running.join(20)
        turns.stop(1)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: "], ids=["nothing", "a part"])
def test_a_connection_without_a_request_is_closed(
    sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "SILENT_SECONDS", 0.1)
    turns = Turns(waiting=1)
    with listening_to(turns, tmp_path) as address:
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(sent)
            assert connection.recv(1) == b""
    turns.stop(1)


def looked_at(name: str) -> LookedAt:
    return LookedAt(name, None, {}, 0.0)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.sampled_from("abcdef"))))
def test_the_videos_kept_are_those_used_last(most: int, steps: list[tuple[bool, str]]) -> None:
    kept, used = KeptVideos(most), []
    for adds, name in steps:
        known = name in used[-most:]
        if adds:
            kept.add(looked_at(name))
        else:
            assert (kept.get(name) is not None) == known
        if adds or known:
            used = [other for other in used if other != name] + [name]
        used = used[-most:]
        assert len(kept) == len(used) <= most


def test_browsers_leave_the_usual_port_out() -> None:
    assert set(host_names(80)) == {"127.0.0.1", "127.0.0.1:80", "localhost", "localhost:80"}
    assert set(host_names(8720)) == {"127.0.0.1:8720", "localhost:8720"}


def test_a_sender_that_falls_silent_loses_its_place_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.05)
    messages = [{"type": "http.request", "body": b"x" * 10, "more_body": True}]

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.sleep(60)

    async def upload() -> None:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        async with uploads.uploaded(request, tmp_path, 1000):
            pass

    with pytest.raises(HTTPException) as refused:
        asyncio.run(upload())
    assert refused.value.status_code == 408
    assert list(tmp_path.iterdir()) == []
