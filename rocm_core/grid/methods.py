"""Methods: what their names stand for.

A method is an update rule on a policy, with a divergence; some have names of the field.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from rocm_core.errors import UserError
from rocm_core.plugins import did_you_mean, facts, module_of, names, short_name


@dataclass(frozen=True)
class Method:
    """What a method's name stands for: an update rule on a policy, with a divergence or "none"."""

    algorithm: str
    policy: str
    divergence: str


# The field's names. Direct preference optimisation is KL-regularised by construction, at weight β;
# what DPOK's release calls KL is the squared difference of the predicted noise.
METHODS = {
    "rlcm": Method("ppo", "consistency", "none"),
    "ddpo": Method("ppo", "diffusion", "none"),
    "dpok": Method("dpok", "diffusion", "epsilon"),
    "d3po": Method("d3po", "diffusion", "kl"),
}
POLICIES = ("consistency", "diffusion")


def parse_method(name: str, key: str, policies: Iterable[str] = ()) -> tuple[str, Method]:
    """The canonical name of a method and what it stands for; raises `UserError` naming `key`.

    `rocm-<divergence>`, one of `METHODS`, or `<algorithm>-<policy>[-<divergence>]`, where a name
    with a dot is a module of another package; `policies` are names beside the two that the methods
    have.
    """
    if name in METHODS:
        return name, METHODS[name]
    spelled = f"direct-consistency-{name.removeprefix('rocm-')}" if name[:5] == "rocm-" else name
    parts = _split(spelled, [*POLICIES, *policies])
    if parts is None:
        known = ["rocm-none", *(f"rocm-{d.replace('_', '-')}" for d in names("divergences"))]
        raise UserError(f"{key}: {name!r} is not a method{did_you_mean(name, [*known, *METHODS])}")
    algorithm, policy, divergence = parts
    module_of("algorithms", algorithm, key)
    if divergence != "none":  # which may be another name of the one that is trained
        module = short_name(module_of("divergences", divergence, key))
        divergence = facts("divergences", divergence, key)["ALIAS_OF"] or module
    method = Method(algorithm, policy, divergence)
    return name_of(method), method


def name_of(method: Method) -> str:
    """The canonical name of a method."""
    known_as = {meaning: known for known, meaning in METHODS.items()}
    if method in known_as:
        return known_as[method]
    if (method.algorithm, method.policy) == ("direct", "consistency"):
        return f"rocm-{_spell(method.divergence)}"
    suffix = [] if method.divergence == "none" else [_spell(method.divergence)]
    return "-".join([_spell(method.algorithm), _spell(method.policy), *suffix])


def _spell(module: str) -> str:
    """A module as part of a method's name; one of another package keeps its spelling."""
    return module if "." in module else module.replace("_", "-")


def _split(name: str, policies: Iterable[str]) -> tuple[str, str, str] | None:
    """Algorithm, policy and divergence or "none" that a spelled-out method names."""
    head = name.split("-")[0]
    for algorithm in [head] if "." in head else names("algorithms"):
        for policy in sorted(set(policies), key=len, reverse=True):
            rest = name.removeprefix(f"{_spell(algorithm)}-{_spell(policy)}")
            if rest in ("", "-none"):
                return algorithm, policy, "none"
            if rest.startswith("-") and len(rest) > 1:
                return algorithm, policy, rest[1:]
    return None
