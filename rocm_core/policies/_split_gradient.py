"""A function's value twice over, of which one carries no gradient to its argument."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def split_gradient(
    function: Callable[[Tensor], Tensor],
    state: Tensor,
    parameters: Sequence[Tensor],
    checkpoint: bool,
) -> tuple[Tensor, Tensor]:
    """`function(state)`, evaluated once and returned twice: the first result carries gradient to
    the state and to `parameters`, the second to `parameters` only.

    Two cotangents must reach the parameters and one of them the state, so the function is passed
    backward twice; a second forward pass at a detached copy of the state would be dearer.
    checkpoint: evaluate the function again in the backward pass instead of keeping its activations.
    """
    return _SplitGradient.apply(function, checkpoint, state, *parameters)


class _SplitGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[[Tensor], Tensor],
        checkpoint: bool,
        state: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.function, ctx.graph = function, None
        ctx.save_for_backward(state, *parameters)
        if checkpoint:
            mean = function(state)
        else:
            with torch.enable_grad():
                ctx.graph = _evaluate(function, state, ctx.needs_input_grad[2])
            mean = ctx.graph[1]
        return mean.detach(), mean.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, chain: Tensor, regularised: Tensor) -> tuple[Tensor | None, ...]:
        state, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            graph = ctx.graph or _evaluate(ctx.function, state, ctx.needs_input_grad[2])
        inside, mean = graph
        gradient = None
        if inside.requires_grad:
            (gradient,) = torch.autograd.grad(mean, inside, chain, retain_graph=True)
        total = chain + regularised
        gradients = torch.autograd.grad(mean, parameters, total, allow_unused=True)
        ctx.graph = None
        return None, None, gradient, *gradients


def _evaluate(
    function: Callable[[Tensor], Tensor], state: Tensor, requires_grad: bool
) -> tuple[Tensor, Tensor]:
    """A detached copy of the state, and `function` of it."""
    inside = state.detach().requires_grad_(requires_grad)
    # Through a view, because torch's FLOP counter cannot watch a module that is given a leaf here.
    return inside, function(inside.view_as(inside))
