"""What a key of the configuration can hold, and the words in which refusals and docs say so."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


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
