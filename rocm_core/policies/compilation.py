"""Compiling a network with torch, and running it uncompiled for a while."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from rocm_core.errors import UserError
from rocm_core.policies.compensation import torch_name


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Have torch compile the network, with the adapter that it has.

    Takes minutes, at the first pass of each kind: with and without adapter and gradient. Raises
    `UserError` where this machine cannot compile.
    """
    from torch._functorch import config as gradients
    from torch._inductor import config as code

    # `stop` passes backward twice, so that what a pass keeps must outlive its first backward.
    gradients.donated_buffer = False
    # Else kinds round to bfloat16 in other places, and the adapter starts off the reference.
    code.emulate_precision_casts = True
    # Here and not as its decorator, which would import the compiler wherever a policy is.
    torch.compiler.assume_constant_result(torch_name)
    try:
        torch.compile(_probe)(torch.zeros(8, device=device))
    except Exception as error:  # of as many kinds as there are compilers
        reason = str(error).strip().partition("\n\n")[0]
        raise UserError(
            f"compile: torch cannot compile here ({type(error).__name__}: {reason}): install a"
            " C++ compiler, for a GPU Triton too, or leave compile out"
        ) from error
    network.compile(dynamic=False)


def _probe(values: Tensor) -> Tensor:
    return values.sin() + 1


@contextlib.contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Inside, the network runs operation by operation.

    What watches single operations needs it: a compiled network that is first called under a
    dispatch mode is never compiled.
    """
    compiled, network._compiled_call_impl = network._compiled_call_impl, None
    try:
        yield
    finally:
        network._compiled_call_impl = compiled
