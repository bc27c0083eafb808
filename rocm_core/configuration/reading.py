"""Reading a configuration: YAML as people expect it, then its sections with their types."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rocm_core.configuration.config import Config
from rocm_core.configuration.refusals import show, validate
from rocm_core.configuration.schema import load_schema
from rocm_core.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML as people expect it: a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    line = key_node.start_mark.line + 1
                    raise UserError(
                        f"line {line}: the key {show(key_node.value)} is given twice: keep one"
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises `UserError` with file and line for anything else."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{path}:{line} not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a mapping of keys to values, not {show(values)}")
    return values


def type_config(values: Mapping[str, Any]) -> Config:
    """A mapping as a `Config`; raises `UserError` naming the key where the schema forbids it.

    What the sections say of one another is checked by `rocm_core.grid`.
    """
    values = dict(values)
    if values.get("partial") in ("true", "false"):  # as `--config partial=true` hands it over
        values["partial"] = values["partial"] == "true"
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
