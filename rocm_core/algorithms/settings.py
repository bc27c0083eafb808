"""Settings that several algorithms share, and that the trainer uses for those that have them."""

from typing import Annotated, ClassVar, Literal

from rocm_core.configuration import TrainingSettings, Whole, number


class CalibratedSettings(TrainingSettings):
    """Of an algorithm that weighs a divergence against a reward: `beta: auto` is possible."""

    beta_calibration_steps: Annotated[Whole, number(1, 1_000_000, "steps")] = 20
    """With `beta: auto`: steps without divergence, on a copy of the adapter, after which reward and
    divergence are compared."""


class BackpropagationSettings(TrainingSettings):
    """Of an algorithm that backpropagates through the whole trajectory (`DIFFERENTIATES`)."""

    backpropagates: ClassVar[bool] = True
    memory: Annotated[float, number(0.001, 1e6, "GiB")] | Literal["auto"] = "auto"
    """Most memory that a training step may take, weights included; `auto` is what the device has.
    Where activations do not fit, each step of the chain or each block of the networks is computed
    again in the backward pass: more time, the same gradient."""
    compile: bool = False
    """Compile the U-Net with torch.compile, for direct optimisation: minutes at the start of each
    training and after each interruption, faster steps after; for long ones. The same gradient,
    rounded differently."""


class ReducedSettings(TrainingSettings):
    """Of an algorithm that looks at distances of latents."""

    reduction: Literal["sum", "mean"] = "sum"
    """How the latent's dimensions are reduced, summed or averaged, in the squared distance of two
    means before the divergence is taken of it, and in log-probabilities. The paper does not say;
    its peers take the mean."""
