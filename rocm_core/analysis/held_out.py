"""Which metrics were not trained on, and so may evaluate a model."""

# Versions of a scorer that the field reports side by side: who trains on one has trained on both.
VERSIONS = {"hpsv2_0": "hpsv2"}


def is_held_out(metric: str, reward: str) -> bool:
    """Does a scorer measure something else than one that was trained on?"""
    metric, reward = (name.replace("-", "_") for name in (metric, reward))
    return VERSIONS.get(metric, metric) != VERSIONS.get(reward, reward)
