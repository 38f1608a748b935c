"""Training curves as TensorBoard events: an extra, beside `metrics.jsonl`, never in an artifact.

Writes: event files below the folder that is given. They hold times and host names, so they stay
out of the artifact's directory and of every fingerprint.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stages.core.optional import require


class EventLog:
    """Lines of the metrics as scalars over forward passes.

    Args:
        folder: Where the event files go.
        first: Forward passes that are kept of an interrupted run; later events are hidden.

    Raises:
        MissingExtra: The extra `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, first: int = 0) -> None:
        require("tensorboard", "tensorboard")
        module = require("torch.utils.tensorboard", "tensorboard")
        self._writer: Any = module.SummaryWriter(str(folder), purge_step=first + 1)

    def __call__(self, line: dict[str, Any]) -> None:
        """Write the numbers of one line of the metrics."""
        for name, value in line.items():
            if name not in ("pass", "seconds") and isinstance(value, int | float):
                self._writer.add_scalar(name, value, line["pass"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
