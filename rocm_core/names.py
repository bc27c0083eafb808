"""What the names in a configuration stand for. Files are looked at, never imported."""

import ast
import functools
import re
from dataclasses import dataclass
from typing import Any

from rocm_core.errors import UserError
from rocm_core.fingerprint import ROOT
from rocm_core.schema import did_you_mean

# Other names of one and the same thing; only the right-hand side is ever trained.
ALIASES = {"reverse_kl": "kl"}

# Versions of a scorer that the field reports side by side: who trains on one has trained on both.
VERSIONS = {"hpsv2_0": "hpsv2"}

# What makes a module of a package usable by name there; other modules only support these.
_MARKS = {
    "rewards": r"^def load\(",
    "divergences": r"^def divergence\(",
    "algorithms": r"^class \w+",
    "policies": r"^class \w+Policy\b",
}


@dataclass(frozen=True)
class Method:
    """What a method's name stands for: an update rule on a policy, with a divergence or "none"."""

    algorithm: str
    policy: str
    divergence: str


# The field's names. Direct preference optimisation is KL-regularised by construction, at weight β.
METHODS = {
    "rlcm": Method("ppo", "consistency", "none"),
    "ddpo": Method("ppo", "diffusion", "none"),
    "dpok": Method("dpok", "diffusion", "kl"),
    "d3po": Method("d3po", "diffusion", "kl"),
}


def is_held_out(metric: str, reward: str) -> bool:
    """Does a scorer measure something else than one that was trained on?"""
    metric, reward = (name.replace("-", "_") for name in (metric, reward))
    return VERSIONS.get(metric, metric) != VERSIONS.get(reward, reward)


@functools.cache
def modules(package: str) -> list[str]:
    """Names that a config may use of rocm_core's `package`: rewards, divergences, algorithms or
    policies. The files are looked at, not imported."""
    mark = re.compile(_MARKS[package], re.MULTILINE)
    files = sorted((ROOT / "rocm_core" / package).glob("[!_]*.py"))
    return [f.stem for f in files if mark.search(f.read_text(encoding="utf-8"))]


def find_module(package: str, name: str, key: str) -> str:
    """The module that `name` stands for; raises `UserError` naming `key` where there is none."""
    module = name.replace("-", "_")
    module = ALIASES.get(module, module)
    if module not in modules(package):
        known = [known.replace("_", "-") for known in modules(package)]
        raise UserError(
            f"{key}: there is no rocm_core/{package}/{module}.py for {name!r}"
            f"{did_you_mean(name, known)}"
        )
    return module


def parse_method(name: str, key: str) -> tuple[str, Method]:
    """The canonical name of a method and what it stands for; raises `UserError` naming `key`.

    `rocm-<divergence>`, one of `METHODS`, or `<algorithm>-<policy>[-<divergence>]`.
    """
    if name in METHODS:
        return name, METHODS[name]
    spelled = f"direct-consistency-{name.removeprefix('rocm-')}" if name[:5] == "rocm-" else name
    algorithm, policy, divergence = _split(spelled) or (None, None, None)
    if algorithm is None or policy is None:
        known = ["rocm-none", *(f"rocm-{d.replace('_', '-')}" for d in modules("divergences"))]
        raise UserError(f"{key}: {name!r} is not a method{did_you_mean(name, [*known, *METHODS])}")
    module = find_module("divergences", divergence, key) if divergence else "none"
    method = Method(algorithm, policy, module)
    known_as = {meaning: known for known, meaning in METHODS.items()}
    suffix = module.replace("_", "-")
    if method in known_as:
        return known_as[method], method
    if (algorithm, policy) == ("direct", "consistency"):
        return f"rocm-{suffix}", method
    parts = [algorithm.replace("_", "-"), policy.replace("_", "-"), suffix]
    return "-".join(parts if divergence else parts[:2]), method


def _split(name: str) -> tuple[str, str, str] | None:
    """Algorithm, policy and divergence ("" for none) that a spelled-out method names."""
    for algorithm in modules("algorithms"):
        for policy in modules("policies"):
            pair = f"{algorithm}-{policy}".replace("_", "-")
            rest = name.removeprefix(pair)
            if rest in ("", "-none"):
                return algorithm, policy, ""
            if rest.startswith("-") and len(rest) > 1:
                return algorithm, policy, rest[1:]
    return None


@functools.cache
def declared(algorithm: str, name: str, default: Any = ()) -> Any:
    """The literal called `name` that an algorithm's module declares. The file is not imported.

    SETTINGS: training settings that algorithms differ in and that this one uses.
    DIVERGENCES: those it can work with, "none" among them; () is all.
    PAIRED: it compares images of one prompt, so that `images_per_prompt` must be even.
    DIFFERENTIATES: it backpropagates through the reward.
    RATIO_CLIP: what `ratio_clip: null` stands for.
    """
    text = (ROOT / "rocm_core" / "algorithms" / f"{algorithm}.py").read_text(encoding="utf-8")
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == name:
            return ast.literal_eval(statement.value)
    return default


@functools.cache
def is_differentiable(reward: str) -> bool:
    """Whether a scorer's class says `differentiable = True`, or inherits it. The file is not
    imported."""
    text = (ROOT / "rocm_core" / "rewards" / f"{reward}.py").read_text(encoding="utf-8")
    return not re.search(r"^    differentiable\b.*= False", text, re.MULTILINE)
