"""Which steps of a training are kept, for the training itself and for all that looks at them; and
what of its settings its state depends on."""

from typing import Any

from rocm_core.configuration import TrainingSettings
from rocm_core.errors import UserError
from rocm_core.plugins import facts


def snapshot_steps(settings: TrainingSettings) -> list[int]:
    """Steps after which a snapshot is kept, rising: multiples of `snapshot_every`, those of
    `snapshot_at`, and the last one."""
    if not settings.snapshot_every:
        return []
    last = settings.iterations
    steps = {*range(settings.snapshot_every, last, settings.snapshot_every), last}
    return sorted(steps | {step for step in settings.snapshot_at or () if step < last})


def state_settings(settings: TrainingSettings) -> dict[str, Any]:
    """The settings on which a training's steps so far depend: all, but for the number of iterations
    where neither the learning rate nor the reward looks at it. It may then be raised later."""
    values = settings.to_dict()
    try:
        drifts = not settings.ensemble and facts("rewards", settings.reward)["DRIFTS"]
    except UserError:  # a function of the user's own
        drifts = True
    if settings.learning_rate_schedule == "constant" and not drifts:
        del values["iterations"]
    return values
