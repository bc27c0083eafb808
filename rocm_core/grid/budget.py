"""What a grid costs before it is run: operations, images and bytes, from its settings alone."""

import math
from dataclasses import astuple, dataclass, replace

from rocm_core.configuration import Config, Search, TrainingSettings
from rocm_core.grid.artefacts import Artefacts
from rocm_core.grid.cells import Cell, chain_of, ends_without_noise
from rocm_core.grid.evaluation import (
    generation_settings,
    sample_sets,
    scaled_sets,
    snapshot_prompts,
)
from rocm_core.grid.snapshots import snapshot_steps
from rocm_core.grid.used import gating
from rocm_core.prompts import prompt_count

# TFLOP of one image at sides of 512 and 768 pixels, as torch counts them for Stable Diffusion 1.5
# (tests/unit/test_flops.py): the U-Net forward and, to states and adapter, backward; the decoder.
SIDES = (512, 768)
FORWARD, BACKWARD, DECODE = (0.81, 2.16), (0.93, 2.79), (2.5, 5.75)
SCORE = 0.33  # of a ViT-H

# TFLOP/s of dense bfloat16 that the makers state, and the shares of it that a training of one image
# at a time may reach: an assumption, explained in docs/reproducing.md.
GPUS = {"H100": 989.0, "L40S": 362.0, "A100": 312.0, "RTX 4090": 165.0, "A6000": 155.0}
REACHED = (0.2, 0.1)

UNKNOWN_PROMPTS = 500  # of a list whose number the configuration does not say
BYTES_PER_PIXEL = 1.9  # of a PNG
BYTES_PER_RANK = 0.8e6  # of a LoRA on the attention of Stable Diffusion 1.5, in float32


@dataclass(frozen=True)
class Work:
    """Passes of networks: of the U-Net forward and backward; of the decoder and of scorers, which
    take as much in either direction."""

    forward: float = 0.0
    backward: float = 0.0
    decoded: float = 0.0
    scored: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, images: float) -> "Work":
        return Work(*(images * passes for passes in astuple(self)))

    def teraflop(self, side: int) -> float:
        """The operations at a side of the images in pixels; between and beyond `SIDES` they grow
        as a power of it."""
        forward, backward, decode = (
            small * (side / SIDES[0]) ** (math.log(large / small) / math.log(SIDES[1] / SIDES[0]))
            for small, large in (FORWARD, BACKWARD, DECODE)
        )
        passes = self.forward * forward + self.backward * backward
        return passes + self.decoded * decode + self.scored * SCORE


def images_per_iteration(settings: TrainingSettings) -> int:
    """Reward queries of an iteration of one process."""
    return settings.batch_size * settings.accumulation_steps


def training_work(config: Config, settings: TrainingSettings, *, rounds: bool = True) -> Work:
    """The passes for one image of a training (docs/method.md, "What they cost"). `rounds`: in
    bfloat16, where means that are compared come from one pass of policy and reference."""
    work = _of_one_scorer(config, settings, rounds)
    scored = len(config.members(settings.reward)) * work.scored + len(gating(settings))
    return replace(work, scored=scored)


def _of_one_scorer(config: Config, settings: TrainingSettings, rounds: bool) -> Work:
    steps, policy = settings.inference_steps, settings.policy
    last = int(bool(ends_without_noise(config, policy, chain_of(config, policy))))
    drawn = steps - last
    guided = 1 + (policy != "consistency" and settings.guidance_scale > 1)
    compared = settings.divergence != "none"
    of_last = compared * getattr(settings, "last_step_divergence", False)
    if settings.backpropagates and not settings.learns_from_noise:
        reference = compared * drawn + of_last
        carried, redrawn = _carried(settings, last), getattr(settings, "low_variance", None)
        # The first state is noise, which needs no gradient.
        backward = carried + max(0, min(reference - 1, carried - last + of_last))
        if redrawn:
            steps, backward = steps + redrawn * last, redrawn * last
        return Work(
            guided * (steps + reference), guided * backward, 2 * (redrawn or 1), 2 * (redrawn or 1)
        )
    epochs = getattr(settings, "inner_epochs", 1)
    stale = epochs * getattr(settings, "updates_per_iteration", 1) > 1
    paired = rounds and (compared or stale)
    sampled, learned = steps * (1 + paired), drawn * epochs * (1 + (compared or paired))
    if settings.algorithm == "rebel" and stale:
        learned += drawn * epochs * (1 + rounds)  # for the residuals
    learned += 2 * of_last * epochs
    backward = (drawn + of_last) * epochs
    through = epochs * settings.backpropagates  # the last step, decoder and reward
    return Work(
        guided * (sampled + learned + last * through),
        guided * (backward + last * through),
        1 + 2 * through,
        1 + 2 * through,
    )


