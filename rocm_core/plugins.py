"""Plug-ins: how a name in a configuration becomes a module, in one way for all seven kinds.

A plug-in is one module that defines its kind's entry point. A plain name is a module of the kind's
room: `hpsv2` is rocm_core/rewards/hpsv2.py, and `-` and `_` are the same letter. A name with a dot
is a module of the user's own package on her Python path: `my_rewards.brightness`.

What must be known of a plug-in before anything runs are its facts: literals at the top level of the
module, which are read from its source. Only `load` imports a plug-in, so that a dry-run needs no
torch.
"""

import ast
import difflib
import functools
import importlib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rocm_core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
REQUIRED: Any = object()  # in place of a default: the module must declare the fact


@dataclass(frozen=True)
class Kind:
    """`entry`: the function or class that a plug-in defines. `facts`: their types and defaults."""

    room: str
    entry: str
    facts: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


# NEEDS: what the configuration must have, in the words of rocm_core/grid/needs.py. READS: what the
# rule depends on, in those of workflow/rules/render.smk. PLACE: where in the
# report, the smallest first.
_DRAWN = {
    "TITLE": (str, REQUIRED),
    "READS": (tuple, REQUIRED),
    "NEEDS": (tuple, ()),
    "PLACE": (int | float, 1000),
}

KINDS = {
    # DIFFERENTIABLE: does a gradient flow from the scores to the images? DRIFTS: does it look at
    # `progress`, which depends on how many iterations a training has? JUDGES: does it say what an
    # image is worth, or is it a mere task, such as a size or a colour?
    "rewards": Kind(
        "rocm_core.rewards",
        "load",
        {"DIFFERENTIABLE": (bool, REQUIRED), "DRIFTS": (bool, False), "JUDGES": (bool, True)},
    ),
    # Another name of the same divergence, which alone is ever trained.
    "divergences": Kind("rocm_core.divergences", "divergence", {"ALIAS_OF": (str | None, None)}),
    # DIVERGENCES: those it can work with, "none" among them; () is all. PAIRED: it compares images
    # of one prompt. DIFFERENTIATES: it backpropagates through the reward.
    "algorithms": Kind(
        "rocm_core.algorithms",
        "Settings",
        {"DIVERGENCES": (tuple, ()), "PAIRED": (bool, False), "DIFFERENTIATES": (bool, False)},
    ),
    # DETERMINISTIC_LAST: does the last step draw no noise? True, or the key of a model's
    # scheduler_config.json which says so where it is true. SCHEDULERS: the classes of diffusers'
    # schedulers whose models have this chain by default. OPTIONS: the keys of a policy that it
    # reads beside those of every chain. DRAWS_WITH: one of these, or a key as above, without which
    # no step draws noise.
    "chains": Kind(
        "rocm_core.policies.chains",
        "make",
        {
            "DETERMINISTIC_LAST": (bool | str, False),
            "SCHEDULERS": (tuple, ()),
            "OPTIONS": (tuple, ()),
            "DRAWS_WITH": (str, ""),
        },
    ),
    # PIPELINES: the classes of diffusers' pipelines whose networks it loads.
    "denoisers": Kind("rocm_core.policies.denoisers", "load", {"PIPELINES": (tuple, REQUIRED)}),
    "tables": Kind("rocm_core.tables", "make", _DRAWN),
    "figures": Kind("rocm_core.figures", "make", _DRAWN),
}


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """The end of a refusal: the nearest of `known` by spelling or by initials, else their list."""
    names = list(known)
    near = difflib.get_close_matches(str(word).lower(), names, n=1, cutoff=0.6)
    initials = {"".join(re.findall("(?:^|[-_])(.)", name)): name for name in reversed(names)}
    if nearest := near[0] if near else initials.get(str(word).lower()):
        return f"; did you mean {nearest}?"
    return f"; it can be {', '.join(names)}" if 0 < len(names) <= 30 else ""


def require_known(name: str, known: Iterable[str], key: str, what: str = "unknown") -> None:
    """Raise `UserError` for `key` unless `name` is one of `known`; `what` it is otherwise."""
    if name not in (names := list(known)):
        raise UserError(f"{key}: {name!r} is {what}{did_you_mean(name, names)}")


@functools.cache
def names(kind: str) -> list[str]:
    """The plug-ins in the room of a kind, sorted, by the names of their modules."""
    room = ROOT.joinpath(*KINDS[kind].room.split("."))
    return sorted(f.stem for f in room.glob("[!_]*.py") if KINDS[kind].entry in _bound(f))


def module_of(kind: str, name: str, key: str) -> str:
    """The dotted module that `name` stands for; raises `UserError` naming `key` without one."""
    wanted = KINDS[kind]
    if "." in name:
        path = source_of(name)
        if path is None:
            raise UserError(f"{key}: there is no module {name} on the Python path (PYTHONPATH)")
        if wanted.entry not in _bound(path):
            raise UserError(
                f"{key}: {path} does not define {wanted.entry}, so it is not one of the {kind}"
            )
        return name
    module = name.replace("-", "_")
    if module not in names(kind):
        known = [known.replace("_", "-") for known in names(kind)]
        raise UserError(
            f"{key}: there is no {wanted.room.replace('.', '/')}/{module}.py for {name!r}"
            f"{did_you_mean(name, known)}"
        )
    return f"{wanted.room}.{module}"


def short_name(module: str) -> str:
    """A plug-in's name in a configuration: its module's, without the room if it is one of ours."""
    return module.rpartition(".")[2] if module.startswith("rocm_core.") else module


def facts(kind: str, name: str, key: str = "") -> dict[str, Any]:
    """The facts of a plug-in with the defaults of those that it leaves out.

    Raises `UserError` where one that must be declared is missing, and where one is not a literal of
    its type.
    """
    path = source_of(module_of(kind, name, key or kind))
    assert path is not None, name
    known = {}
    for fact, (wanted, default) in KINDS[kind].facts.items():
        known[fact] = _bound(path).get(fact, default)
        if not isinstance(known[fact], wanted):
            shown = getattr(wanted, "__name__", wanted)
            raise UserError(
                f"{path} must declare {fact} as a literal at its top level, of type {shown}"
            )
    return known


def load(kind: str, name: str, key: str = "") -> ModuleType:
    """The imported module of a plug-in; raises `UserError` naming `key` where there is none."""
    try:
        return importlib.import_module(module_of(kind, name, key or kind))
    except SyntaxError as error:  # in what it imports
        raise _not_python(error) from None


def source_of(module: str, *folders: str | Path) -> Path | None:
    """The source file of a dotted module below one of `folders`, by default this checkout or the
    Python path; nothing is imported."""
    for folder in folders or (ROOT, *sys.path):
        path = Path(folder, *module.split("."))
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate.resolve()
    return None


def parse(path: Path) -> ast.Module:
    """The syntax tree of a source file; raises `UserError` naming the line that is not Python."""
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise _not_python(error) from None


def _not_python(error: SyntaxError) -> UserError:
    return UserError(f"{error.filename}:{error.lineno} is not valid Python: {error.msg}")


@functools.cache
def _bound(path: Path) -> dict[str, Any]:
    """What the top level of a file binds: functions, classes, values and imported names, each with
    the value of its literal, or `REQUIRED` where it is no literal."""
    bound: dict[str, Any] = {}
    for node in parse(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound[node.name] = REQUIRED
        elif isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name: REQUIRED for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                value = REQUIRED
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return bound
