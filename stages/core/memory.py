"""What memory a stage will want at its peak, against what the machine has."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import MachineError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MEMORY_FACTS = Path("/proc/meminfo")
LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where Linux says how much a container may use."""


@dataclass(frozen=True)
class Peak:
    """The most memory that a stage takes, estimated.

    Attributes:
        host_bytes: This process.
        worker_bytes: All its decode processes together.
        device_bytes: On the accelerator; 0 where the CPU computes.
        least_bytes: What of it no smaller batch saves, where the networks are: their weights.
    """

    host_bytes: int
    worker_bytes: int = 0
    device_bytes: int = 0
    least_bytes: int = 0

    def as_json(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)


def largest(peaks: Sequence[Peak]) -> Peak:
    """What is enough for each of several; at least one."""
    return Peak(
        max(peak.host_bytes for peak in peaks),
        max(peak.worker_bytes for peak in peaks),
        max(peak.device_bytes for peak in peaks),
        max(peak.least_bytes for peak in peaks),
    )


def require_room(peak: Peak, device: torch.device | None = None) -> None:
    """Warn where the estimate is more than is free; refuse where the networks alone cannot fit.

    Args:
        peak: What the stage will take.
        device: Where it computes; none: it needs no tensors.

    Raises:
        MachineError: They are larger than the memory that they are to lie in.
    """
    host, workers = peak.host_bytes, peak.worker_bytes
    free, total = host_free_bytes(), host_total_bytes()
    if device is not None and device.type == "cuda":
        import torch  # stages that only decode do without

        there, whole = torch.cuda.mem_get_info(device)
        _refuse(peak.least_bytes, whole, f"the networks on {device}")
        if peak.device_bytes > there:
            log.warning(
                "about %s of %s will be wanted and %s are free: batches may have to be halved",
                _size(peak.device_bytes), device, _size(there),
            )  # fmt: skip
    else:
        _refuse(peak.least_bytes, total, "the networks")
    if host + workers > free:
        log.warning(
            "about %s of memory will be wanted and %s are free: fewer --workers, or a smaller "
            "batch or videos_per_shard by --set, take less",
            _size(host + workers), _size(free),
        )  # fmt: skip


def _refuse(needed: int, total: int, what: str) -> None:
    if needed > total:
        raise MachineError(
            f"{what} alone take {_size(needed)}, and there are {_size(total)} in all",
            "a smaller --backbone, half precision (--set precision=..., training.precision=...), "
            "or a larger machine",
        )


def host_total_bytes() -> int:
    """Memory that this process may use: the machine's, or its container's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_limits()])


def host_free_bytes() -> int:
    """Memory that is there for the taking; where the system does not say, all of it."""
    total = host_total_bytes()
    if not MEMORY_FACTS.exists():
        return total
    for line in MEMORY_FACTS.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(total, int(line.split()[1]) * 1024)
    return total


def _limits() -> list[int]:
    found = [path.read_text().strip() for path in LIMITS if path.exists()]
    return [int(text) for text in found if text.isdigit()]


def _size(value: int) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e8 else f"{value / 1e6:,.1f} MB"
