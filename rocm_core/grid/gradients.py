"""Whose gradients are compared at the weights of a training."""

from collections.abc import Sequence

from rocm_core.configuration import Config, TrainingSettings
from rocm_core.errors import UserError
from rocm_core.grid.cells import Cell
from rocm_core.grid.search import searched
from rocm_core.grid.single_images import of_single_images
from rocm_core.plugins import require_known

# What the weights of a training fit, and by what they are judged.
_SHARED = (
    *("policy", "model", "model_lora", "chain", "gamma", "timesteps", "resolution"),
    *("inference_steps", "lora_rank", "lora_alpha", "lora_targets", "init_lora", "prompts"),
)


def compared_gradients(
    config: Config, cells: Sequence[Cell], cell: Cell
) -> dict[str, TrainingSettings]:
    """{method: its settings} of the trainings whose gradients are measured at the end of `cell`'s
    own: those that `gradients.methods` names, of its reward and seed; none where it is not one."""
    wanted = config.gradients.methods
    if cell.variant not in wanted or cell.trial:
        return {}
    alike = [c for c in cells if (c.reward, c.seed, c.trial) == (cell.reward, cell.seed, False)]
    return {c.variant: c.settings for c in alike if c.variant in wanted}


def measured_steps(cell: Cell, compared: Sequence[str]) -> dict[str, int]:
    """{"start" or "end": the iteration of `cell` at which prompts and noise are drawn}: all
    trainings start from the same weights, so the first of the `compared` has the start of all."""
    start = {"start": 1} if cell.variant == compared[0] else {}
    return start | {"end": cell.settings.iterations}


def check_gradients(config: Config, cells: Sequence[Cell]) -> None:
    """Raise `UserError` for methods that cannot be compared, and images that cannot be dealt."""
    images, each = config.gradients.images, config.gradients.images_per_prompt
    if each % 2 or images % each or images < 2 * each:
        raise UserError(
            f"gradients.images must be a multiple of images_per_prompt, and two at least, and that"
            f" be even, but they are {images} and {each}"
        )
    for method in config.gradients.methods:
        require_known(
            method, {c.variant for c in cells}, "gradients.methods", "not a method of a cell"
        )
    for cell in cells:
        for name, other in compared_gradients(config, cells, cell).items():
            differing = [k for k in _SHARED if getattr(other, k) != getattr(cell.settings, k)]
            if differing:
                raise UserError(
                    f"gradients.methods: {cell.variant} and {name} differ in {differing[0]} on"
                    f" {cell.reward}: name methods whose adapters fit each other"
                )
            if unknown := searched(of_single_images(other, images, each)):
                raise UserError(
                    f"gradients.methods: {min(unknown)} of {name} is yet to be searched: name a"
                    " method that has it"
                )
