"""What a grid costs before it is run: operations, images and bytes, from its settings alone."""

from dataclasses import astuple, dataclass, replace

from rocm_core.configuration import Config, GenerationSettings, Search, TrainingSettings
from rocm_core.grid.artefacts import Artefacts
from rocm_core.grid.chains import chain_of, ends_without_noise
from rocm_core.grid.costs import STABLE_DIFFUSION, Costs, costs_of
from rocm_core.grid.evaluation import sample_sets, scaled_sets, snapshot_prompts
from rocm_core.grid.gradients import measured_steps
from rocm_core.grid.single_images import of_single_images
from rocm_core.grid.snapshots import snapshot_steps
from rocm_core.grid.used import gating
from rocm_core.prompts import prompt_count

SCORE = 0.33  # TFLOP of a ViT-H

# TFLOP/s of dense bfloat16 that the makers state, and the shares of it that a training of one image
# at a time may reach: an assumption, explained in docs/reproducing.md.
GPUS = {"H100": 989.0, "L40S": 362.0, "A100": 312.0, "RTX 4090": 165.0, "A6000": 155.0}
REACHED = (0.2, 0.1)

UNKNOWN_PROMPTS = 500  # of a list whose number the configuration does not say
BYTES_PER_PIXEL = 1.9  # of a PNG


@dataclass(frozen=True)
class Work:
    """Passes of networks: of the denoiser forward and backward; of the decoder and of scorers,
    which take as much in either direction."""

    forward: float = 0.0
    backward: float = 0.0
    decoded: float = 0.0
    scored: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, images: float) -> "Work":
        return Work(*(images * passes for passes in astuple(self)))

    def teraflop(self, side: int | None = None, costs: Costs = STABLE_DIFFUSION) -> float:
        """The operations at a side of the images in pixels, by default that of the network."""
        forward, backward, decode = costs.teraflop(side or costs.side)
        passes = self.forward * forward + self.backward * backward
        return passes + self.decoded * decode + self.scored * SCORE


def images_per_iteration(settings: TrainingSettings) -> int:
    """Images of an iteration of one process; some algorithms score them several times."""
    return settings.batch_size * settings.accumulation_steps


def training_work(config: Config, settings: TrainingSettings, *, rounds: bool = True) -> Work:
    """The passes for one image of a training (docs/baselines.md, "What they cost"). `rounds`: in
    bfloat16, where means that are compared come from one pass of policy and reference."""
    work = _of_one_scorer(config, settings, rounds)
    scored = len(config.members(settings.reward)) * work.scored + len(gating(settings))
    return replace(work, scored=scored)


def _of_one_scorer(config: Config, settings: TrainingSettings, rounds: bool) -> Work:
    steps, policy = settings.inference_steps, settings.policy
    last = int(bool(ends_without_noise(config, policy, chain_of(config, policy))))
    drawn = steps - last
    guided = _guided(config, policy, settings.guidance_scale)
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


def _guided(config: Config, policy: str, scale: float) -> int:
    """Passes per prediction. A U-Net that was distilled to a consistency model has an embedding of
    the scale; one that a LoRA makes consistent has not."""
    own, costs = config.policies[policy], costs_of(config, policy)
    distilled = chain_of(config, policy) == "lcm" and not own.lora
    embeds = distilled if costs is None or costs.embeds is None else costs.embeds
    return 1 + (scale > 1 and not embeds)


def _carried(settings: TrainingSettings, last: int) -> float:
    """How many steps carry gradient, on average, where the last `last` draw no noise."""
    truncate = getattr(settings, "truncate", None) or settings.inference_steps
    if isinstance(truncate, tuple):
        return sum(truncate) / 2
    return last if truncate == "last" else truncate


