"""How names of the configuration read in tables and figures."""

import math
from collections.abc import Iterable

_NAMES = {
    "gold": "Gold judge",
    "hpsv2": "HPSv2",
    "hpsv2_0": "HPSv2 v2.0",
    "pickscore": "PickScore",
    "clipscore": "CLIPScore",
    "clipscore_hessel": "CLIPScore (Hessel)",
    "aesthetic": "Aesthetic",
    "blipscore": "BLIPScore",
    "imagereward": "ImageReward",
    "jpeg_compressibility": "Compressibility",
    "jpeg_incompressibility": "Incompressibility",
    "shapes_alignment": "Alignment",
    "alignment": "Alignment",
    "sparse_redness": "Sparse redness",
    "hinge_redness": "Hinge redness",
    "drifting_hue": "Drifting hue",
    "none": "no divergence",
    "kl": "KL",
    "reverse-kl": "reverse KL",
    "js": "JS",
    "js-sampled": "JS sampled",
    "hellinger": "Hellinger",
    "fisher": "Fisher",
    "chi2": "χ²",
    "total-variation": "total variation",
    "jeffreys": "Jeffreys",
    "alpha": "α",
    "rlcm": "RLCM",
    "ddpo": "DDPO",
    "dpok": "DPOK",
    "d3po": "D3PO",
}


def metric_label(name: str) -> str:
    """A scorer's published name: hpsv2 → HPSv2."""
    return _NAMES.get(name.replace("-", "_"), name)


def method_label(name: str, *, short: bool = False) -> str:
    """rocm-kl--beta-0.01 → "ROCM, KL (beta 0.01)"; `short` drops ROCM; bases name their policy."""
    if name.startswith("base-"):
        policy = name.removeprefix("base-")
        return f"{policy} base" if short else f"Base ({policy} model)"
    method, *swept = name.split("--")
    values = ", ".join(" ".join(setting.split("-", 1)) for setting in swept)
    divergence = method.removeprefix("rocm-")
    label = _NAMES.get(divergence, divergence)
    if method.startswith("rocm-") and not short:
        label = f"ROCM, {label}"
    return f"{label} ({values})" if swept else label


def divergence_labels(names: Iterable[str]) -> str:
    """Published names of divergences: "KL, reverse KL"."""
    methods = (f"rocm-{name.replace('_', '-')}" for name in names)
    return ", ".join(method_label(method, short=True) for method in methods)


def amount(counts: Iterable[float], noun: str) -> str:
    """How many, as a range where counts differ: "1 training seed", "2–3 training seeds"."""
    found = sorted({int(count) for count in counts if count == count}) or [0]
    span = "–".join(str(count) for count in dict.fromkeys([found[0], found[-1]]))
    return f"{span} {noun}" if span == "1" else f"{span} {noun}s"


def decimals(half_width: float) -> int:
    """How many decimals show an interval's half-width with two digits."""
    if not half_width > 0:
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(half_width))))


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """A number with `digits` decimals and a true minus sign."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")
