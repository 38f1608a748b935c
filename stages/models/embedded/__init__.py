"""The backbones that ship with the package, as Hugging Face folders beside this file.

Each folder's README.md is its model card: data, steps, accuracy and the command that made it.
"""

from __future__ import annotations

from pathlib import Path

from stages.core.errors import UsageError

EMBEDDED = ("tiny", "tiny-blip2", "tiny-clip")


def embedded_folder(name: str) -> Path:
    """The folder of an embedded backbone.

    Raises:
        UsageError: `name` is not one of `EMBEDDED`.
    """
    if name not in EMBEDDED:
        raise UsageError(
            f"no embedded backbone is called {name!r}", f"choose one of {', '.join(EMBEDDED)}"
        )
    return Path(__file__).parent / name
