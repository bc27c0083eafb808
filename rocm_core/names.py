"""What the names in a configuration stand for. Files are looked at, never imported."""

import functools
import re
from dataclasses import dataclass

from rocm_core.errors import UserError
from rocm_core.fingerprint import ROOT
from rocm_core.schema import did_you_mean

# Other names of one and the same thing; only the right-hand side is ever trained.
ALIASES = {"reverse_kl": "kl"}

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
    """The canonical name of a method and what it stands for; raises `UserError` naming `key`."""
    algorithm, _, divergence = name.partition("-")
    if algorithm != "rocm" or not divergence:
        known = ["rocm-none", *(f"rocm-{d.replace('_', '-')}" for d in modules("divergences"))]
        raise UserError(f"{key}: {name!r} is not a method{did_you_mean(name, known)}")
    module = "none" if divergence == "none" else find_module("divergences", divergence, key)
    return f"rocm-{module.replace('_', '-')}", Method("direct", "consistency", module)
