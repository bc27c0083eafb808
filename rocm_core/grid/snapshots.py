"""Which steps of a training are kept, for the training itself and for all that looks at them."""

from rocm_core.configuration import TrainingSettings


def snapshot_steps(settings: TrainingSettings) -> list[int]:
    """Steps after which a snapshot is kept: multiples of `snapshot_every`, and the last one."""
    if not settings.snapshot_every:
        return []
    steps = range(settings.snapshot_every, settings.iterations, settings.snapshot_every)
    return [*steps, settings.iterations]
