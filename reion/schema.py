"""The base class of reion's schemas, and how a schema is read from TOML and `key=value` settings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from reion.errors import InputError, did_you_mean


class Schema(BaseModel):
    """Values that are checked once and cannot change. A name that the schema lacks is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_settings(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Say of an unknown name which names there are, in place of pydantic's own words."""
        try:
            return handler(values)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [cls._reworded(item) for item in error.errors(include_url=False)]
            ) from None

    @classmethod
    def _reworded(cls, item: ErrorDetails) -> InitErrorDetails:
        said = item["msg"]
        if item["type"] == "extra_forbidden" and len(item["loc"]) == 1:
            names = list(cls.model_fields)
            said = "there is no such setting" + (
                did_you_mean(item["loc"][0], names) or f"; the settings here are {', '.join(names)}"
            )
        kind = PydanticCustomError(item["type"], "{said}", {**item.get("ctx", {}), "said": said})
        return InitErrorDetails(type=kind, loc=item["loc"], input=item["input"])


SchemaType = TypeVar("SchemaType", bound=Schema)


def load_schema(
    schema: type[SchemaType],
    file: Path | None = None,
    settings: Sequence[str] = (),
    *,
    base: Mapping[str, Any] | None = None,
) -> SchemaType:
    """Build a schema from a TOML file and `key=value` settings such as `model.name=patch`.

    Settings override the file, which overrides `base`. Values are TOML; bare words are strings.

    Raises
    ------
    InputError
        If the file cannot be read, a key is unknown or a value is out of range. It names all such keys.
    """
    values: dict[str, Any] = merge({}, base or {})
    if file is not None:
        try:
            values = merge(values, tomllib.loads(file.read_text(encoding="utf-8-sig")))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"expected a TOML file; {error}", file=file) from error
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise InputError(f"expected key=value; received {setting!r}", hint="for example model.name=patch")
        nested: Any = _toml_value(text.strip())
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        for item in error.errors():
            said = item.get("ctx", {}).get("error")
            if isinstance(said, InputError):  # already a full message with a hint
                raise said from None
        details = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']} (received {item['input']!r})"
            if item["loc"]
            else item["msg"].removeprefix("Value error, ")
            for item in error.errors()
        )
        raise InputError(f"the configuration does not fit: {details}", file=file) from error


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The nested mapping `old` with the values of `new` in place of its own, level by level."""
    merged = dict(old)
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
