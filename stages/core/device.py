"""Devices and dtypes by name: the only place that asks what the machine has."""

from __future__ import annotations

import torch

from stages.core.errors import MachineError, UsageError

KINDS = ("cpu", "cuda", "mps")
"""Device types that `vqa` runs on; torch knows more names (`meta`, `xla`) that compute nothing
here."""

KNOWN = "known: auto, cpu, cuda, cuda:1, mps"


def torch_version() -> str:
    """Torch's major and minor version, the part of it that a compute shape names."""
    return ".".join(torch.__version__.split(".")[:2])


def resolve_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first accelerator, else the CPU.

    Raises:
        MachineError: The machine has no such device.
        UsageError: Not a device name.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name!r}: {error}", KNOWN) from None
    if device.type not in KINDS:
        raise UsageError(f"--device {name!r}: not a device to run on", KNOWN)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices",
            "use --device cpu, or run where there is one",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise MachineError(f"--device {name}: not available here", "use --device cpu")
    return device
