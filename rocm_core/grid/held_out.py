"""Which scorers a training has not seen, and which can therefore say what it is worth."""

from collections.abc import Iterable

# Versions of a scorer that the field reports side by side, or with the sign turned: who trains on
# one has trained on both.
VERSIONS = {
    "hpsv2_0": "hpsv2",
    "jpeg_incompressibility": "jpeg_compressibility",
    "smooth_jpeg_compressibility": "jpeg_compressibility",
}


def is_held_out(metric: str, used: Iterable[str]) -> bool:
    """Whether a scorer measures something other than those that a training used.

    Using one version of a scorer counts as using all of them.
    """
    return _version(metric) not in map(_version, used)


def _version(scorer: str) -> str:
    name = scorer.replace("-", "_")
    return VERSIONS.get(name, name)
