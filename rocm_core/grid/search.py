"""Settings whose values a search chooses."""

from collections.abc import Mapping
from typing import Any

from rocm_core.configuration import Search, TrainingSettings
from rocm_core.errors import UserError


def searched(settings: TrainingSettings) -> dict[str, Search]:
    """The settings whose values a search is to choose."""
    values = ((key, getattr(settings, key)) for key in type(settings).model_fields)
    return {key: value for key, value in values if isinstance(value, Search)}


def settle(settings: TrainingSettings, chosen: Mapping[str, Any]) -> TrainingSettings:
    """`settings` with a value for each of `searched`; raises `UserError` for other ones."""
    wanted = searched(settings)
    if wanted.keys() != chosen.keys():
        raise UserError(
            f"{', '.join(wanted) or 'nothing'} is to be searched, but the search chose"
            f" {', '.join(chosen) or 'nothing'}: remove its result, so that it chooses again"
        )
    return settings.from_dict(settings.to_dict() | dict(chosen)) if chosen else settings
