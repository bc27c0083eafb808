"""A training reward of several scorers, loaded at once."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from rocm_core.configuration import Ensemble
from rocm_core.errors import UserError
from rocm_core.grid import Standards, combine
from rocm_core.rewards import Reward


class EnsembleReward(Reward):
    """What `combine` makes of the scores of `members`. Raises `UserError` naming the one that gives
    a score that is not finite."""

    def __init__(
        self, name: str, ensemble: Ensemble, members: Mapping[str, Reward], standards: Standards
    ) -> None:
        self.name, self.ensemble, self.members = name, ensemble, members
        self.standards = standards
        self.differentiable = all(member.differentiable for member in members.values())

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1], in the base's standard deviations."""
        scores = {name: member.score(images, prompts) for name, member in self.members.items()}
        for name, values in scores.items():
            require_finite_scores(f"{name}, of the ensemble {self.name},", values, prompts)
        return combine(scores, self.ensemble, self.standards)


def require_finite_scores(name: str, scores: Tensor, prompts: Sequence[str]) -> None:
    """Raise `UserError` for the first of some scores (N,) that is not finite."""
    for place in (~scores.isfinite()).nonzero().flatten().tolist():
        raise UserError(
            f"{name} gives {scores[place]:g} to an image of {prompts[place]!r}: check its weights,"
            " or lower learning_rate"
        )
