"""A function's first value twice over, of which one carries no gradient to its argument."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def split_gradient(
    function: Callable[[Tensor], tuple[Tensor, ...]],
    state: Tensor,
    parameters: Sequence[Tensor],
    checkpoint: bool,
) -> tuple[Tensor, ...]:
    """The values of `function(state)`, evaluated once, with the first returned twice: first with
    gradient to the state and to `parameters`, then to `parameters` only. The others are constants.

    Two cotangents must reach the parameters and one of them the state, so the function is passed
    backward twice; a second forward pass at a detached copy of the state would be dearer.
    checkpoint: evaluate the function again in the backward pass instead of keeping its activations.
    """
    return _SplitGradient.apply(function, checkpoint, state, *parameters)


class _SplitGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[[Tensor], tuple[Tensor, ...]],
        checkpoint: bool,
        state: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.function, ctx.graph = function, None
        ctx.save_for_backward(state, *parameters)
        if checkpoint:
            values = function(state)
        else:
            with torch.enable_grad():
                inside, values = _evaluate(function, state, ctx.needs_input_grad[2])
            ctx.graph = inside, values[0]
        mean, *constants = (value.detach() for value in values)
        ctx.mark_non_differentiable(*constants)
        return mean, mean.detach(), *constants

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, chain: Tensor, regularised: Tensor, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        state, *parameters = ctx.saved_tensors
        if ctx.graph is None:
            with torch.enable_grad():
                inside, values = _evaluate(ctx.function, state, ctx.needs_input_grad[2])
            ctx.graph = inside, values[0]
        inside, mean = ctx.graph
        gradient = None
        if inside.requires_grad:
            (gradient,) = torch.autograd.grad(mean, inside, chain, retain_graph=True)
        total = chain + regularised
        gradients = torch.autograd.grad(mean, parameters, total, allow_unused=True)
        ctx.graph = None
        return None, None, gradient, *gradients


def _evaluate(
    function: Callable[[Tensor], tuple[Tensor, ...]], state: Tensor, requires_grad: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """A detached copy of the state, and the values of `function` there."""
    inside = state.detach().requires_grad_(requires_grad)
    # Through a view, because torch's FLOP counter cannot watch a module that is given a leaf here.
    return inside, function(inside.view_as(inside))
