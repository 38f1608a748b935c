"""What another machine must see and be before it may build shards of an artifact of ours.

Bytes must not depend on who builds: the same workspace under the same path, the same videos, the
same versions of what decides bytes, the same number of threads in torch's kernels.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages.artifacts import atomic
from stages.artifacts.shards import ShardedDraft
from stages.artifacts.store import MANIFEST, library_versions
from stages.core.errors import MachineError
from stages.engines.work import ShardWork

TRIES = 4
"""How often a shard may take down the process that builds it."""
WATCH_SECONDS = 1.0
"""Between two looks whether the run is over."""


@dataclass(frozen=True)
class Ticket:
    """What a process elsewhere is sent, so that it does what this one would have done.

    Attributes:
        sharded: Where shards are claimed and committed.
        folders: Folders besides the workspace that must be there.
        cwd: This process's directory, in which relative paths mean something.
        sign: A file of this run in the workspace.
        token: What stands in it.
        versions: Of the packages that decide bytes.
        threads: Of torch; none: it is not used.
    """

    sharded: ShardedDraft
    folders: tuple[Path, ...]
    cwd: Path
    sign: Path
    token: str
    versions: dict[str, str]
    threads: int | None

    def enter(self) -> None:
        """Make this process one that may build; call it once, before any path is used.

        Raises:
            MachineError: The same work would not be the same here.
        """
        if not self.cwd.is_dir():
            raise _unseen(self.cwd)
        os.chdir(self.cwd)
        inputs = self.sharded.draft.request.inputs.values()
        for path in [item.path / MANIFEST for item in inputs] + [*self.folders, self.sign]:
            if not path.exists():
                raise _unseen(path.absolute())
        if self.sign.read_text(encoding="utf-8") != self.token:
            raise _unseen(self.sign.absolute())
        self._refuse_other_versions(library_versions())
        torch = sys.modules.get("torch")  # where the work needs it, it has come with the work
        if torch is not None and self.threads is not None:
            torch.set_num_threads(self.threads)

    def end_with_run(self) -> None:
        """End this process once the run is over, whatever it is doing then.

        An actor that hangs would otherwise keep its shard from those that come after it.
        """
        threading.Thread(target=self._wait_for_end, daemon=True).start()

    def _wait_for_end(self) -> None:
        while self.sign.exists():
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    @contextmanager
    def attempt(self, shard: int, doing: str) -> Iterator[None]:
        """Count the tries of a shard that take their process down with them.

        Raises:
            MachineError: This one would be one too many.
        """
        tries = self.sign.with_suffix(f".{doing}-{shard:05d}")
        with tries.open("ab") as file:
            if file.tell() >= TRIES:
                raise MachineError(
                    f"{TRIES} processes in a row have died of this shard, of memory or of a crash",
                    "finished shards are kept: run the same command again where there is more "
                    "memory, or without --engine to see the shard fail here",
                )
            file.write(b".")
        try:
            yield
        finally:
            tries.unlink(missing_ok=True)

    def _refuse_other_versions(self, here: dict[str, str]) -> None:
        names = sorted(self.versions.keys() | here.keys())
        differ = [
            f"{name} {here.get(name, 'is missing')} instead of {self.versions.get(name, 'none')}"
            for name in names
            if here.get(name) != self.versions.get(name)
        ]
        if differ:
            raise MachineError(
                f"other versions than where the run was started: {', '.join(differ)}",
                "install the same versions on all machines: they decide bytes",
            )


def _unseen(path: Path) -> MachineError:
    return MachineError(
        f"{path} is not what it is where the run was started",
        "put workspace and videos on a file system that all machines share, under one path",
    )


@contextmanager
def ticket_for(work: ShardWork) -> Iterator[Ticket]:
    """The ticket of one run or pass; its sign lies in the workspace as long as that lasts."""
    token = uuid.uuid4().hex
    sign = work.sharded.draft.lock_path(f"run-{token[:8]}").with_suffix(".json")
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else None
    atomic.make_directory(sign.parent)
    atomic.write_text(sign, token)
    try:
        versions = library_versions()
        yield Ticket(work.sharded, work.folders, Path.cwd(), sign, token, versions, threads)
    finally:
        for path in sign.parent.glob(f"{sign.stem}.*"):
            path.unlink(missing_ok=True)
