"""The chains of a configuration's policies, and whether their steps draw noise."""

from rocm_core.configuration import Config
from rocm_core.grid.models import default_chain, scheduler_says
from rocm_core.plugins import facts


def chain_of(config: Config, policy: str) -> str:
    """The name of the chain that a policy of the configuration has.

    A diffusion model's scheduler says how it is sampled without noise, or by whom: not its chain.
    """
    settings = config.policies[policy]
    if settings.chain or policy == "diffusion":
        return settings.chain or "ddim"
    return default_chain(settings.model) or "lcm"


def never_draws(config: Config, policy: str, chain: str) -> bool:
    """Whether no step of a policy's chain is known to draw noise."""
    about, own = facts("chains", chain, f"policies.{policy}.chain"), config.policies[policy]
    key = about["DRAWS_WITH"]
    if key in about["OPTIONS"]:
        return getattr(own, key) == 0
    return bool(key) and not scheduler_says(own.model, key)


def ends_without_noise(config: Config, policy: str, chain: str) -> bool | None:
    """Whether the last step of a policy's chain is deterministic; None where it is not known."""
    says = facts("chains", chain, f"policies.{policy}.chain")["DETERMINISTIC_LAST"]
    if isinstance(says, bool):
        return says
    value = scheduler_says(config.policies[policy].model, says)
    return value if isinstance(value, bool) else None