def _carried(settings: TrainingSettings, last: int) -> float:
    """How many steps carry gradient, on average, where the last `last` draw no noise."""
    truncate = getattr(settings, "truncate", None) or settings.inference_steps
    if isinstance(truncate, tuple):
        return sum(truncate) / 2
    return last if truncate == "last" else truncate


@dataclass(frozen=True)
class Budget:
    """What a grid takes. `work` by part of the workflow; `guessed` are the prompt sets that are
    counted as `UNKNOWN_PROMPTS`."""

    work: dict[str, Work]
    images: int
    image_bytes: float
    lora_bytes: float
    guessed: list[str]


def budget_of(config: Config) -> Budget:
    """The budget of all that a configuration asks for, done or not."""
    files = Artefacts(config)
    known = {name: prompt_count(prompts) for name, prompts in config.prompts.items()}
    sizes = {name: count or UNKNOWN_PROMPTS for name, count in known.items()}
    work = {"training": Work(), "searches": Work(), "images and scores": Work()}
    images, lora = 0, 0.0
    for name, cell in files.cells.items():
        queries = cell.settings.iterations * images_per_iteration(cell.settings)
        queries *= max(1, config.resources.gpus)  # each a process with batches of its own
        rounds = config.world == "paper"
        work["searches" if cell.trial else "training"] += (
            training_work(config, cell.settings, rounds=rounds) * queries
        )
        kept = snapshot_steps(cell.settings)
        lora += (1 + len(kept)) * _rank(cell.settings) * BYTES_PER_RANK
        if choosers := files.choosers(name):
            steps, most = len(kept) + 1, config.snapshots.stop_prompts
            own = _drawing(config, cell, cell.settings.inference_steps)
            prompts = min(most, known.get(cell.settings.prompts) or most)
            work["images and scores"] += replace(own, scored=len(choosers)) * (steps * prompts)
        if name in files.evaluated():
            own = _drawing(config, cell, cell.settings.inference_steps)
            own += Work(forward=own.forward)  # by the reference, for the distance to it
            work["images and scores"] += own * (len(kept) * snapshot_prompts(config))
            images += len(kept) * snapshot_prompts(config)
    for source in files.sources.values():
        for name, steps in sample_sets(config, files.evaluation_sets, source):
            work["images and scores"] += _drawing(config, source, steps) * sizes[name]
            images += sizes[name]
        for name, drawn in scaled_sets(config, source):
            steps = generation_settings(config, source, drawn).inference_steps
            work["images and scores"] += _drawing(config, source, steps) * sizes[name]
            images += sizes[name]
    for policy, prompt_set, scorers in files.measured_bases().values():
        own = _drawing(config, policy, files.generation(f"base-{policy}").inference_steps)
        count = known.get(prompt_set) or UNKNOWN_PROMPTS
        work["images and scores"] += replace(own, scored=len(scorers)) * count
    pixels = (config.resolution or SIDES[0]) ** 2
    guessed = [name for name in files.evaluation_sets if known[name] is None]
    return Budget(work, images, images * pixels * BYTES_PER_PIXEL, lora, guessed)


def _drawing(config: Config, source: Cell | str, steps: int) -> Work:
    """The passes for an image that all metrics score."""
    policy = source.settings.policy if isinstance(source, Cell) else source
    guided = 1 + (policy != "consistency" and config.policies[policy].guidance_scale > 1)
    return Work(forward=steps * guided, decoded=1, scored=len(config.metrics))


def _rank(settings: TrainingSettings) -> float:
    rank = settings.lora_rank
    return max(rank.search) if isinstance(rank, Search) else rank
