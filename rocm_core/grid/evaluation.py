"""What is evaluated where: prompt sets and their sizes, numbers of inference steps, the models of a
study."""

import functools
from collections.abc import Iterable, Sequence

from rocm_core.configuration import Config, GenerationSettings
from rocm_core.grid.cells import Cell, make_grid, spell
from rocm_core.grid.chains import chain_of
from rocm_core.prompts import prompt_count

_AT = "--lora-"
BEST = "rocm-best"  # in a study: the best ROCM cell of a reward and a seed


def contests(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """{`<reward>/rocm-best/seed-<n>`: the cells of which it is the best}: ROCM without a divergence
    and with each, as configured; no cell of a sweep, no trial of a search."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        is_rocm = (cell.settings.algorithm, cell.settings.policy) == ("direct", "consistency")
        if is_rocm and not cell.swept and not cell.trial:
            found.setdefault(f"{cell.reward}/{BEST}/seed-{cell.seed}", []).append(cell)
    return found


def training_sets(cells: Sequence[Cell]) -> list[str]:
    """The prompt sets that cells train on."""
    return list(dict.fromkeys(cell.settings.prompts for cell in cells))


def evaluation_sets(config: Config, cells: Sequence[Cell]) -> list[str]:
    """The prompt sets that sources are evaluated on: `validation`, then any further ones."""
    others = {"train", "validation", *training_sets(cells)}
    return ["validation", *(name for name in config.prompts if name not in others)]


def snapshot_prompts(config: Config) -> int:
    """How many of the first validation prompts each snapshot is evaluated on; 0: none."""
    most = prompt_count(config.prompts["validation"])
    return config.snapshots.prompts if most is None else min(config.snapshots.prompts, most)


def inference_steps(config: Config) -> tuple[int | None, ...]:
    """The numbers of inference steps at which images are made, None for `own_steps`."""
    given = config.generation.inference_steps
    return given if isinstance(given, tuple) else (given,)


@functools.cache
def own_steps(config: Config, policy: str) -> int:
    """The number of inference steps of a policy's images where the configuration names none: what
    all of its cells are trained with, but those of sweeps; the policy's own where they differ."""
    cells = (cell for cell in make_grid(config) if not (cell.swept or cell.trial))
    trained = {c.settings.inference_steps for c in cells if c.settings.policy == policy}
    return trained.pop() if len(trained) == 1 else config.policies[policy].steps


def drawn_otherwise(config: Config) -> list[Cell]:
    """The cells, but for sweeps, whose images are made at no number of steps that they are trained
    with."""
    return [
        cell
        for cell in make_grid(config)
        if not (cell.swept or cell.trial)
        and cell.settings.inference_steps
        not in {n or own_steps(config, cell.settings.policy) for n in inference_steps(config)}
    ]


def sample_sets(config: Config, sets: Sequence[str], source: Cell | str) -> list[tuple[str, int]]:
    """The (prompt set, inference steps) of which a source's images are made, the main one first.

    Every one of `sets`, the `evaluation_sets`, at the first number of steps, and the validation
    prompts at all of them. Of a swept cell, whose setting is in question, the main one only.
    """
    policy = source.settings.policy if isinstance(source, Cell) else source
    own = own_steps(config, policy)
    steps = list(dict.fromkeys(given or own for given in inference_steps(config)))
    if isinstance(source, Cell) and source.swept:
        return [("validation", steps[0])]
    return [
        *((name, steps[0]) for name in sets),
        *(("validation", number) for number in steps[1:]),
    ]


def lora_scales(config: Config) -> tuple[float, ...]:
    """The strengths of adapters at which images are made, the main one first."""
    given = config.generation.lora_scale
    return given if isinstance(given, tuple) else (given,)


def at_scale(steps: int, scale: float) -> str:
    """What the images at another strength of the adapter have in place of their number of steps."""
    return f"{steps}{_AT}{spell(scale)}"


def scaled_sets(config: Config, source: Cell | str) -> list[tuple[str, str]]:
    """(prompt set, `at_scale`) of the images at further strengths of a cell's adapter: the
    validation prompts at the first number of steps. None of a base or of a swept cell."""
    if not isinstance(source, Cell) or source.swept:
        return []
    name, steps = sample_sets(config, ["validation"], source)[0]
    return [(name, at_scale(steps, scale)) for scale in lora_scales(config)[1:]]


def generation_settings(
    config: Config, source: Cell | str, drawn: int | str | None = None
) -> GenerationSettings:
    """How the images of a cell, or of a policy's base model, are made for scoring.

    The chain has as many steps for every source, so that images differ by the weights alone:
    those of `drawn`, a number or `at_scale`, else the first that the configuration names.
    """
    steps, _, scale = str(drawn or "").partition(_AT)
    name = source.settings.policy if isinstance(source, Cell) else source
    policy = config.policies[name]
    guidance = source.settings.guidance_scale if isinstance(source, Cell) else policy.guidance_scale
    return GenerationSettings(
        policy=name,
        chain=chain_of(config, name),
        model=policy.model,
        gamma=policy.gamma,
        timesteps=policy.timesteps,
        model_lora=policy.lora,
        resolution=config.resolution,
        inference_steps=int(steps or 0) or inference_steps(config)[0] or own_steps(config, name),
        guidance_scale=guidance,
        seed=config.generation.seed,
        batch_size=config.generation.batch_size,
        lora_scale=float(scale or lora_scales(config)[0]) if isinstance(source, Cell) else 1.0,
    )
