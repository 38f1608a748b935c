"""Videos: what they are (`probe`), which frames (`sampling`), their pixels (decoders, `pool`).

Decoders are named here and imported only when one is asked for, inside a worker process.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from stages.core.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from stages.video.frames import Decoder

DECODERS = {
    "decord": "stages.video.decord:DecordDecoder",
    "pyav": "stages.video.pyav:PyAvDecoder",
}


def resolve_decoder(name: str = "auto") -> str:
    """The decoder's name that `auto` stands for on this machine; other names are checked.

    `auto` is decord on x86-64 Linux where it is installed, and PyAV elsewhere.

    Raises:
        UsageError: no such decoder.
        MissingExtra: decord is asked for by name and is not installed.
    """
    if name == "auto":
        return "decord" if _decord_fits() else "pyav"
    if name not in DECODERS:
        raise UsageError(
            f"unknown decoder {name!r}", f"choose one of: auto, {', '.join(sorted(DECODERS))}"
        )
    if name == "decord" and importlib.util.find_spec("decord") is None:
        raise MissingExtra(
            "the decoder decord is not installed", "pip install decord, or use --decoder pyav"
        )
    return name


def load_decoder(name: str = "auto") -> Decoder:
    """The decoder called `name`; see `resolve_decoder`."""
    module, _, attribute = DECODERS[resolve_decoder(name)].partition(":")
    decoder: Decoder = getattr(importlib.import_module(module), attribute)()
    return decoder


def decoder_identity(name: str = "auto") -> dict[str, str]:
    """Decoder and versions for fingerprints. decord may fall back to PyAV, so both count."""
    resolved = resolve_decoder(name)
    identity = {"decoder": resolved, "av": version("av")}
    if resolved == "decord":
        identity["decord"] = version("decord")
    return identity


def _decord_fits() -> bool:
    return (
        sys.platform == "linux"
        and platform.machine() in ("x86_64", "AMD64")
        and importlib.util.find_spec("decord") is not None
    )
