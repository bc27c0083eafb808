"""What is evaluated where: prompt sets and numbers of inference steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rocm_core.configuration import GenerationSettings
from rocm_core.grid.cells import Cell

if TYPE_CHECKING:
    from rocm_core.configuration import Config


def training_sets(cells: Sequence[Cell]) -> list[str]:
    """The prompt sets that cells train on."""
    return list(dict.fromkeys(cell.settings.prompts for cell in cells))


def evaluation_sets(config: "Config", cells: Sequence[Cell]) -> list[str]:
    """The prompt sets that sources are judged on: `validation` and, after it, any further ones."""
    others = {"train", "validation", *training_sets(cells)}
    return ["validation", *(name for name in config.prompts if name not in others)]


def sample_sets(
    config: "Config", judged: Sequence[str], source: Cell | str
) -> list[tuple[str, int]]:
    """The (prompt set, inference steps) of which a source's images are made, the main one first.

    Every set of `judged`, the `evaluation_sets`, at the first number of steps, and the validation
    prompts at all of them. Of a swept cell, whose setting is in question, the main one only.
    """
    policy = source.settings.policy if isinstance(source, Cell) else source
    own = config.policies[policy].steps
    steps = list(dict.fromkeys(given or own for given in config.generation.steps))
    if isinstance(source, Cell) and source.swept:
        return [("validation", steps[0])]
    sets = [(name, steps[0]) for name in judged]
    return [*sets, *(("validation", number) for number in steps[1:])]


def generation_settings(
    config: "Config", source: Cell | str, steps: int | None = None
) -> GenerationSettings:
    """How the images of a cell, or of a policy's base model, are made for scoring.

    The chain has as many steps for every source, so that images differ by the weights alone:
    `steps`, else the first that the configuration names.
    """
    name = source.settings.policy if isinstance(source, Cell) else source
    policy = config.policies[name]
    guidance = source.settings.guidance_scale if isinstance(source, Cell) else policy.guidance_scale
    return GenerationSettings(
        policy=name,
        model=policy.model,
        model_lora=policy.lora,
        inference_steps=steps or config.generation.steps[0] or policy.steps,
        guidance_scale=guidance,
        seed=config.generation.seed,
        batch_size=config.generation.batch_size,
    )
