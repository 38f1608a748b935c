"""What a recipe would take on several machines: time, limit and cost of each step, from rates.

A step's work is counted once (`StepWork`) and laid against what the machines can do at once
(`Machines`, `Rates`): decoding against cores, networks against accelerators, bytes against the
shared storage and against the nodes' links. These overlap, so the slowest of them is the time; it
is named as the limit. Inference-type steps are cut into shards, and a shard has one process at a
time: more processes than shards change nothing, and the last wave may not fill them. Training is
shared by DDP: the processes are the largest number that divides the batch, and each doubling of
them gains less than twice.

Nothing is measured here; `probe` does that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stages.core.errors import UsageError


@dataclass(frozen=True)
class Machines:
    """What is there to work on.

    Attributes:
        nodes: Machines alike.
        gpus: Accelerators of each; 0: processes compute on the cores, one process a node.
        cores: CPU cores of each.
        price: Of an accelerator, or of a node without one, for an hour; none: not said.
    """

    nodes: int = 1
    gpus: int = 1
    cores: int = 16
    price: float | None = None

    def __post_init__(self) -> None:
        least = {"nodes": 1, "gpus": 0, "cores": 1}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise UsageError(f"--{name} {getattr(self, name)}: at least {minimum}")
        price = self.price
        if price is not None and not (math.isfinite(price) and price >= 0):
            raise UsageError(f"--price {price}: an amount of money for an hour")

    @property
    def processes(self) -> int:
        """Processes that compute at once."""
        return self.nodes * max(self.gpus, 1)

    def cost(self, seconds: float) -> float | None:
        """All of them for that long."""
        return None if self.price is None else self.price * self.processes * seconds / 3600


@dataclass(frozen=True)
class Rates:
    """What one of each can do.

    Attributes:
        operations: Floating-point operations a second of one process in networks.
        storage: Bytes a second that the shared storage reads or writes, for all nodes together.
        link: Bytes a second between a node and the storage.
        decode: Seconds of one core for a clip, however many frames: opening, seeking.
        decode_frame: Seconds of one core for each frame of it.
        startup: Seconds until a process has imported and loaded what it needs.
        doubling: What twice the processes gain in training.
    """

    operations: float
    storage: float = 2e9
    link: float = 1.25e9
    decode: float = 0.42
    decode_frame: float = 0.0077
    startup: float = 30.0
    doubling: float = 1.9


@dataclass(frozen=True)
class StepWork:
    """What one step has to do, wherever it is done.

    Attributes:
        operations: In networks.
        clips: That are decoded.
        frames: That are decoded, of all clips.
        reads: Bytes read from the storage, over all epochs.
        writes: Bytes written.
        shards: Into which an inference-type step is cut; 0: it trains.
        batch: Questions of a forward pass over all processes, in training.
    """

    operations: float = 0
    clips: int = 0
    frames: int = 0
    reads: float = 0
    writes: float = 0
    shards: int = 1
    batch: int = 1

    @property
    def trains(self) -> bool:
        """Whether its processes share every batch instead of taking shards."""
        return self.shards == 0

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.operations or self.clips or self.reads or self.writes)


@dataclass(frozen=True)
class StepTime:
    """What one step takes on some machines.

    Attributes:
        seconds: In all, with the start.
        limit: What it waits for: decode, compute, disk, network or start.
        processes: That have something to do.
        parts: Seconds that each of decode, compute, disk and network would take alone.
        cost: Of all machines meanwhile; none: no price was given.
        decode_cores_per_process: Cores that decode as fast as one process computes; none: nothing
            is decoded or nothing computed.
    """

    seconds: float
    limit: str
    processes: int
    parts: dict[str, float]
    cost: float | None
    decode_cores_per_process: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def step_time(work: StepWork, machines: Machines, rates: Rates) -> StepTime:
    """One step on these machines."""
    if work.is_nothing:
        return StepTime(0.0, "nothing", 0, {}, machines.cost(0), None)
    processes, gain = _training(work, machines, rates) if work.trains else _waves(work, machines)
    parts = {
        "decode": _decoding(work, rates) / _cores(work, machines, gain),
        "compute": work.operations / rates.operations / gain,
        "disk": (work.reads + work.writes) / rates.storage,
        "network": (work.reads + work.writes) / (rates.link * machines.nodes),
    }
    limit = max(parts, key=lambda name: parts[name])
    seconds = parts[limit] + rates.startup
    named = limit if parts[limit] >= rates.startup else "start"
    return StepTime(
        round(seconds, 3),
        named,
        processes,
        {name: round(value, 3) for name, value in parts.items()},
        machines.cost(seconds),
        _balance(work, rates),
    )


def _waves(work: StepWork, machines: Machines) -> tuple[int, float]:
    """Processes with a shard, and how many times faster than one they are."""
    waves = math.ceil(work.shards / machines.processes)
    return min(machines.processes, work.shards), work.shards / waves


def _training(work: StepWork, machines: Machines, rates: Rates) -> tuple[int, float]:
    """The same where every batch is shared."""
    most = min(machines.processes, work.batch)
    processes = max(count for count in range(1, most + 1) if work.batch % count == 0)
    return processes, rates.doubling ** math.log2(processes)


def _decoding(work: StepWork, rates: Rates) -> float:
    """Seconds of one core."""
    return work.clips * rates.decode + work.frames * rates.decode_frame


def _cores(work: StepWork, machines: Machines, gain: float) -> float:
    """Cores that decode: those of the processes that have a shard."""
    return gain * machines.cores * machines.nodes / machines.processes


def _balance(work: StepWork, rates: Rates) -> float | None:
    if not (work.clips and work.operations):
        return None
    return round(_decoding(work, rates) * rates.operations / work.operations, 2)


def whole_time(times: Sequence[StepTime]) -> dict[str, Any]:
    """The steps one after the other."""
    costs = [one.cost for one in times]
    known = [cost for cost in costs if cost is not None]
    return {
        "seconds": round(sum(one.seconds for one in times), 3),
        "cost": round(sum(known), 2) if len(known) == len(costs) else None,
    }
