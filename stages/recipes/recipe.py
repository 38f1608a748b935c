"""Recipes: TOML files that hold the settings of a run, stage by stage.

[recipe]            title, benchmark, notes, published figures
[[step]]            the commands of `vqa run`, in order
[train-teacher]     settings of one command, used with `--recipe` as well
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from stages.core.errors import ConfigError, UsageError, read_text_or_explain


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe.

    Attributes:
        name: File stem.
        values: The whole TOML document.
    """

    name: str
    values: Mapping[str, Any]

    def section(self, command: str) -> dict[str, Any]:
        """Settings of one command; empty if the recipe has none for it."""
        found = self.values.get(command, {})
        if not isinstance(found, dict):
            raise ConfigError(f"recipe {self.name}: {command} is not a group of settings")
        return dict(found)

    @property
    def steps(self) -> list[list[str]]:
        """Command lines of `vqa run`, as argument lists."""
        given = self.values.get("step", [])
        if not isinstance(given, list):
            raise ConfigError(f"recipe {self.name}: step is not a list", "write [[step]]")
        return [self._command(number, step) for number, step in enumerate(given, 1)]

    def _command(self, number: int, step: Any) -> list[str]:
        command = step.get("command") if isinstance(step, dict) else None
        if not isinstance(command, list) or not command:
            raise ConfigError(
                f"recipe {self.name}, step {number}: no command",
                'as in: command = ["eval", "--benchmark", "shapes"]',
            )
        return [str(part) for part in command]

    @property
    def title(self) -> str:
        """One line that says what the recipe is for."""
        return str(self.values.get("recipe", {}).get("title", self.name))


def recipe_names() -> list[str]:
    """Names of the recipes that ship with `vqa`."""
    folder = resources.files("stages.recipes")
    return sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml"))


def load_recipe(reference: str) -> Recipe:
    """A shipped recipe by name, or any TOML file by path.

    Raises:
        UsageError: No such name.
        ConfigError: Not TOML.
    """
    if reference.endswith(".toml"):
        shipped = f"shipped recipes: {', '.join(recipe_names())}"
        text = read_text_or_explain(Path(reference), "recipe", shipped)
    elif reference in recipe_names():
        text = (resources.files("stages.recipes") / f"{reference}.toml").read_text("utf-8")
    else:
        raise UsageError(
            f"no recipe called {reference!r}", f"shipped: {', '.join(recipe_names())}; or a file"
        )
    try:
        return Recipe(Path(reference).stem, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {reference} is not TOML: {error}") from None
