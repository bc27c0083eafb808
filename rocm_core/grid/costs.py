"""What a pass of each published network takes, as torch counts it on tensors without storage.

tests/unit/test_flops.py and tests/true_size.py count; the latter also predicts the memory, which
stands in docs/reproducing.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from rocm_core.configuration import Config
from rocm_core.grid.models import denoiser

Pair = tuple[float, float]


@dataclass(frozen=True)
class Costs:
    """A network of images of `side` pixels.

    forward, backward, decode: TFLOP of one image at each of `sides`, of the network forward and, to
    states and adapter, backward; of the decoder. embeds: whether a guidance scale is an embedding
    rather than a second pass; None: it is in consistency models only. bytes_per_rank: of a LoRA on
    its attention in float32. memory: GiB, by side, of a training in bfloat16 with a divergence and
    a ViT-H, image by image: each step checkpointed and, where it was predicted, each block.
    """

    name: str
    side: int
    sides: tuple[int, int]
    forward: Pair
    backward: Pair
    decode: Pair
    bytes_per_rank: float
    embeds: bool | None = None
    memory: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def teraflop(self, side: int) -> tuple[float, float, float]:
        """`forward`, `backward`, `decode` at a side in pixels: between and beyond `sides` they grow
        as a power of it."""
        low, high = self.sides
        share = math.log(side / low) / math.log(high / low)
        return tuple(  # type: ignore[return-value]
            small * (large / small) ** share
            for small, large in (self.forward, self.backward, self.decode)
        )


STABLE_DIFFUSION = Costs(
    *("Stable Diffusion 1.5", 512, (512, 768), (0.81, 2.16), (0.93, 2.79), (2.5, 5.75), 0.8e6),
    memory={512: (9,), 768: (13,)},
)
_LARGE = 1024, (512, 1024)
# By the denoiser, of which each published few-step model is the one here.
COSTS = {
    "stable_diffusion": STABLE_DIFFUSION,
    "stable_diffusion_xl": Costs(
        *("SDXL", *_LARGE, (1.60, 6.80), (1.61, 7.58), (2.53, 10.75), 5.8e6),
        memory={1024: (32, 21)},
    ),
    "pixart": Costs(
        *("PixArt-α", *_LARGE, (1.25, 6.56), (1.39, 8.82), (2.53, 10.75), 2.1e6, False),
        memory={1024: (20, 11)},
    ),
    "sana": Costs(
        *("SANA-Sprint", *_LARGE, (0.84, 2.99), (0.74, 2.94), (2.09, 8.37), 2.9e6, True),
        memory={1024: (23, 15)},
    ),
    "stable_diffusion_3": Costs(
        *("SD3.5-large", *_LARGE, (8.00, 31.2), (8.68, 38.5), (2.53, 10.75), 3.0e6, False),
        memory={1024: (69, 25)},
    ),
    "flux": Costs(
        *("FLUX.1", *_LARGE, (17.7, 69.6), (18.9, 83.0), (2.53, 10.75), 4.7e6, True),
        memory={1024: (102, 35)},
    ),
}


def costs_of(config: Config, policy: str) -> Costs | None:
    """What a pass of a policy's network takes, as its model's pipeline says, before the model is
    fetched and after; None where that is not known or the network is not among `COSTS`."""
    return COSTS.get(denoiser(config.policies[policy].model) or "")
