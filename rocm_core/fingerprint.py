"""Code fingerprints: what a job's project modules mean, as a digest that says when to run again."""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

# Modules that reach a job only as its params and input files, or merely record it: no number it
# computes depends on them, so imports of them are not followed.
NEUTRAL = frozenset(
    f"rocm_core{name}"
    for name in (
        *("", ".errors", ".settings", ".schema", ".names", ".config", ".grid", ".prompts"),
        *(".fingerprint", ".provenance", ".weights", ".fetching", ".lock", ".launch", ".memory"),
    )
)


def _file_of(name: str, root: Path) -> Path | None:
    """The file of a dotted project module, or of a path relative to `root`, if there is one."""
    if name.endswith(".py"):
        candidates = [root / name]
    else:
        path = root.joinpath(*name.split("."))
        candidates = [path.with_suffix(".py"), path / "__init__.py"]
    return next((path for path in candidates if path.is_file()), None)


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names that a module may import, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _canonical(node: Any) -> Any:
    """A syntax tree as nested lists, without positions and docstrings, alike on every Python."""
    if isinstance(node, list):
        return [_canonical(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {
        name: value
        for name, value in ast.iter_fields(node)
        if value is not None and value != [] and name not in ("ctx", "kind", "type_comment")
    }
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, {name: _canonical(value) for name, value in fields.items()}]


@functools.cache
def _read_module(path: Path, package: str) -> tuple[str, tuple[str, ...]]:
    """sha256 of what a source file means, and the names it imports."""
    tree = ast.parse(path.read_bytes(), filename=str(path))
    meaning = json.dumps(_canonical(tree), sort_keys=True)
    return hashlib.sha256(meaning.encode()).hexdigest(), tuple(_imports(tree, package))


@functools.cache
def _walk(names: tuple[str, ...], root: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        path = _file_of(name, root)
        if name in found or path is None:
            if name in names and path is None:
                raise FileNotFoundError(f"no project module or file {name!r} under {root}")
            continue
        is_script = name.endswith(".py")
        package = (
            "" if is_script else name if path.name == "__init__.py" else name.rpartition(".")[0]
        )
        found[name], imports = _read_module(path, package)
        if not is_script:
            parts = name.split(".")
            imports += tuple(".".join(parts[:i]) for i in range(1, len(parts)))
        waiting += [module for module in imports if module not in NEUTRAL]
    return dict(sorted(found.items()))


def module_closure(*names: str, root: Path = ROOT) -> list[str]:
    """`names` and every project module that they import, directly or not, packages included.

    names: dotted modules or paths of scripts relative to `root`. Imports inside functions count;
    `NEUTRAL` modules are entered only when named. Raises FileNotFoundError for an unknown name.
    """
    return list(_walk(tuple(sorted(names)), root))


@functools.cache
def code_fingerprint(*names: str, root: Path = ROOT) -> str:
    """sha256 over the meaning of `module_closure(*names)`; comments, docstrings, formatting and
    file times have none. Cached for the life of the process: `forget_code` empties the cache."""
    meanings = _walk(tuple(sorted(names)), root)
    return hashlib.sha256(json.dumps(meanings, sort_keys=True).encode()).hexdigest()


def forget_code() -> None:
    """Read the sources anew at the next question."""
    for cached in (_read_module, _walk, code_fingerprint):
        cached.cache_clear()
