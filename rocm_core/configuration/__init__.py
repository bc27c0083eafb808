"""The configuration: one typed section a part, the schema made of them, and errors in one sentence.

Nothing here is computed with: jobs get what they need in `params`.
"""

from rocm_core.configuration.config import Config, type_config
from rocm_core.configuration.reading import read_yaml
from rocm_core.configuration.schema import document, load_schema, show, validate
from rocm_core.configuration.settings import (
    GenerationSettings,
    ModelSettings,
    PromptSettings,
    TrainingSettings,
)
from rocm_core.configuration.study import StudySettings

__all__ = [
    "Config",
    "GenerationSettings",
    "ModelSettings",
    "PromptSettings",
    "StudySettings",
    "TrainingSettings",
    "document",
    "load_schema",
    "read_yaml",
    "show",
    "type_config",
    "validate",
]
