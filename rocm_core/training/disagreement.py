"""A gate for the divergence: it is open where held-out scorers do not share the reward's opinion.

He et al. 2025 (GARDO, arXiv 2512.24138) regularise only samples whose reward is uncertain, the most
uncertain share of a large batch by ranks within it. Batches here may hold one image, so scores are
compared with the base's instead, and a gate depends on its image alone.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rocm_core.grid import Standards
from rocm_core.rewards import Reward
from rocm_core.training.ensemble import require_finite_scores


class DisagreementGate:
    """1 for an image that the reward rates more than `above` higher than `scorers` do on average,
    in standard deviations of the base's scores; 0 for any other. Raises `UserError` naming the
    scorer that gives a score that is not finite."""

    def __init__(
        self, reward: str, scorers: Mapping[str, Reward], standards: Standards, above: float
    ) -> None:
        self.reward, self.scorers = reward, scorers
        self.standards, self.above = standards, above

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str], rewards: Tensor) -> Tensor:
        """Gates (N,) of images (N, 3, H, W) in [0, 1] and their rewards (N,)."""
        scores = {name: scorer.score(images, prompts) for name, scorer in self.scorers.items()}
        for name, values in scores.items():
            require_finite_scores(f"{name}, of gate_by,", values, prompts)
        others = [self._standardised(name, values) for name, values in scores.items()]
        higher = self._standardised(self.reward, rewards) - torch.stack(others).mean(0)
        return (higher > self.above).to(rewards.dtype)

    def _standardised(self, name: str, scores: Tensor) -> Tensor:
        known = self.standards[name]
        return (scores - known["mean"]) / known["std"]
