"""One computation at a time, in a thread of its own, while the server goes on answering.

A model is not safe to be asked from several threads, and on few cores two computations at once
take longer than one after the other.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from stages.core.errors import MachineError

Value = TypeVar("Value")
STOPPING = "the server is stopping"


class Turns:
    """A thread that does one job after the other.

    Args:
        waiting: How many jobs may wait.
    """

    def __init__(self, waiting: int) -> None:
        self._most = waiting
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        # A daemon: a computation that takes long does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="vqa-serve-turns", daemon=True)
        self._thread.start()

    async def do(self, job: Callable[[], Value]) -> Value:
        """What `job` returns or raises, when its turn has come.

        Who is cancelled while waiting frees the place at once; a job that runs goes on to its end.

        Raises:
            MachineError: Too many wait already, or it is stopped.
        """
        outcome: Future[Value] = Future()
        entry = (job, outcome)
        with self._changed:
            if self._stopped:
                raise MachineError(STOPPING)
            if len(self._jobs) >= self._most:
                raise MachineError("too many others wait for an answer", "in a moment")
            self._jobs.append(entry)
            self._changed.notify()
        try:
            return await asyncio.wrap_future(outcome)
        finally:
            with self._changed:
                if entry in self._jobs:
                    self._jobs.remove(entry)

    def stop(self, seconds: float) -> None:
        """Drop what waits, and give what runs `seconds` to end."""
        with self._changed:
            self._stopped = True
            dropped = list(self._jobs)
            self._jobs.clear()
            self._changed.notify()
        for _, outcome in dropped:
            if outcome.set_running_or_notify_cancel():  # not of somebody who has just left
                outcome.set_exception(MachineError(STOPPING))
        self._thread.join(seconds)

    def _next(self) -> tuple[Callable[[], Any], Future[Any]] | None:
        """The job whose turn it is; none: stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._stopped)
            return self._jobs.popleft() if self._jobs else None

    def _work(self) -> None:
        while (job := self._next()) is not None:
            do, outcome = job
            if not outcome.set_running_or_notify_cancel():
                continue
            try:
                outcome.set_result(do())
            except Exception as error:  # handed to whoever asked, as it is
                outcome.set_exception(error)
