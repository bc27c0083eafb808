"""What ROCM with a divergence makes of the prompts (figure 1 of the paper: KL and HPSv2)."""

import pandas as pd

from rocm_core.analysis import Results, metric_label
from rocm_core.figures import _style as style
from rocm_core.figures._images import draw_gallery, lead

TITLE = "Images by a regularised ROCM model"
NEEDS = ("regularised rocm", "images")
READS = ("prompts", "images")
PLACE = 1

COUNT, COLUMNS = 12, 3


@style.styled
def make(results: Results) -> style.Drawing:
    """Twelve validation prompts, each below its image by ROCM with KL trained on HPSv2, or by the
    first regularised ROCM model of the grid where there is no such model. `data` names the image
    files."""
    shown = [
        source
        for source in results.trained
        if source.algorithm == "direct" and source.divergence != "none" and not source.swept
    ]
    reward = lead([str(source.reward) for source in shown], "hpsv2")
    method = lead([source.method for source in shown if source.reward == reward], "rocm-kl")
    model = results.sources(reward, method)[0]
    pictures = [(prompt, results.image(model, prompt.id)) for prompt in results.prompts[:COUNT]]
    data = pd.DataFrame(
        {
            "reward": reward,
            "method": method,
            "seed": model.seed,
            "prompt_id": prompt.id,
            "text": prompt.text,
            "file": path.relative_to(results.root).as_posix() if path else None,
        }
        for prompt, path in pictures
    )
    caption = (
        f"The first {len(pictures)} validation prompts, none left out. Final model of the first"
        " training seed."
    )
    title = f"Images by {results.label(method)}, trained on {metric_label(reward)}"
    figure = draw_gallery([(prompt.text, path) for prompt, path in pictures], COLUMNS)
    return style.Drawing(figure, data, title, caption)
