"""Algorithms: update rules on a policy, each in its own module `rocm_core.algorithms.<name>`.

An algorithm is given batches and a way to optimise, and does as many optimiser updates with them
as it likes: one for direct optimisation, one for each inner epoch and timestep for policy
gradients. It knows nothing of files, processes, schedules or precision.
"""

from rocm_core.algorithms._policy_gradient import with_shared_start
from rocm_core.algorithms.base import (
    Algorithm,
    BackpropagationSettings,
    Batch,
    Optimiser,
    RegularisedSettings,
    Statistics,
    load_algorithm,
    load_settings,
)
