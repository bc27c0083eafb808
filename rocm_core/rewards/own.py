"""Rewards of the user's own: functions as scorers, and a check of the first scores."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rocm_core.errors import UserError
from rocm_core.rewards.loading import Reward

Score = Callable[[Tensor, Sequence[str]], Tensor]


class FunctionReward(Reward):
    """The scorer of a function: scores (N,) of images (N, 3, H, W) in [0, 1] and their prompts."""

    differentiable = True  # which `check_first_scores` finds out

    def __init__(self, function: Score, name: str) -> None:
        self._function, self.name = function, name

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """What the function gives."""
        return self._function(images, prompts)


def check_first_scores(reward: Reward) -> None:
    """Have the first scores of a reward checked.

    Scoring then raises `UserError`, one sentence, for scores that are not a floating-point tensor
    (N,) on the images' device, and for those without the gradient that a training asks for.
    """
    score = reward.score

    def checked(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = score(images, prompts)
        if problem := _problem(images, scores):
            raise UserError(f"the reward {reward.name} {problem}")
        reward.score = score  # type: ignore[method-assign]
        return scores

    reward.score = checked  # type: ignore[method-assign]


def _problem(images: Tensor, scores: Tensor) -> str | None:
    count = len(images)
    if not isinstance(scores, Tensor):
        return f"returns a {type(scores).__name__}: return a tensor of {count} scores"
    if scores.shape != (count,):
        return f"gives scores of shape {tuple(scores.shape)} for {count} images: return ({count},)"
    if not scores.is_floating_point():
        return f"gives scores of type {scores.dtype}: return floating-point numbers"
    if scores.device != images.device:
        return f"gives scores on {scores.device} for images on {images.device}: keep their device"
    wanted = torch.is_grad_enabled() and images.requires_grad
    if wanted and not scores.requires_grad:
        return (
            "passes no gradient to the images: compute it with torch and without detach or no_grad,"
            " or train with an algorithm that needs none, such as ppo"
        )
    return None
