"""The decode worker's process: one task at a time, one thread, killable at any moment.

Started by `stages.video.pool` as a fresh interpreter that imports neither torch nor the caller's
main module. It writes nothing but its answers to the pipe it was given.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from stages.video.probe import VideoInfo
from stages.video.tasks import Result, run_task

BASE_SECONDS = 60.0
SECONDS_PER_VIDEO_SECOND = 2.0
# A damaged header may declare years. Frames are real: no video shows less than one in 5 s for long.
_MOST_SECONDS_PER_FRAME = 5.0
# Kills a worker stuck in native code whose parent is gone; the parent itself is always earlier.
_ORPHAN_SECONDS = 300


def allowance(info: VideoInfo) -> float:
    """Seconds one video may take once it is probed: 60 s and twice its duration."""
    duration = min(info.duration, info.num_frames * _MOST_SECONDS_PER_FRAME)
    return BASE_SECONDS + SECONDS_PER_VIDEO_SECOND * max(duration, 0.0)


def serve(connection_fd: int, life_fd: int) -> None:
    """Answer tasks from `connection_fd` until it closes, or the parent behind `life_fd` is gone."""
    _prepare_process(life_fd)
    with Connection(connection_fd) as connection:
        connection.send("ready")
        while True:
            try:
                task, decoder = connection.recv()
            except EOFError:
                return
            signal.alarm(_ORPHAN_SECONDS)
            result = run_task(task, decoder, lambda info: _tell(connection, info))
            signal.alarm(0)
            send_result(connection, result)


def send_result(connection: Connection, result: Result) -> None:
    """Send `result`, its arrays as raw bytes after it instead of inside the pickle."""
    buffers: list[pickle.PickleBuffer] = []
    payload = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    connection.send(("result", [view.nbytes for view in raw]))
    connection.send_bytes(payload)
    for view in raw:
        if view.nbytes:
            connection.send_bytes(view)


def receive_result(connection: Connection, sizes: list[int]) -> Result:
    """The other end of `send_result`, after its first message."""
    payload = connection.recv_bytes()
    buffers: list[Any] = [bytearray(size) for size in sizes]
    for buffer in buffers:
        if buffer:
            connection.recv_bytes_into(buffer)
    result: Result = pickle.loads(payload, buffers=buffers)
    return result


def _tell(connection: Connection, info: VideoInfo) -> None:
    seconds = allowance(info)
    signal.alarm(int(seconds) + _ORPHAN_SECONDS)
    connection.send(("allowance", seconds))


def _prepare_process(life_fd: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _no_core_dumps()
    threading.Thread(target=_die_with_parent, args=(life_fd,), daemon=True).start()


def _no_core_dumps() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _die_with_parent(life_fd: int) -> None:
    # Nobody writes to this pipe: reading ends only when its other end closes with the parent.
    os.read(life_fd, 1)
    os._exit(0)
