"""What a study compares, and how."""

from typing import Annotated

from pydantic import Field

from rocm_core.configuration.fields import Name, Seed, Whole, items, number
from rocm_core.configuration.settings import Settings

_Pair = Annotated[tuple[str, str], items(allowed="a list of two different names")]


class StudySettings(Settings):
    """The user study that `snakemake study` builds."""

    comparisons: Annotated[tuple[_Pair, ...], items(1)]
    """What is compared with what: names of two cells, `<reward>/<method>/seed-<n>`, or of bases,
    `base-<policy>`. All comparisons are mixed on one page."""
    prompts: Name = "validation"
    """The prompt set whose images are shown."""
    pairs: Annotated[Whole, number(1, 100_000, "pairs")] = 300
    """Prompts, and so pairs of images, of each comparison."""
    shares: dict[str, Annotated[float, Field(gt=0, le=1_000_000)]] = {}
    """How many of the prompts come from each source, as the prompts' field `source` names it, in
    proportion; empty: from any. The paper shows PartiPrompts and HPSv2 as 1 : 2."""
    seed: Seed = 0
    """Seed of the choice of prompts. What decides sides, order and names is secret."""
    raters: Annotated[Whole, number(1, 10_000, "raters")] = 10
    """Raters, each with a link of their own."""
    ties: bool = True
    """May a rater see no difference? A tie counts as half a win."""
