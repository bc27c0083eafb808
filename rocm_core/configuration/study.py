"""What a study compares, and how."""

from dataclasses import dataclass

from rocm_core.configuration.settings import Settings


@dataclass(frozen=True)
class StudySettings(Settings):
    """The configuration's `study`; workflow/schemas/ documents each key.

    comparisons: (first, second), names of cells or bases. prompts: the prompt set they have images
    of. shares: {source of prompts: its ratio}, empty for any source.
    """

    comparisons: tuple[tuple[str, str], ...]
    prompts: str
    pairs: int
    shares: dict
    seed: int
    raters: int
    ties: bool
