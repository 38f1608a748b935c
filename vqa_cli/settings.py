"""Where a stage's settings come from: defaults < recipe < flags < `--set key=value`."""

from __future__ import annotations

import json
from typing import Any

from stages.core.errors import UsageError


def settings(
    command: str,
    *,
    recipe: str | None = None,
    overrides: list[str] | None = None,
    **flags: Any,
) -> dict[str, Any]:
    """Values for a stage's `Config`.

    Args:
        command: The command, whose section of the recipe is read.
        recipe: Name or path of a recipe.
        overrides: `key=value` texts; dots reach into nested settings.
        flags: The command's own options by the setting's name, dots as in `--set`; None means
            not given.
    """
    values: dict[str, Any] = {}
    if recipe is not None:
        from stages.recipes.recipe import load_recipe

        values = load_recipe(recipe).section(command)
    for name, value in flags.items():
        if value is not None:
            assign(values, name, value)
    for text in overrides or []:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UsageError(f"--set {text!r} is not of the form key=value")
        assign(values, key, parse_value(value))
    return values


def assign(values: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` under `key`; dots reach into nested settings."""
    *parents, last = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UsageError(f"{key}: {parent} is a single value, not a group")
        values = child
    values[last] = value


def parse_value(value: str) -> Any:
    """A JSON value where it reads as one (numbers, true, null, lists), else the text itself."""
    try:
        return json.loads(value)
    except ValueError:
        return value
