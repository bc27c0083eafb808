"""Which scorers a training sees."""

from typing import Any

from rocm_core.configuration import TrainingSettings


def rewarding(settings: TrainingSettings) -> tuple[str, ...]:
    """The reward, or the members of an ensemble."""
    return tuple(settings.ensemble.of) if settings.ensemble else (settings.reward,)


def gating(settings: TrainingSettings) -> tuple[str, ...]:
    """The scorers whose disagreement with the reward gates the divergence."""
    return listed(getattr(settings, "gate_by", None))


def used_scorers(settings: TrainingSettings) -> tuple[str, ...]:
    """All scorers that had a say in what a training came to."""
    return rewarding(settings) + gating(settings) + listed(settings.stop_by)


def standardised(settings: TrainingSettings) -> tuple[str, ...]:
    """The scorers whose scores a training takes in standard deviations of the base's, sorted."""
    gates = gating(settings)
    return tuple(sorted(rewarding(settings) + gates)) if settings.ensemble or gates else ()


def listed(scorers: Any) -> tuple[str, ...]:
    """A setting that names one scorer, several or none."""
    return (scorers,) if isinstance(scorers, str) else tuple(scorers or ())
