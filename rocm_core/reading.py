"""Reading what people write: YAML and JSON, where what they may not have meant is refused.

YAML 1.1 reads 010 as 8, 1_000 as 1000, 12:30 as 750, `no` as false and 2024-01-01 as a date, and
both it and JSON keep the last of two equal keys, in silence.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from rocm_core.errors import UserError

_DEEPEST = 20
_MOST_REPEATED = 100_000  # values that aliases stand for; a long text counts as several
_LONG = 100  # characters
_TAG = "tag:yaml.org,2002:"
_DECIMAL = {
    "int": r"[-+]?(0|[1-9]\d*)",
    "float": r"[-+]?(\d+\.\d*|\.\d+)([eE][-+]\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises `UserError` with file and key or line for others."""
    try:
        values = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}): save it as UTF-8") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must be a mapping of keys to values, not {show(values)}")
    return values


def parse_yaml(text: str, key: str = "") -> Any:
    """The value of a YAML text, all of which belongs to `key` if one is given.

    Raises `UserError`, one sentence with the key or line, for what is not YAML, for a key given
    twice, for aliases that expand without end, and for a value that YAML may read otherwise than it
    was meant.
    """
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check(root, (key,) if key else ())
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark and not key else f"{key}: " if key else ""
        raise UserError(f"{line}not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise UserError(f"{f'{key}: ' if key else ''}not valid YAML: {error}") from None
    finally:
        if loader:
            loader.dispose()


def parse_json(text: str, place: str) -> Any:
    """The value of a JSON text, with NaN and Infinity as Python writes them; raises `UserError`
    with its `place` for what is not JSON and for a key given twice."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {show(key)} is given twice: keep one")
        values[key] = value
    return values


def _check(root: yaml.Node, path: tuple[Any, ...]) -> None:
    seen, repeated = set(), 0
    for where, node in _nodes(root, path):
        if id(node) in seen:
            is_text = isinstance(node, yaml.ScalarNode)
            repeated += 1 + is_text * len(node.value) // _LONG
        seen.add(id(node))
        if repeated > _MOST_REPEATED:
            raise UserError(
                f"{join(where[:3])}: its aliases (*) stand for more than {_MOST_REPEATED:,} values:"
                " write out what is meant"
            )
        if isinstance(node, yaml.ScalarNode) and (meaning := _second_meaning(node)):
            raise UserError(f"{join(where) or 'the value'} must not be {node.value}, {meaning}")


def _nodes(node: yaml.Node, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], yaml.Node]]:
    """Every node from `node` down, keys too, with the path of its key; as often as it is an alias.
    Raises `UserError` for a key given twice and for endless nesting."""
    if len(path) > _DEEPEST:
        raise UserError(f"{join(path[:3])} is nested too deeply")
    yield path, node
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _nodes(item, (*path, index))
    elif isinstance(node, yaml.MappingNode):
        given = set()
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            if key in given and key_node.tag != f"{_TAG}merge" and key != "?":
                line = key_node.start_mark.line + 1
                raise UserError(f"line {line}: the key {show(key)} is given twice: keep one")
            given.add(key)
            yield from _nodes(key_node, (*path, key))
            yield from _nodes(value, (*path, key))


def _second_meaning(node: yaml.ScalarNode) -> str | None:
    """What YAML reads a value as, if that may not be what its writer meant, and what to write."""
    kind, text = node.tag.removeprefix(_TAG), node.value
    if kind == "bool" and text.lower() not in ("true", "false"):
        truth = "true" if text.lower() in ("yes", "on") else "false"
        return f"which YAML reads as {truth}: write {truth}, or put the word in quotes"
    if kind == "timestamp":
        return "which YAML reads as a date: put it in quotes"
    if kind in _DECIMAL and not re.fullmatch(_DECIMAL[kind], text):
        return (
            f"which YAML reads as {show(yaml.safe_load(text))}: write a number in plain decimal"
            " digits, or put a text in quotes"
        )
    return None


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
