"""The configuration: typed sections, the schema made of them, and one-sentence errors.

Nothing here is computed with: jobs get what they need in `params`.
"""

from rocm_core.configuration.config import Config
from rocm_core.configuration.fields import OPTIONAL, Whole, items, number, text, validate
from rocm_core.configuration.schema import (
    document,
    load_schema,
    schema_text,
    settings_class,
    type_config,
)
from rocm_core.configuration.settings import (
    BetaTarget,
    Contest,
    Ensemble,
    GenerationSettings,
    ModelSettings,
    ProgressSettings,
    PromptSettings,
    Scorers,
    Search,
    Settings,
    StudySettings,
    TrainingSettings,
)
