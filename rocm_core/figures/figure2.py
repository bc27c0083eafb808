"""Samples of the base, of the baselines and of ROCM (figure 2 of the paper)."""

from rocm_core.analysis import Results, metric_label
from rocm_core.figures import _style as style
from rocm_core.figures._images import draw_samples, lead

TITLE = "The same prompts and noise for every model trained on one reward"
NEEDS = ("images",)
READS = ("prompts", "images")
PLACE = 2


@style.styled
def make(results: Results) -> style.Drawing:
    """One column per model trained on HPSv2, or on the first reward where HPSv2 is not among them;
    six prompts."""
    reward = lead(results.rewards, "hpsv2")
    title = f"The same prompts and noise for every model trained on {metric_label(reward)}"
    return draw_samples(results, [reward], 6, title)
