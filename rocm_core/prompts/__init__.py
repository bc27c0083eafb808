"""Prompts: one prompt and its files, published lists, and the sets of a configuration."""

from rocm_core.prompts.prompt import Prompt, read_prompts, write_prompts
from rocm_core.prompts.sets import (
    check_sources,
    make_prompts,
    normalise,
    prompt_count,
    prompt_files,
)
