"""`vqa serve`: an `Asker` behind a page on this machine, until somebody stops it.

Reads: what `stages.ask` reads.   Writes: uploads, into a private folder of temporary files that is
gone when the server is. Listens on 127.0.0.1 and nowhere else.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from asyncio import BaseTransport
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from stages.core.errors import MachineError
from stages.serving.limits import Limits
from stages.serving.routes import Service, build_app
from stages.serving.turns import Turns

if TYPE_CHECKING:
    from stages.ask import Asker

HOST = "127.0.0.1"
SIGNALLED = 128
"""Exit code of what a signal ended, plus its number."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_SECONDS = 0.02
LEAVE_SECONDS = 1
"""What a request that runs is given when the server is stopped."""
IDLE_SECONDS = 5
"""After which a connection that was used is closed, if nothing more comes."""
SILENT_SECONDS = 10.0
"""After which a connection is closed that has never sent a whole request's head."""
MOST_CONNECTIONS = 100


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; port 0 is any free one.

    Raises:
        MachineError: The port is taken, or not ours to take.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise MachineError(
            f"port {port} of {HOST}: {error.strerror or error}", "--port 0 takes a free one"
        ) from None
    return listening


def serve(
    asker: Asker,
    facts: dict[str, Any],
    listening: socket.socket,
    limits: Limits,
    decoder: str,
    ready: Callable[[str], None],
    stopping: Callable[[], None],
) -> None:
    """Answer until Ctrl-C, SIGTERM or the end of the terminal; call it from the main thread.

    A second signal ends the process at once, with the exit code of that signal.

    Args:
        asker: Who answers.
        facts: What the page tells of it.
        listening: From `listen`.
        limits: What is refused.
        decoder: As in `--decoder`.
        ready: Told the address, once it answers.
        stopping: Called when it is about to end.

    Raises:
        MachineError: The server ended by itself.
    """
    port = int(listening.getsockname()[1])
    folders: list[str] = []
    # Signals first: whatever comes now, the folder is removed.
    with (
        _asked_to_stop(folders) as stop,
        tempfile.TemporaryDirectory(prefix="vqa-serve-", ignore_cleanup_errors=True) as folder,
    ):
        folders.append(folder)
        _quieten()
        turns = Turns(limits.waiting)
        service = Service(asker, facts, Path(folder), decoder, limits, turns)
        server = uvicorn.Server(configuration(build_app(service, port)))
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name="vqa-serve", daemon=True
        )
        thread.start()
        _wait_until(lambda: server.started or not thread.is_alive())
        if server.started:
            ready(f"http://{HOST}:{port}")
        _wait_until(lambda: stop.is_set() or not thread.is_alive())
        stopping()
        # Requests that are cut off now are no errors.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server.should_exit = True
        turns.stop(LEAVE_SECONDS)
        thread.join(2 * LEAVE_SECONDS)
        if not stop.is_set():
            raise MachineError("the server ended by itself", "run it again with --debug")


def configuration(app: Any) -> uvicorn.Config:
    """How requests are taken: few at once, nothing told to the log, and silent ones sent away."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=Listener,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=LEAVE_SECONDS,
    )


def _quieten() -> None:
    """What strangers send, or too many of them, is no news for the terminal but with --debug."""
    if not logging.getLogger().isEnabledFor(logging.INFO):
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)


class Listener(H11Protocol):
    """HTTP on one connection, which is closed when no request comes at all."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.loop.call_later(SILENT_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.scope is None and not self.transport.is_closing():
            self.transport.close()


@contextmanager
def _asked_to_stop(folders: list[str]) -> Iterator[threading.Event]:
    """An event that the signals set, in place of what they do otherwise.

    Args:
        folders: Removed when a second signal ends the process.
    """
    stop = threading.Event()

    def set_it(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            os._exit(SIGNALLED + number)
        stop.set()

    # Who started it so that it outlives its terminal meant that.
    heard = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, set_it) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_until(happened: Callable[[], bool]) -> None:
    """The main thread only sleeps, so that signals are taken at once."""
    while not happened():
        time.sleep(LOOK_SECONDS)
