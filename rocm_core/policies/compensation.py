"""Policy and reference in one pass below float32, with the adapter's effect kept from rounding.

Two passes in bfloat16 round apart wherever their activations differ at all: the squared distance of
their means is then mostly rounding (docs/method.md). Here an activation is a `Pair`: the value that
the reference has, and the change that the adapter makes to it, from the first adapted layer on.

    linear map          W(h + δ) - Wh = Wδ
    adapted layer       the same, and the adapter's own product s·BA(h + δ); less the reference's
                        s·BA(h) where it has an adapter of its own
    anything else       f(h + δ) - f(h), in float32

Both share the rounding of the value, and the change is rounded by its own size. Autograd passes
through both.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rocm_core.policies.denoisers.denoiser import HALF
from rocm_core.policies.lora import ADAPTER, REFERENCE, adapted_layers

# Functions and methods, by torch's names for them.
_ABOUT = {"size", "dim", "numel", "stride", "is_contiguous", "is_floating_point"}
_SUMS = {"add", "radd", "sub", "rsub"}  # linear in both arguments together
_JOINED = {"cat", "stack"}  # linear in the tensors of a list
_PRODUCTS = {"mul", "rmul"}  # linear in each argument
_LINEAR = {  # in the first argument
    *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "movedim", "contiguous"),
    *("squeeze", "unsqueeze", "expand", "chunk", "split", "unbind", "getitem", "clone", "detach"),
    *("to", "float", "interpolate", "neg", "mean", "sum", "div", "truediv"),
}
_AFFINE = {"linear", "conv1d", "conv2d", "conv3d"}  # of (input, weight, bias, …)
_OPERATORS = [
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "rmatmul"),
    *("pow", "rpow", "neg", "getitem"),
]


class Pair:
    """What stands for a tensor where the adapter has an effect."""

    def __init__(self, value: Tensor, change: Tensor) -> None:
        self.value, self.change = value, change

    @property
    def total(self) -> Tensor:
        """The policy's activation, at least in float32."""
        return _wide(self.value) + _wide(self.change)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _apply(function, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        """A tensor's methods; shape, dtype and the like are the value's."""
        method = getattr(Tensor, name)
        if callable(method):
            return lambda *args, **kwargs: _apply(method, (self, *args), kwargs)
        return getattr(self.value, name)


def _operator(method: Callable[..., Any]) -> Callable[..., Any]:
    return lambda pair, *args: _apply(method, (pair, *args), {})


for _name in _OPERATORS:
    setattr(Pair, f"__{_name}__", _operator(getattr(Tensor, f"__{_name}__")))


def _apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """`function` of arguments of which some are pairs."""
    name = torch_name(function)
    if name in _ABOUT:
        return function(args[0].value, *args[1:], **kwargs)
    pairs = [leaf for leaf in _leaves([*args, *kwargs.values()]) if isinstance(leaf, Pair)]
    first = len(pairs) == 1 and args and args[0] is pairs[0]
    if name in _AFFINE and first:
        return _affine(function, *args, **kwargs)
    if name in _JOINED or (name in _SUMS and all(isinstance(a, Tensor | Pair) for a in args)):
        parts = _value, _change_or_zero
    elif (name in _PRODUCTS and len(pairs) == 1) or (name in _LINEAR and first):
        parts = _value, _change
    else:
        with torch.autocast(pairs[0].value.device.type, enabled=False):
            values, totals = (_call(function, p, args, kwargs) for p in (_wide_value, _wide_total))
        return _paired(values, totals, lambda value, total: total - value)
    values, changes = (_call(function, part, args, kwargs) for part in parts)
    return _paired(values, changes, lambda value, change: change)


def torch_name(function: Callable[..., Any]) -> str:
    """torch's name without underscores; refuses what works in place."""
    name = function.__name__
    if name.endswith("_") and not name.startswith("__"):
        raise TypeError(f"{name} works in place, where an adapter is compared with its reference")
    return name.strip("_")


def _affine(
    function: Callable[..., Tensor],
    input: Pair,
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Pair:
    value, change = input.value.to(weight.dtype), input.change.to(weight.dtype)
    value = function(value, weight, bias, *args, **kwargs)
    return Pair(value, function(change, weight, None, *args, **kwargs))


def _call(
    function: Callable[..., Any],
    part: Callable[[Any], Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """`function` of a part of each argument; lists, as `cat` takes them, hold arguments."""
    given = [type(a)(map(part, a)) if isinstance(a, list | tuple) else part(a) for a in args]
    return function(*given, **{key: part(value) for key, value in kwargs.items()})


def _paired(values: Any, others: Any, change: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Pairs of the results of a function, or of functions that return several."""
    if isinstance(values, Tensor):
        return Pair(values, change(values, others))
    return tuple(Pair(v, change(v, o)) for v, o in zip(values, others, strict=True))


def _leaves(arguments: list[Any]) -> Iterator[Any]:
    for argument in arguments:
        yield from argument if isinstance(argument, list | tuple) else [argument]


def _value(argument: Any) -> Any:
    return argument.value if isinstance(argument, Pair) else argument


def _change(argument: Any) -> Any:
    return argument.change if isinstance(argument, Pair) else argument


def _change_or_zero(argument: Any) -> Any:
    return torch.zeros_like(argument) if isinstance(argument, Tensor) else _change(argument)


def _wide_value(argument: Any) -> Any:
    return _wide(_value(argument))


def _wide_total(argument: Any) -> Any:
    return argument.total if isinstance(argument, Pair) else _wide(argument)


def _wide(argument: Any) -> Any:
    """A tensor of half precision in float32, everything else as it is."""
    is_half = isinstance(argument, Tensor) and argument.dtype in HALF
    return argument.float() if is_half else argument


@contextlib.contextmanager
def compensated(network: nn.Module) -> Iterator[None]:
    """Inside, the network's output is a `Pair`, where its adapter has an effect."""
    layers = [] if is_compensated(network) else adapted_layers(network)
    for layer in layers:
        layer.forward = vars(layer).setdefault("_both", functools.partial(_adapted, layer))
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def is_compensated(network: nn.Module) -> bool:
    """Whether the network evaluates policy and reference in one pass."""
    return any("forward" in vars(layer) for layer in adapted_layers(network)[:1])


def _adapted(layer: Any, input: Tensor | Pair) -> Pair:
    """An adapted layer's value as the reference has it, and what the adapter changes of that."""
    down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    total = input.total if isinstance(input, Pair) else input
    change = up(down(total.to(down.weight.dtype))) * layer.scaling[ADAPTER]
    base = layer.base_layer(input)
    if REFERENCE in layer.lora_A:  # the reference's value has products of its own
        down, up = layer.lora_A[REFERENCE], layer.lora_B[REFERENCE]
        moved = up(down(_value(input).to(down.weight.dtype))) * layer.scaling[REFERENCE]
        change = change - moved
        value = _value(base)
        value = (value + moved).to(value.dtype)
        base = Pair(value, base.change) if isinstance(base, Pair) else value
    if isinstance(base, Pair):
        return Pair(base.value, base.change + change)
    return Pair(base, change)
