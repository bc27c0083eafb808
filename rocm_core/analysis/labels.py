"""How names of the configuration read in tables and figures."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rocm_core.configuration import Ensemble
from rocm_core.grid import spell

if TYPE_CHECKING:
    from rocm_core.analysis.sources import Source

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
    "smooth_jpeg_compressibility": "Smooth JPEG",
    "shapes_alignment": "Alignment",
    "alignment": "Alignment",
    "sparse_redness": "Sparse redness",
    "hinge_redness": "Hinge redness",
    "drifting_hue": "Drifting hue",
    "none": "no divergence",
    "kl": "KL",
    "reverse_kl": "reverse KL",
    "js": "JS",
    "js_sampled": "JS sampled",
    "hellinger": "Hellinger",
    "fisher": "Fisher",
    "chi2": "χ²",
    "total_variation": "total variation",
    "jeffreys": "Jeffreys",
    "alpha": "α",
    "epsilon": "ε",
    "rlcm": "RLCM",
    "ddpo": "DDPO",
    "dpok": "DPOK",
    "d3po": "D3PO",
}
# Algorithms whose methods have no name of their own in the field, on whichever policy.
_ALGORITHMS = {"grpo": "GRPO", "rebel": "REBEL", "hybrid": "hybrid"}


def metric_label(name: str) -> str:
    """A scorer's published name: hpsv2 → HPSv2."""
    return _NAMES.get(name.replace("-", "_"), name)


def ensemble_label(name: str, ensemble: Ensemble) -> str:
    """An ensemble and what it is made of: "several (sum of Aesthetic, HPSv2, 2 × PickScore)"."""
    members = [
        metric_label(scorer) if weight == 1 else f"{weight:g} × {metric_label(scorer)}"
        for scorer, weight in ensemble.of.items()
    ]
    combine: str = ensemble.combine
    if combine == "mean_minus_std":
        times = "" if ensemble.deviations == 1 else f"{ensemble.deviations:g} "
        combine = f"mean less {times}SD"
    return f"{name} ({combine} of {', '.join(members)})"


def method_label(source: "Source", *, short: bool = False, where: bool = True) -> str:
    """A method and what a sweep chose: "ROCM, KL (beta 0.01)"; `short` drops ROCM. What is like it
    on another few-step model is named so, and after that unless not `where`: "ROCM, KL (flow)". A
    base is named after its policy."""
    if source.cell is None:
        return f"{source.policy} base" if short else f"Base ({source.policy} model)"
    label = _NAMES.get(source.like, source.family)
    if source.like.startswith("rocm-"):
        label = divergence_label(source.divergence)
        label = label if short else f"ROCM, {label}"
    elif source.algorithm in _ALGORITHMS:
        label = _ALGORITHMS[source.algorithm]
        if source.divergence != "none":
            label = f"{label}, {divergence_label(source.divergence)}"
    values = [swept_label(source)] if source.swept else []
    if where and source.family not in (source.like, label):
        values.insert(0, source.policy)
    return f"{label} ({', '.join(values)})" if values else label


def swept_label(source: "Source") -> str:
    """What a sweep chose: "low_variance 2, truncate last"."""
    return ", ".join(f"{setting} {spell(value)}" for setting, value in source.swept.items())


def divergence_label(name: str) -> str:
    """A divergence's published name: reverse_kl → reverse KL."""
    return _NAMES.get(name, name.replace("_", "-"))


def amount(counts: Iterable[float], noun: str) -> str:
    """How many, as a range where counts differ: "1 training seed", "2–3 training seeds"."""
    present = sorted({int(count) for count in counts if count == count}) or [0]
    span = "–".join(str(count) for count in dict.fromkeys([present[0], present[-1]]))
    return f"{span} {noun}" if span == "1" else f"{span} {noun}s"


def training_seeds(counts: Iterable[float], spread: str) -> str:
    """The `amount` of training seeds, and that one alone has no `spread`, where that is so."""
    seeds = [count for count in counts if count == count]
    alone = f" (one alone has no {spread})" if 1 in seeds else ""
    return amount(seeds, "training seed") + alone


def decimals(half_width: float) -> int:
    """How many decimals show an interval's half-width with two digits."""
    if not half_width > 0:
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(half_width))))


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """A number with `digits` decimals and a true minus sign."""
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")