@dataclass(frozen=True)
class Budget:
    """What a grid takes. `work` and its operations, `teraflop`, by part of the workflow. `guessed`
    are the prompt sets that are counted as `UNKNOWN_PROMPTS`, `unpriced` the policies of whose
    passes the operations are not known, and that `teraflop` and `lora_bytes` leave out."""

    work: dict[str, Work]
    teraflop: dict[str, float]
    unpriced: list[str]
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
    costs = {policy: costs_of(config, policy) for policy in config.policies}
    teraflop, unpriced = dict.fromkeys(work, 0.0), set()
    images, image_bytes, lora = 0, 0.0, 0.0

    def add(part: str, policy: str, more: Work) -> None:
        work[part] += more
        if (own := costs[policy]) is None:
            unpriced.add(policy)
        else:
            teraflop[part] += more.teraflop(config.resolution, own)

    def keep(policy: str, count: int) -> None:
        nonlocal images, image_bytes
        own = costs[policy] or STABLE_DIFFUSION
        images += count
        image_bytes += count * (config.resolution or own.side) ** 2 * BYTES_PER_PIXEL

    for name, cell in files.cells.items():
        policy = cell.settings.policy
        queries = cell.settings.iterations * images_per_iteration(cell.settings)
        queries *= max(1, config.resources.gpus)  # each a process with batches of its own
        rounds = config.world == "paper"
        passes = training_work(config, cell.settings, rounds=rounds)
        add("searches" if cell.trial else "training", policy, passes * queries)
        kept = snapshot_steps(cell.settings)
        bytes_per_rank = own.bytes_per_rank if (own := costs[policy]) else 0.0
        lora += (1 + len(kept)) * _rank(cell.settings) * bytes_per_rank
        drawing = _drawing(config, files.generation(name))
        if choosers := files.choosers(name):
            steps, most = len(kept) + 1, config.snapshots.stop_prompts
            prompts = min(most, known.get(cell.settings.prompts) or most)
            scored = replace(drawing, scored=len(choosers))
            add("images and scores", policy, scored * (steps * prompts))
        compared = files.gradients(name)
        for settings in compared.values():
            count, each = config.gradients.images, config.gradients.images_per_prompt
            single = of_single_images(settings, count, each)
            passes = training_work(config, single, rounds=rounds)
            measured = count * len(measured_steps(cell, [*compared]))
            add("images and scores", policy, passes * measured)
        if name in files.evaluated():
            drawing += Work(forward=drawing.forward)  # by the reference, for the distance to it
            count = len(kept) * snapshot_prompts(config)
            add("images and scores", policy, drawing * count)
            keep(policy, count)
    for name, source in files.sources.items():
        sets: list[tuple[str, int | str]] = [
            *sample_sets(config, files.evaluation_sets, source),
            *scaled_sets(config, source),
        ]
        for prompt_set, drawn in sets:
            images_of = files.generation(name, drawn)
            drawing = _drawing(config, images_of) * sizes[prompt_set]
            add("images and scores", images_of.policy, drawing)
            keep(images_of.policy, sizes[prompt_set])
    for policy, prompt_set, scorers in files.measured_bases().values():
        drawing = _drawing(config, files.generation(f"base-{policy}"))
        add("images and scores", policy, replace(drawing, scored=len(scorers)) * sizes[prompt_set])
    for run in {run.key: run for run in files.base_runs.values()}.values():
        one = next(iter(run.settings.values()))
        drawing = _drawing(config, one)
        count = one.iterations * images_per_iteration(one)
        add("images and scores", run.policy, replace(drawing, scored=len(run.settings)) * count)
    counted = [*files.evaluation_sets, *(name for _, name, _ in files.measured_bases().values())]
    guessed = [name for name in dict.fromkeys(counted) if known[name] is None]
    return Budget(work, teraflop, sorted(unpriced), images, image_bytes, lora, guessed)


def _drawing(config: Config, drawn: GenerationSettings | TrainingSettings) -> Work:
    """The passes for an image, drawn like this, that all metrics score."""
    passes = drawn.inference_steps * _guided(config, drawn.policy, drawn.guidance_scale)
    return Work(forward=passes, decoded=1, scored=len(config.metrics))


def _rank(settings: TrainingSettings) -> float:
    rank = settings.lora_rank
    return max(rank.search) if isinstance(rank, Search) else rank
