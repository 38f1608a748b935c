"""The base of every configuration: frozen, unknown keys refused, fields documented in place."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.core.errors import ConfigError


class Config(BaseModel):
    """A frozen, validated set of values that decides what a stage writes.

    Everything in a `Config` enters the artifact's fingerprint. What cannot change the bytes that
    are written (worker counts, devices' names, paths) does not belong in one.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    @classmethod
    def build(cls, values: dict[str, Any], source: str = "configuration") -> Self:
        """Validate `values`, or raise `ConfigError` naming `source` and each wrong key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [
                f"{'.'.join(str(part) for part in item['loc']) or cls.__name__}: {item['msg']}"
                for item in error.errors()
            ]
            raise ConfigError(f"{source}: " + "; ".join(lines)) from None

    def as_json(self) -> dict[str, Any]:
        """The values as plain JSON types, in field order."""
        return self.model_dump(mode="json")
