"""What a key of the configuration can hold, and the words in which refusals and docs say so.

Typed sections become JSON schemas, which refusals and the reference page read. A refusal says what
a schema forbids in one sentence that names the key.
"""

import functools
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from rocm_core.errors import UserError
from rocm_core.plugins import did_you_mean
from rocm_core.reading import join, show

_DEEPEST = 20
_NUMBER = r"([+-]?(?:0|[1-9]\d*))(\.\d*)?(?:[eE]([+-]?)(\d+))?"
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


# A setting that is newer than results that were made without it: at its default, null or false, it
# is left out of a job's settings, so that those results stay valid.
OPTIONAL = Field(exclude_if=lambda value: value is None or value is False)
FILLED = Field(min_length=1)  # a mapping of at least one key


def _to_integer(value: Any) -> Any:
    """2.0 is a whole number, as JSON has it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_to_integer)]
Seed = Annotated[Whole, number(0, 2**32 - 1)]
Steps = Annotated[Whole, number(1, 1000, "steps")]
Resolution = Annotated[Whole, number(8, 16_384, "pixels")]
# Left out where it is null: a setting of some models, without which those of others are as before.
IF_SET = Field(exclude_if=lambda value: value is None)
AT_ONE = Field(exclude_if=lambda value: value == 1)  # the same of a factor
LoraScale = Annotated[float, number(0, 10)]
Gamma = Annotated[float, number(0, 1)]
Timesteps = Annotated[
    tuple[Annotated[Whole, number(0, 1_000_000)], ...], items(1, "a list of falling timesteps")
]
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


def validate(value: Any, schema: Mapping[str, Any], path: tuple[Any, ...] = ()) -> None:
    """Raise `UserError`, one sentence that names the key, unless `value` obeys the schema.

    schema: without references, as `schema_of` gives it. path: of the value, for the sentence.
    """
    from jsonschema import Draft202012Validator

    _check_plain(value, path)
    errors = list(Draft202012Validator(schema).iter_errors(value))
    if errors:  # an unknown key is the likeliest cause of whatever else is wrong
        error = min(errors, key=lambda e: e.validator != "additionalProperties")
        raise UserError(_sentence(error, path))


def _check_plain(value: Any, path: tuple[Any, ...]) -> None:
    """Only what JSON can say: finite numbers, string keys, text of one line, no deep nesting."""
    where = join(path) or "the configuration"
    if len(path) > _DEEPEST:
        raise UserError(f"{join(path[:3])} is nested too deeply")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isprintable():
                raise UserError(f"{where} has the key {show(key)}, which must be a word: quote it")
            _check_plain(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, (*path, index))
    elif isinstance(value, str) and not _is_line(value):
        raise UserError(f"{where} must be one line of text, not {show(value)}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, not {value}")
    elif not isinstance(value, str | float | int | None):
        raise UserError(f"{where} is {show(value)}, a {type(value).__name__}: put it in quotes")


def _is_line(text: str) -> bool:
    """Whether a text has no control characters, line breaks among them, and no halves of surrogate
    pairs. Joiners, no-break spaces and marks of direction are ordinary text."""
    return text.isprintable() or not {"Cc", "Cs"} & set(map(unicodedata.category, text))


def _sentence(error: Any, path: tuple[Any, ...]) -> str:
    full = (*path, *error.absolute_path)
    where = join(full) or "the configuration"
    value, schema = error.instance, error.schema
    if error.validator == "additionalProperties":
        known = list(schema["properties"])
        key = next(key for key in value if key not in known)
        return f"{join((*full, key))} is not a key of the configuration{did_you_mean(key, known)}"
    if error.validator == "required":
        key = next(key for key in schema["required"] if key not in value)
        return f"{join((*full, key))} is missing: {describe(schema['properties'][key])}"
    if "propertyNames" in error.absolute_schema_path:
        return f"{where} has the key {show(value)}, which must be {allowed(schema)}"
    return f"{where} must be {allowed(schema)}, not {show(value)}{_hint(value, schema)}"


def describe(schema: Mapping[str, Any]) -> str:
    """The first sentence of a key's description."""
    return schema.get("description", "it must be given").split(". ")[0].rstrip(".")


def allowed(schema: Mapping[str, Any]) -> str:
    """What a part of the schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(allowed(part) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return schema.get("const") or " or ".join(schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return " or ".join(_kind(kind, schema) for kind in kinds)


def _kind(kind: str, schema: Mapping[str, Any]) -> str:
    if kind in ("integer", "number"):
        noun = "a whole number" if kind == "integer" else "a number"
        bounds = [schema.get("minimum"), schema.get("maximum")]
        return noun if None in bounds else f"{noun} from {bounds[0]:.10g} to {bounds[1]:.10g}"
    if kind == "array":
        values = "at least one value" if schema.get("minItems") else "values"
        distinct = ", all distinct" if schema.get("uniqueItems") else ""
        return (
            schema.get("allowed")
            or f"a list of {values}{distinct}, each {allowed(schema['items'])}"
        )
    nouns = {"null": "null", "boolean": "true or false", "object": "a mapping of keys to values"}
    if kind == "object" and (least := schema.get("minProperties")):
        most = "one key to its value" if least == 1 else f"{least} keys to their values"
        return f"a mapping of at least {most}"
    if kind == "object" and "allowed" in schema:
        return schema["allowed"]
    return nouns.get(kind) or schema.get("allowed", "text")


def _hint(value: Any, schema: Mapping[str, Any]) -> str:
    """YAML reads 1e-4 as text, and a name that is 2024 as a number: how to write what is meant."""
    if isinstance(value, int | float):
        parts = (p for p in schema.get("anyOf", [schema]) if not {"const", "enum"} & p.keys())
        is_text = any("string" in part.get("type", "") for part in parts)
        return ": put it in quotes" if is_text else ""
    if not isinstance(value, str) or "number" not in allowed(schema):
        return ""
    if not (match := re.fullmatch(_NUMBER, value.strip())):
        return ""
    whole, fraction, sign, exponent = match.groups()
    text = whole + (fraction or ".0") + f"e{sign or '+'}{exponent}" if exponent else value.strip()
    return f", which YAML reads as text: write {text}" + ("" if exponent else " without quotes")
