"""Optional packages: one place that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from stages.core.errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise `MissingExtra` with the pip command of the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"this needs the package {module}, which is not installed ({error})",
            f"pip install 'vqa-toolkit[{extra}]'",
        ) from None
