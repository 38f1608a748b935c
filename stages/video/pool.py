"""A pool of decode workers: separate processes that may hang, crash or leak without harm.

Native decoders hang on some damaged files with the interpreter's lock held, so nothing less than
killing a process stops them. Results come back in the order of the tasks, whatever the number of
workers, and reading ahead is bounded, so a slow consumer slows the workers down.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self, TypeVar, cast, overload

from stages.core.errors import MachineError, UsageError
from stages.video import resolve_decoder
from stages.video.tasks import (
    Decoded,
    DecodeFailure,
    DecodeTask,
    Probed,
    ProbeTask,
    Reason,
    Result,
    Task,
)
from stages.video.worker import BASE_SECONDS, receive_result

_READ_AHEAD_PER_WORKER = 2
_START_SECONDS = 60.0
_START = (
    "import sys; sys.path[:] = {path!r}; "
    "from stages.video.worker import serve; serve({connection}, {life})"
)
AnyTask = TypeVar("AnyTask", ProbeTask, DecodeTask)


class DecodePool:
    """`workers` decode processes behind one iterator.

    Use as a context manager; leaving it kills the workers. They also end by themselves when this
    process does, however it ends.

    Args:
        workers: Number of processes; they start when first needed.
        decoder: `auto`, `decord` or `pyav`. A video on which decord hangs or crashes is tried once
            more with PyAV.
        deadline_seconds: Per task; None is 60 s, and once the video is probed 60 s and twice its
            duration from there.

    Raises:
        UsageError: fewer than one worker or an unknown decoder.
    """

    def __init__(
        self, workers: int, decoder: str = "auto", deadline_seconds: float | None = None
    ) -> None:
        if workers < 1:
            raise UsageError(f"at least one decode worker is needed, not {workers}")
        self._decoder = resolve_decoder(decoder)
        self._deadline = deadline_seconds
        self._read_ahead = workers * _READ_AHEAD_PER_WORKER
        self._slots: list[_Worker | None] = [None] * workers
        self._in_use = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all workers. The pool can be used again; new ones start."""
        for number, worker in enumerate(self._slots):
            if worker is not None:
                worker.kill()
                self._slots[number] = None

    @overload
    def imap(self, tasks: Iterable[ProbeTask]) -> Iterator[Probed | DecodeFailure]: ...
    @overload
    def imap(self, tasks: Iterable[DecodeTask]) -> Iterator[Decoded | DecodeFailure]: ...
    def imap(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """One result per task, in the order of `tasks`, which are taken only as needed.

        At most two tasks per worker are taken ahead of the result being waited for. One call at a
        time.

        Raises:
            MachineError: a worker process cannot be started.
        """
        if self._in_use:
            raise UsageError("the decode pool is already working through another list of tasks")
        self._in_use = True
        try:
            yield from self._in_order(iter(tasks))
        finally:
            self._in_use = False
            self._drop_busy()

    def _in_order(self, tasks: Iterator[Task]) -> Iterator[Result]:
        done: dict[int, Result] = {}
        issued = delivered = 0
        exhausted = False
        while True:
            while not exhausted and issued - delivered < self._read_ahead:
                slot = self._idle_slot()
                if slot is None:
                    break
                task = next(tasks, None)
                if task is None:
                    exhausted = True
                    break
                self._dispatch(slot, _Job(issued, task, self._decoder))
                issued += 1
            if delivered in done:
                yield done.pop(delivered)
                delivered += 1
            elif delivered < issued:
                self._collect(done)
            elif exhausted:
                return

    def _idle_slot(self) -> int | None:
        for number, worker in enumerate(self._slots):
            if worker is None or worker.job is None:
                return number
        return None

    def _dispatch(self, slot: int, job: _Job) -> None:
        worker = self._slots[slot]
        if worker is not None and not worker.alive():
            worker.kill()
            worker = None
        if worker is None:
            worker = self._slots[slot] = _Worker()
        worker.give(job, self._deadline)

    def _collect(self, done: dict[int, Result]) -> None:
        """Wait until something happens to a busy worker, and take what is there."""
        busy = {w.connection: n for n, w in enumerate(self._slots) if w is not None and w.job}
        workers = [cast(_Worker, self._slots[number]) for number in busy.values()]
        patience = min(worker.expires for worker in workers) - time.monotonic()
        ready = wait(list(busy), timeout=max(patience, 0.0))
        for connection in ready:
            self._take(busy[cast(Connection, connection)], done)
        now = time.monotonic()
        for number in busy.values():
            worker = self._slots[number]
            # A result that waits to be read is in time, however late this process looks.
            overdue = worker is not None and worker.job is not None and now > worker.expires
            if worker is not None and overdue and not worker.connection.poll(0):
                self._lose(number, "deadline", done)

    def _take(self, slot: int, done: dict[int, Result]) -> None:
        worker = cast(_Worker, self._slots[slot])
        try:
            result = worker.receive(self._deadline)
        except (EOFError, OSError):
            self._lose(slot, "crashed", done)
            return
        if result is not None:
            job = cast(_Job, worker.job)
            worker.job = None
            done[job.number] = result

    def _lose(self, slot: int, reason: Reason, done: dict[int, Result]) -> None:
        """Kill the worker in `slot`; its task is tried with PyAV once, or becomes a failure."""
        worker = cast(_Worker, self._slots[slot])
        job = cast(_Job, worker.job)
        self._slots[slot] = None
        words = worker.kill(patience=1.0 if reason == "crashed" else 0.0)
        if not worker.ready:
            raise MachineError(f"a decode worker could not be started: {words}")
        if job.decoder != "pyav":
            self._dispatch(slot, _Job(job.number, job.task, "pyav"))
            return
        if reason == "deadline":
            words = f"no result after {worker.allowed:g} s, the decode process was killed"
        task = job.task
        done[job.number] = DecodeFailure(task.key, task.path, reason, f"{task.path}: {words}")

    def _drop_busy(self) -> None:
        """Kill workers whose result nobody will take any more."""
        for number, worker in enumerate(self._slots):
            if worker is not None and worker.job is not None:
                worker.kill()
                self._slots[number] = None


@dataclass(frozen=True)
class _Job:
    number: int
    task: Task
    decoder: str


class _Worker:
    """One worker process and the wires to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        life_read, self._life = os.pipe()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        code = _START.format(path=sys.path, connection=theirs.fileno(), life=life_read)
        try:
            # A process group of its own: Ctrl-C at the terminal is the parent's business.
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=(theirs.fileno(), life_read),
                process_group=0,
            )
        except OSError as error:
            ours.close()
            os.close(self._life)
            self._stderr.close()
            raise MachineError(f"a decode worker could not be started: {error}") from None
        finally:
            theirs.close()
            os.close(life_read)
        self.connection = Connection(ours.detach())
        self.ready = False
        self.job: _Job | None = None
        self.allowed = self.expires = 0.0

    def alive(self) -> bool:
        return self._process.poll() is None

    def give(self, job: _Job, deadline: float | None) -> None:
        """Send a task; a worker found dead now is noticed when its answer is awaited."""
        self.job = job
        self._allow(BASE_SECONDS if deadline is None else deadline)
        if not self.ready:
            self.expires += _START_SECONDS
        try:
            self.connection.send((job.task, job.decoder))
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self, deadline: float | None) -> Result | None:
        """The result, or None after a message about the deadline."""
        message = self.connection.recv()
        if message == "ready":
            self.ready = True
            if deadline is not None:
                self._allow(deadline)
            return None
        word, value = message
        if word == "result":
            return receive_result(self.connection, value)
        if deadline is None:
            self._allow(value)
        return None

    def kill(self, patience: float = 0.0) -> str:
        """End the process, given `patience` seconds to end by itself; how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._process.kill()
        self.connection.close()
        status = self._process.wait()
        os.close(self._life)
        with self._stderr as heard:
            heard.seek(max(heard.seek(0, os.SEEK_END) - 4000, 0))
            lines = heard.read().decode("utf-8", "replace").strip().splitlines()
        ending = f"the decode process ended with status {status}"
        return f"{ending}: {lines[-1]}" if lines else ending

    def _allow(self, seconds: float) -> None:
        self.allowed = seconds
        self.expires = time.monotonic() + seconds
