"""Chains, one module each: a scheduler's configuration and K become the numbers of K Gaussian
steps. They hold neither tensors nor a network."""

from rocm_core.policies.chains.chain import (
    Chain,
    Schedule,
    Step,
    prediction,
    set_timesteps,
    starting_at,
)
