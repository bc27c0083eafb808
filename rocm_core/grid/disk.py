"""What a configuration needs of the disk: models, scorers and lists of prompts."""

from typing import TYPE_CHECKING

from rocm_core.prompts import prompt_files
from rocm_core.weights import files_of

if TYPE_CHECKING:
    from rocm_core.configuration import Config


def used(config: "Config") -> list[str]:
    """The local paths of a configuration's models, scorers and prompts."""
    models = ((policy.model, policy.lora) for policy in config.policies.values())
    paths = [path for both in models for path in both if path]
    paths += [path for path in config.scorers.values() if path]
    files = (file for prompts in config.prompts.values() for file in prompt_files(prompts))
    return list(dict.fromkeys([*paths, *files]))


def needed(config: "Config") -> list[str]:
    """The table's files that a configuration's models, scorers and prompts are made of."""
    return list(dict.fromkeys(name for path in used(config) for name in files_of(path)))
