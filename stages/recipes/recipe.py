"""Recipes: TOML files that hold the settings of a run, stage by stage.

[recipe]            title, benchmark, seeds, what is unknown of the published runs
[recipe.sources]    where each setting comes from, by its full name
[[recipe.published]]    a row of a paper, and the number of the step that measures it
[[step]]            the commands of `vqa run`, in order; neighbours in which `{seed}` stands are
                    run together once for each of the recipe's seeds
[train-teacher]     settings of one command, used with `--recipe` as well
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import groupby, product
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.core.config import Config
from stages.core.errors import ConfigError, UsageError, read_text_or_explain

SEED = "{seed}"
SHORT = {"-a": "--annotations", "-b": "--benchmark", "-w": "--workspace"}
"""Short forms of the options that decide what a step reads and writes."""


class Published(Config):
    """A printed row that a recipe is about."""

    paper: str
    """Name of the paper, as in `data_manifests/published`."""
    table: str
    """Number of its table."""
    system: str
    """The row's name there."""
    frames: str = ""
    """Its frames as printed."""
    setting: str | None = None
    """Tells rows of one name apart: fine-tuned, zero-shot."""
    step: int = Field(ge=1)
    """Number of the step whose metrics stand beside it."""
    figures: dict[str, float]
    """Printed figures by `split/category`; a metric other than accuracy is named behind it."""
    note: str = ""
    """What to know before comparing."""


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
        commands = [self._command(number, step) for number, step in enumerate(given, 1)]
        return [
            [part.replace(SEED, str(seed)) for part in command]
            for seeded, group in groupby(
                commands, lambda parts: any(SEED in part for part in parts)
            )
            for seed, command in product(self.seeds if seeded else (None,), list(group))
        ]

    @property
    def seeds(self) -> list[int]:
        """What `{seed}` stands for in turn."""
        given = self._about("seeds", list)
        if given is None:
            return [1]
        if not given or not all(type(n) is int for n in given):
            raise ConfigError(
                f"recipe {self.name}: seeds is not a list of whole numbers", "as in: seeds = [1, 2]"
            )
        return list(given)

    def _command(self, number: int, step: Any) -> list[str]:
        command = step.get("command") if isinstance(step, dict) else None
        if not isinstance(command, list) or not command:
            raise ConfigError(
                f"recipe {self.name}, step {number}: no command",
                'as in: command = ["eval", "--benchmark", "shapes"]',
            )
        return [text for part in command for text in _option_parts(str(part))]

    @property
    def title(self) -> str:
        """One line that says what the recipe is for."""
        return str(self._about("title", str) or self.name)

    @property
    def benchmark(self) -> str | None:
        """The benchmark that all steps are about, where it is said."""
        found: str | None = self._about("benchmark", str)
        return found

    @property
    def unknown(self) -> list[str]:
        """What no source says of the published runs."""
        return [str(text) for text in self._about("unknown", list) or []]

    @property
    def sources(self) -> dict[str, str]:
        """Full name of a setting -> where its value comes from."""
        return {str(name): str(text) for name, text in (self._about("sources", dict) or {}).items()}

    @property
    def published(self) -> list[Published]:
        """The printed rows."""
        rows = self._about("published", list) or []
        return [
            Published.build(row, f"recipe {self.name}, published {number}")
            for number, row in enumerate(rows, 1)
        ]

    def _about(self, name: str, kind: type) -> Any:
        """What `[recipe]` says, or None."""
        found = self.section("recipe").get(name)
        if found is not None and not isinstance(found, kind):
            raise ConfigError(f"recipe {self.name}: recipe.{name} is no {kind.__name__}")
        return found


def _option_parts(text: str) -> list[str]:
    """`--name=value`, `-b` and `-bvalue` as the long option and its value; else the text itself."""
    if text.startswith("--"):
        name, separator, value = text.partition("=")
        return [name, value] if separator else [text]
    if text[:2] in SHORT:
        return [SHORT[text[:2]], *([text[2:]] if text[2:] else [])]
    return [text]


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
