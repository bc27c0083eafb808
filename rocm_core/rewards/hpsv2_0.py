"""HPSv2 in its first version, v2.0, reported beside v2.1, whose scores are 2 to 3 points lower.

The same scorer with the weights ``HPS_v2_compressed.pt``.
"""

from rocm_core.rewards.hpsv2 import HPSv2

DIFFERENTIABLE = True


class HPSv2_0(HPSv2):
    """cos(image, text) of an OpenCLIP model, in [-1, 1]."""


load = HPSv2_0.load
