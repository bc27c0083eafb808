"""A reward that drifts: the hue it asks for turns from red through magenta to blue during training.

Whether training can follow a drifting reward is one of the questions that RLCM leaves open. Red and
blue are far enough apart that what was learned first costs later: a red image scores 1 at the start
and -1/2 at the end. As a metric it measures the final hue.
"""

from collections.abc import Sequence

from torch import Tensor

from rocm_core.rewards._weightless import Weightless, hue

DIFFERENTIABLE = True
DRIFTS = True
JUDGES = False

TURN = -120.0  # degrees, from red (0°) over magenta to blue


class DriftingHue(Weightless):
    """Mean component along the hue ``progress · TURN``, in [-1, 1]."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1]."""
        return hue(images, self.progress * TURN)


load = DriftingHue.load
