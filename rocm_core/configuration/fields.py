"""What a key of the configuration can hold, and the words in which refusals and docs say so.

Typed sections become JSON schemas, which refusals and the reference page read.
"""

import functools
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

_BOUNDS = {"ge": "minimum", "le": "maximum"}  # as pydantic calls them behind a validator of ours


class OrNull:
    """Marks a key that may be null in a configuration, its default: something else fills it in."""


def number(least: float, most: float, unit: str | None = None) -> Any:
    """A number within bounds, both included."""
    return Field(ge=least, le=most, json_schema_extra={"unit": unit} if unit else None)


def text(allowed: str, longest: int | None = 1000, pattern: str | None = None) -> Any:
    """A text that is not empty; `allowed` says which, for people."""
    return Field(
        min_length=None if pattern else 1,
        max_length=longest,
        pattern=pattern,
        json_schema_extra={"allowed": allowed},
    )


def items(at_least: int = 0, allowed: str | None = None, distinct: bool = True) -> Any:
    """A list, kept as a tuple."""
    extra = {"uniqueItems": distinct or None, "allowed": allowed}
    given: dict[str, Any] = {key: value for key, value in extra.items() if value}
    return Field(min_length=at_least or None, strict=False, json_schema_extra=given)


def having(**keys: str) -> Any:
    """A mapping that has these keys, which are described here, and maybe others."""

    def extend(schema: dict[str, Any]) -> None:
        part = schema["additionalProperties"]
        described = {key: part | {"description": text} for key, text in keys.items()}
        schema |= {"required": list(keys), "properties": described}

    return Field(json_schema_extra=extend)


FILLED = Field(min_length=1)  # a mapping of at least one key


def _to_integer(value: Any) -> Any:
    """2.0 is a whole number, as JSON has it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_to_integer)]
Seed = Annotated[Whole, number(0, 2**32 - 1)]
Steps = Annotated[Whole, number(1, 1000, "steps")]
Guidance = Annotated[float, number(0, 1000)]
Path = Annotated[str, text("a path")]
Name = Annotated[
    str, text("a name of lower-case letters, digits, - and _", 60, "^[a-z0-9][a-z0-9_-]*$")
]
# A name, or a module of the user's own package: my_rewards.brightness.
DOTTED = r"^[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*$"
PluginName = Annotated[
    str, text("a name of lower-case letters, digits, - and _, or package.module", 100, DOTTED)
]


class _Generator(GenerateJsonSchema):
    """pydantic's, in fewer words: null beside a type, names of keys, no titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        if "$ref" in inner:
            inner = self.get_schema_from_definitions(inner["$ref"]) or inner  # type: ignore[arg-type]
        return or_null(inner)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """With the pattern of keys under `propertyNames`, where refusals look for it."""
        keys = self.generate_inner(schema["keys_schema"])
        parts = {
            "minProperties": schema.get("min_length"),
            "propertyNames": keys if "pattern" in keys else None,
            "additionalProperties": self.generate_inner(schema["values_schema"]),
        }
        return {"type": "object"} | {key: part for key, part in parts.items() if part}

    def encode_default(self, dft: Any) -> Any:
        return {} if isinstance(dft, BaseModel) else super().encode_default(dft)


def or_null(part: JsonSchemaValue) -> JsonSchemaValue:
    """`part`, or null."""
    if "type" in part and "enum" not in part:
        return {**part, "type": [part["type"], "null"]}
    return {"anyOf": [*part.get("anyOf", [part]), {"type": "null"}]}


def generate(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a model, with what it consists of under `$defs`.

    In `properties` a key marked `OrNull` can be null, which is its default.
    """
    return _tidy(model.model_json_schema(schema_generator=_Generator))


@functools.cache
def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a model with its definitions in their places."""
    return inline(generate(model))


def nullable_keys(model: type[BaseModel]) -> list[str]:
    """The keys of a model that a configuration may leave null."""
    fields = model.model_fields.items()
    return [key for key, field in fields if any(m is OrNull for m in field.metadata)]


def allow_null(properties: dict[str, Any], keys: Iterable[str]) -> None:
    """Let `keys` be null, their default, in a schema's properties."""
    for key in keys:
        properties[key] = or_null(properties[key]) | {"default": None}


def inline(part: Any, definitions: dict[str, Any] | None = None) -> Any:
    """A schema with each `$ref` replaced by what it stands for, beneath its own keys."""
    if isinstance(part, list):
        return [inline(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    known = part.get("$defs", {}) if definitions is None else definitions
    own = {k: inline(v, known) for k, v in part.items() if k not in ("$ref", "$defs")}
    name = part.get("$ref", "").removeprefix("#/$defs/")
    return inline(known[name], known) | own if name else own


def _tidy(part: Any, below: str = "") -> Any:
    """Without titles, and each description on one line."""
    if isinstance(part, list):
        return [_tidy(item) for item in part]
    if not isinstance(part, dict):
        return part
    if below in ("properties", "$defs"):
        return {key: _tidy(value) for key, value in part.items()}
    tidy = {_BOUNDS.get(k, k): _tidy(v, k) for k, v in part.items() if k != "title"}
    if "description" in tidy:
        tidy["description"] = " ".join(tidy["description"].split())
    return tidy
