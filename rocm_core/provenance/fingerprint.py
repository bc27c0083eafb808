"""Code fingerprints: what a job's project modules mean, as a digest that says when to run again."""

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.plugins import ROOT, parse, source_of
from rocm_core.provenance.files import walk

# Rooms and modules that compute nothing: they carry params and files to a job, or record what it
# did. Imports of them are not followed; tests/unit/test_skipped_rooms.py lists every name that
# followed code takes from them, so that a new one must be argued for.
SKIPPED = frozenset(
    f"rocm_core{name}"
    for name in (
        *("", ".errors", ".reading", ".plugins", ".configuration"),
        *(".provenance", ".jobs", ".commands", ".weights"),
    )
)

_NO_CODE = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def is_skipped(module: str) -> bool:
    """Whether a module, or the room it is in, computes nothing."""
    return module in SKIPPED or ".".join(module.split(".")[:2]) in SKIPPED - {"rocm_core"}


@functools.cache
def _file_of(name: str, root: Path, guests: frozenset[str]) -> Path | None:
    """The file of a dotted project module, or of a path relative to `root`, if there is one.

    guests: packages outside of the project that are followed like it.
    """
    if name.endswith(".py"):
        return root / name if (root / name).is_file() else None
    is_guest = name.partition(".")[0] in guests
    return source_of(name, root, *(sys.path if is_guest else []))


def _running(body: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """The statements of a block and those inside of them, but for what only type checkers see."""
    for node in body:
        yield node
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield from _running(getattr(node, "body", ()))
        for part in ("orelse", "finalbody", "handlers", "cases"):
            yield from _running(getattr(node, part, ()))


def imports_of(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """(dotted module, name taken from it or "") of every import that runs, wherever it stands."""
    for node in _running(tree.body):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(parents if node.level else []), *filter(None, [node.module])])
            yield from ((base, alias.name) for alias in node.names)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


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
    if isinstance(node, _NO_CODE):  # docstrings, of attributes too
        fields["body"] = [part for part in node.body if not _is_text(part)]
    return [type(node).__name__, {name: _canonical(value) for name, value in fields.items()}]


@functools.cache
def _read_module(path: Path, package: str) -> tuple[str, tuple[tuple[str, str], ...], bool]:
    """sha256 of what a source file means, what it imports, and whether it reads files beside it."""
    tree = parse(path)
    meaning = json.dumps(_canonical(tree), sort_keys=True)
    imports = tuple(imports_of(tree, package))
    modules = {f"{module}.{name}".rstrip(".") for module, name in imports}
    reads = any(f"'{word}'" in meaning for word in ("__file__", "PackageLoader")) or any(
        module.startswith("importlib.resources") for module in modules
    )
    return hashlib.sha256(meaning.encode()).hexdigest(), imports, reads


def _files_beside(path: Path) -> Iterator[Path]:
    """The files in a module's folder that are not Python: templates, styles, pages."""
    for entry in sorted(path.parent.iterdir()):
        if entry.is_dir() and entry.name != "__pycache__" and not (entry / "__init__.py").exists():
            yield from walk(entry)
        elif entry.is_file() and entry.suffix not in (".py", ".pyc"):
            yield entry


@functools.cache
def _door(path: Path) -> dict[str, tuple[str, str]] | None:
    """{name: (module, its name there)} of a package that only passes names on; None of any other.

    Who takes a name through a door depends on that name's module, not on the room.
    """
    names: dict[str, tuple[str, str]] = {}
    for node in parse(path).body:
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names |= {a.asname or a.name: (node.module, a.name) for a in node.names}
        elif not _is_text(node) and not (
            isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ):
            return None
    return names


def _resolve(module: str, name: str, root: Path, guests: frozenset[str]) -> Iterator[str]:
    """The modules that `from module import name` depends on: through doors, where it comes from."""
    path = _file_of(module, root, guests)
    door = _door(path) if path and path.name == "__init__.py" else None
    if name and _file_of(f"{module}.{name}", root, guests) and name not in (door or ()):
        yield f"{module}.{name}"
    elif door is None:
        yield module
    elif name in door:
        yield from _resolve(*door[name], root, guests)
    elif name in ("", "*"):
        for source, taken in door.values():
            yield from _resolve(source, taken, root, guests)


@functools.cache
def _dependencies(
    name: str, path: Path, root: Path, guests: frozenset[str]
) -> tuple[dict[str, str], list[str]]:
    """{a module and the files beside it that it reads: what they mean}, and what it depends on."""
    is_script, is_package = name.endswith(".py"), path.name == "__init__.py"
    package = "" if is_script else name if is_package else name.rpartition(".")[0]
    meaning, imports, reads_files = _read_module(path, package)
    meanings = {name: meaning}
    for file in _files_beside(path) if reads_files else ():
        place = f"{name}:{file.relative_to(path.parent).as_posix()}"
        meanings[place] = hashlib.sha256(file.read_bytes()).hexdigest()
    parts = [] if is_script else name.split(".")
    needs = [".".join(parts[:i]) for i in range(1, len(parts))]
    for module, taken in imports:
        if module == "rocm_core" or not is_skipped(module):  # a room, taken from the house
            needs += _resolve(module, taken, root, guests)
    return meanings, [module for module in dict.fromkeys(needs) if not is_skipped(module)]


@functools.cache
def _walk(names: tuple[str, ...], root: Path) -> dict[str, str]:
    guests = frozenset(name.partition(".")[0] for name in names if not name.endswith(".py"))
    guests -= {"rocm_core"}
    closure: dict[str, str] = {}
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        path = _file_of(name, root, guests)
        if path is None and name in names:
            if name.endswith(".py") and not (root / "workflow").is_dir():  # a wheel
                raise UserError(
                    f"the workflow's {name} is not beside the package: run this in a clone of the"
                    " repository, after `pip install -e .` there"
                )
            raise FileNotFoundError(f"no project module or file {name!r} under {root}")
        is_door = path and path.name == "__init__.py" and _door(path) is not None
        if path and name not in seen and (name in names or not is_door):
            meanings, needs = _dependencies(name, path, root, guests)
            closure |= meanings
            waiting += needs
        seen.add(name)
    return dict(sorted(closure.items()))


def module_closure(*names: str, root: Path = ROOT) -> list[str]:
    """`names` and every project module that they import, directly or not.

    names: dotted modules or paths of scripts relative to `root`; a module of another package than
    rocm_core brings its package with it. Imports inside functions count, those for type checkers do
    not. A name taken through a package that only passes names on counts as taken from its module.
    `SKIPPED` rooms are entered only when named. A module that reads files beside it, a template or
    a page, brings them with it, as `module:file`. Raises FileNotFoundError for an unknown name, and
    `UserError` for a script of the workflow where there is no workflow.
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
    for cached in (_read_module, _door, _file_of, _dependencies, _walk, code_fingerprint):
        cached.cache_clear()
