"""A training's settings as they hold where gradients of single images are measured."""

from rocm_core.configuration import Search, TrainingSettings
from rocm_core.plugins import facts


def of_single_images(
    settings: TrainingSettings, images: int, images_per_prompt: int, step: int = 1
) -> TrainingSettings:
    """A batch is what has a gradient, an image or a pair. Each has one, without the divergence, at
    weights that stay, so that neither β nor the learning rate is needed: both may be searched."""
    unit = 2 if facts("algorithms", settings.algorithm)["PAIRED"] else 1
    alike = {
        "batch_size": unit,
        "accumulation_steps": images // unit,
        "updates_per_iteration": images // unit,
        "images_per_prompt": images_per_prompt,
        "inner_epochs": 1,
        "iterations": step,
        "compile": False,
        **({"divergence": "none", "beta": 0.0, "gate_by": None} if settings.regularises else {}),
        **({"learning_rate": 0.0} if isinstance(settings.learning_rate, Search) else {}),
    }
    known = alike.keys() & type(settings).model_fields.keys()
    return settings.model_copy(update={key: alike[key] for key in known})
