"""The base of every configuration: frozen, unknown keys refused, fields documented in place."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from stages.core.errors import ConfigError


class Config(BaseModel):
    """A frozen, validated set of values that decides what a stage writes.

    Everything in a `Config` enters the artifact's fingerprint. What cannot change the bytes that
    are written (worker counts, devices' names, paths) does not belong in one.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )
    silent_at_default: ClassVar[tuple[str, ...]] = ()
    """Fields that came later and change nothing at their default: there they stay out of the JSON,
    so that artifacts made before them keep their fingerprints."""

    @classmethod
    def build(cls, values: dict[str, Any], source: str = "configuration") -> Self:
        """Validate `values`, or raise `ConfigError` naming `source` and each wrong key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, item['loc'])) or cls.__name__}: "
                + item["msg"].removeprefix("Value error, ")
                for item in error.errors()
            ]
            raise ConfigError(f"{source}: " + "; ".join(lines)) from None

    @model_serializer(mode="wrap")
    def _without_silent_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        for name in self.silent_at_default:
            if getattr(self, name) == type(self).model_fields[name].default:
                values.pop(name, None)
        return values

    def as_json(self) -> dict[str, Any]:
        """The values as plain JSON types, in field order."""
        return self.model_dump(mode="json")
