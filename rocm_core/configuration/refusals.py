"""Refusals: what a JSON schema forbids, said in one sentence that names the key."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rocm_core.errors import UserError
from rocm_core.plugins import did_you_mean

_DEEPEST = 20


def join(path: Iterable[Any]) -> str:
    """A key path for people: ["sweeps", 0, "setting"] is `sweeps[0].setting`."""
    text = ""
    for key in path:
        is_plain = isinstance(key, str) and re.fullmatch(r"[\w/.-]{1,80}", key)
        text += f"[{key}]" if isinstance(key, int) else f".{key if is_plain else show(key)}"
    return text.removeprefix(".")


def show(value: Any) -> str:
    """A value for people, short and on one line."""
    try:
        text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a huge integer"
    return text if len(text) <= 60 else text[:57] + "..."


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
    elif isinstance(value, str) and not value.isprintable():
        raise UserError(f"{where} must be one line of printable text, not {show(value)}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, not {value}")
    elif not isinstance(value, str | float | int | None):
        raise UserError(f"{where} is {show(value)}, a {type(value).__name__}: put it in quotes")


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
    return f"{where} must be {allowed(schema)}, not {show(value)}{_number_hint(value, schema)}"


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
    if kind == "object" and schema.get("minProperties"):
        return "a mapping of at least one key to its value"
    return nouns.get(kind) or schema.get("allowed", "text")


def _number_hint(value: Any, schema: Mapping[str, Any]) -> str:
    """YAML reads 1e-4 as text; say how to write the number."""
    if not isinstance(value, str) or "number" not in allowed(schema):
        return ""
    if not (match := re.fullmatch(r"([+-]?\d+)(\.\d*)?(?:[eE]([+-]?)(\d+))?", value.strip())):
        return ""
    whole, fraction, sign, exponent = match.groups()
    text = whole + (fraction or ".0") + f"e{sign or '+'}{exponent}" if exponent else value.strip()
    return f", which YAML reads as text: write {text}" + ("" if exponent else " without quotes")
