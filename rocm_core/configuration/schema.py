"""The schema of the whole configuration, made of its typed sections, and the page about it.

A mapping that was read becomes sections with their types.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rocm_core.configuration.config import Config
from rocm_core.configuration.fields import (
    DOTTED,
    allow_null,
    allowed,
    generate,
    inline,
    nullable_keys,
    schema_of,
    validate,
)
from rocm_core.configuration.settings import CellSettings, TrainingSettings
from rocm_core.errors import UserError
from rocm_core.plugins import ROOT, facts, load, names

FILE = ROOT / "workflow" / "schemas" / "config.schema.json"


def settings_class(algorithm: str, key: str) -> type[TrainingSettings]:
    """The settings that an algorithm has; raises `UserError` naming `key` where there are none."""
    settings = load("algorithms", algorithm, key).Settings
    if not (isinstance(settings, type) and issubclass(settings, TrainingSettings)):
        raise UserError(f"{key}: Settings of {algorithm} must be a class of TrainingSettings")
    if settings.backpropagates is not facts("algorithms", algorithm, key)["DIFFERENTIATES"]:
        raise UserError(
            f"{key}: {algorithm} must both declare DIFFERENTIATES = True and derive its Settings"
            " from BackpropagationSettings, or do neither"
        )
    return settings


def load_schema(methods: Iterable[Any] = ()) -> dict[str, Any]:
    """The schema without references, with the algorithms of other packages that `methods` name:
    what stands before their first `-`."""
    spelled = (name for name in methods if isinstance(name, str) and re.fullmatch(DOTTED, name))
    heads = {name.split("-")[0] for name in spelled}
    return inline(_generate(tuple(sorted(head for head in heads if "." in head))))


@functools.cache
def _generate(guests: tuple[str, ...]) -> dict[str, Any]:
    whole = generate(Config)
    nullable = nullable_keys(Config)
    allow_null(whole["properties"], nullable)
    whole["required"] = [key for key in whole["required"] if key not in nullable]
    whole["$defs"]["training"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": _training([*names("algorithms"), *guests]),
    }
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of one grid of experiments",
        **whole,
    }
    return json.loads(json.dumps(whole).replace('"type": "training"', '"$ref": "#/$defs/training"'))


def _training(algorithms: Iterable[str]) -> dict[str, Any]:
    """The settings of all algorithms, each once. Where their defaults differ it is null, which
    stands for each algorithm's own."""
    known: dict[str, list[dict[str, Any]]] = {}
    decided = CellSettings.model_fields.keys() - TrainingSettings.__annotations__.keys()
    for algorithm in algorithms:
        model = settings_class(algorithm, "methods")
        properties = dict(schema_of(model)["properties"])
        allow_null(properties, nullable_keys(model))
        for key in [k for k in properties if k not in decided]:
            known.setdefault(key, []).append(properties[key])
            if _meaning(known[key][0]) != _meaning(properties[key]):
                raise UserError(
                    f"methods: {algorithm} means something else by {key} than other algorithms do:"
                    " give its setting another name"
                )
    training = {}
    for key, parts in known.items():
        training[key] = next((part for part in parts if "description" in part), parts[0])
        if any(part.get("default") != parts[0].get("default") for part in parts):
            allow_null(training, [key])
    return training


def _meaning(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in ("default", "description")}


def schema_text() -> str:
    """workflow/schemas/config.schema.json: the schema with the algorithms of this package."""
    return json.dumps(_generate(()), indent=2, ensure_ascii=False) + "\n"


def document() -> str:
    """docs/configuration.md: every key with its meaning, what it allows, its default and unit."""
    lines = [
        "# Configuration",
        "",
        "Written by `python -m rocm_core.commands.configuration --document` from the typed",
        "sections in `rocm_core/configuration/` and the `Settings` of each algorithm. A key",
        "without a default must be given; `beta` only where there is a divergence. Write exponents",
        "with a dot and a sign, `1.0e-4`: YAML reads `1e-4` as text.",
    ]
    for keys, part in _sections(load_schema()).items():
        title = ", ".join(f"`{key}`" for key in keys.split()) or "The file"
        lines += [
            "",
            f"## {title}",
            "",
            "| key | meaning | allowed | default | unit |",
            "|---|---|---|---|---|",
        ]
        for key, below in part.items():
            default = f"`{_spelled(below['default'])}`" if "default" in below else ""
            kind = "keys, see below" if "properties" in below else allowed(below)
            cells = [f"`{key}`", below["description"], kind, default, _unit(below)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spelled(value: Any) -> str:
    """As a configuration has it: with a dot before an exponent."""
    return re.sub(r"\b(\d+)e-0?(\d+)", r"\1.0e-\2", json.dumps(value))


def _unit(part: Mapping[str, Any]) -> str:
    return part.get("unit") or next(map(_unit, part.get("anyOf", ())), "")


def _sections(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each set of keys by the paths at which it stands, separated by spaces."""
    paths: dict[str, list[str]] = {}

    def visit(part: Mapping[str, Any], path: str) -> None:
        if "properties" in part:
            paths.setdefault(json.dumps(part["properties"]), []).append(path)
            for key, below in part["properties"].items():
                visit(below, f"{path}.{key}".lstrip("."))
        for key, suffix in (("items", "[]"), ("additionalProperties", ".<name>")):
            if isinstance(part.get(key), dict):
                visit(part[key], path + suffix)

    visit(schema, "")
    return {" ".join(places): json.loads(keys) for keys, places in paths.items()}


def type_config(values: Mapping[str, Any]) -> Config:
    """A mapping as a `Config`; raises `UserError` naming the key where the schema forbids it.

    What the sections say of one another is checked by `rocm_core.grid`.
    """
    values = dict(values)
    absent: list[Any] = []
    for key in ("methods", "cells"):
        if isinstance(given := values.get(key), dict):
            absent = [name for name, value in given.items() if value is None]
            values[key] = {k: {} if v is None else v for k, v in given.items()}
    methods = values.get("methods")
    schema = load_schema(methods if isinstance(methods, dict) else ())
    validate(values, schema)
    training = schema["properties"]["training"]["properties"].items()
    defaults = {key: part["default"] for key, part in training if "default" in part}
    values["training"] = defaults | values.get("training", {})
    values["metrics"] = values.get("metrics") or list(values["scorers"])
    if "cells" in values:
        values["cells"] |= dict.fromkeys(absent)
    return Config.model_validate(values)
