"""Clocks, memory and the head of every record: what was measured, where, when, by which command."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

from stages.core.device import resolve_device

Found = TypeVar("Found")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
PRODUCT_SIDE = {"cuda": 8192, "mps": 4096, "cpu": 1024}
"""Side of the square product whose rate stands for what the device can do."""


@dataclass(frozen=True)
class Clock:
    """Seconds of a call on a device.

    Accelerators are timed between two events on their stream. On a CPU it is the process's own
    time on one thread, so that other processes on the machine do not count.
    """

    device: torch.device

    @property
    def name(self) -> str:
        """What is read: `events`, `wall` or `process`."""
        return {"cuda": "events", "cpu": "process"}.get(self.device.type, "wall")

    def __call__(self, call: Callable[[], Found]) -> tuple[float, Found]:
        """Seconds, and what came out."""
        if self.device.type == "cuda":
            return self._by_events(call)
        read = time.process_time if self.device.type == "cpu" else time.perf_counter
        began = read()
        found = call()
        if self.device.type == "mps":
            torch.mps.synchronize()
        return read() - began, found

    def _by_events(self, call: Callable[[], Found]) -> tuple[float, Found]:
        start: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(self.device)
        start.record()
        found = call()
        end.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end) / 1000, found


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU: one thread, as the clock needs it; nothing elsewhere."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rounds_of(
    ways: Mapping[str, Callable[[], Any]], clock: Clock, rounds: int
) -> dict[str, list[float]]:
    """Seconds of every way in every round; the order turns, so that a slow moment meets all."""
    names = list(ways)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(clock(ways[name])[0])
    return found


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster, median over rounds of the ratio within a round."""
    return statistics.median(one / other for one, other in zip(slow, fast, strict=True))


def product_rate(device: torch.device, precision: str, seconds: float = 1.0) -> float:
    """Operations per second of a large square matrix product: the best of repeats in `seconds`.

    What useful operations of a network are held against, measured in the same run.
    """
    side = PRODUCT_SIDE[device.type]
    left, right = (
        torch.randn(side, side, device=device).to(getattr(torch, precision)) for _ in range(2)
    )
    clock = Clock(device)
    clock(lambda: left @ right)  # the first one chooses its algorithm
    best, spent = float("inf"), 0.0
    while spent < seconds:
        took = clock(lambda: left @ right)[0]
        best, spent = min(best, took), spent + took
    return 2 * side**3 / best


# --- memory --------------------------------------------------------------------------------------


def reset_peak(device: torch.device) -> None:
    """From here on `peak_bytes` counts anew; on a CPU where the kernel allows it (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK)


def peak_bytes(device: torch.device) -> int:
    """Most memory in use since `reset_peak`: the accelerator's, or this process's resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():
        return _status_bytes("VmHWM")
    kilo = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo


def resident_bytes() -> int:
    """This process's resident set now; 0 where the machine does not say."""
    return _status_bytes("VmRSS") if _STATUS.exists() else 0


def _status_bytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def machine_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- the record ----------------------------------------------------------------------------------


def head(
    name: str, device: str, command: str, *, clock: str | None = None, **facts: Any
) -> dict[str, Any]:
    """How every record begins: date, machine, command, versions.

    Args:
        name: What is measured.
        device: As the user gave it.
        command: The command line.
        clock: What was read; none: what `Clock` reads on the device.
        facts: What else decides the figures.
    """
    found = resolve_device(device)
    accelerator = torch.cuda.get_device_name(found) if found.type == "cuda" else None
    return {
        "bench": name,
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "device": accelerator or found.type,
        "clock": clock or Clock(found).name,
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor_name(),
            "cores": os.cpu_count(),
            "memory_bytes": machine_bytes(),
            "load_average": [round(value, 2) for value in os.getloadavg()[:2]],
        },
        "versions": {
            "python": ".".join(map(str, sys.version_info[:3])),
            **{name: version(name) for name in ("torch", "transformers", "h5py", "av")},
        },
        **facts,
    }


def processor_name() -> str:
    """The processor's own name, or its architecture."""
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def rounded(seconds: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Seconds of all rounds, for the record."""
    return {name: [round(value, 5) for value in values] for name, values in seconds.items()}
