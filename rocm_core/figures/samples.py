"""Images of the base and of every trained model: figure 2 for the other training rewards."""

from rocm_core.analysis import Results
from rocm_core.figures import _style as style
from rocm_core.figures._images import draw_samples, lead

TITLE = "The same prompts and noise for every model trained on the other rewards"
NEEDS = ("rewards", "images")
READS = ("prompts", "images")
PLACE = 8


@style.styled
def make(results: Results) -> style.Drawing:
    """A block for each training reward but that of figure 2, four prompts each."""
    shown = lead(results.rewards, "hpsv2")
    return draw_samples(results, [r for r in results.rewards if r != shown], 4, TITLE)
