"""Runs `vqa` command lines so that they can be killed between any two steps of a write.

    python driver.py serve                  jobs as JSON lines on stdin, outcomes on stdout
    python driver.py once LOG ARGUMENT...   one command line, its write steps appended to LOG

`serve` has imported everything once and forks for each job, so that a run costs no start-up. The
child is a process of its own. It gets a signal, SIGKILL as a rule, either from itself at the n-th
step of a write (`signal_at`) or from outside after some seconds (`kill_after`).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from stages.artifacts import atomic
from vqa_cli.main import run_command


class Steps:
    """Counts the steps of writes, notes each in a log, and sends this process a signal at one."""

    def __init__(self, log: str, signal_at: int | None, signal_number: int) -> None:
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.signal_at, self.signal_number = signal_at, signal_number
        self.passed = 0

    def __call__(self, step: str) -> None:
        self.passed += 1
        os.write(self.log, f"{os.getpid()}\t{step}\n".encode())
        if self.passed == self.signal_at:
            os.kill(os.getpid(), self.signal_number)


def import_everything() -> None:
    """What a run would import anyway; nothing here starts a thread or touches a device."""
    import pandas  # noqa: F401 - Arrow imports it and its datasets late
    import pyarrow.dataset  # noqa: F401

    import data_manifests  # noqa: F401
    import stages.evaluate
    import stages.features
    import stages.frames
    import stages.prepare
    import stages.repair  # noqa: F401


def child(job: dict[str, Any]) -> NoReturn:
    """Run the job's command line in this forked process and leave with its exit code."""
    os.setsid()
    out = os.open(job["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    err = os.open(job["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(err, 2)
    atomic.boundary = Steps(job["log"], job["signal_at"], job["signal"])
    if job["largest_file"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"],) * 2)
    code = 70
    try:
        code = run_command(job["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve_job(job: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait or kill, and say how it ended."""
    pid = os.fork()
    if pid == 0:
        child(job)
    deadline = time.monotonic() + (job.get("kill_after") or float("inf"))
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.002)
    return {"code": os.waitstatus_to_exitcode(status)}


def serve() -> None:
    import_everything()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        answers.write(json.dumps(serve_job(json.loads(line))) + "\n")


def once(log: str, arguments: list[str]) -> int:
    """One command line in this very process, with its steps logged."""
    Path(log).touch()
    atomic.boundary = Steps(log, None, signal.SIGKILL)
    return run_command(arguments)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        sys.exit(once(sys.argv[2], sys.argv[3:]))
