"""Images of the same prompts and noise by the base and by every method, for some rewards."""

from collections.abc import Sequence

import pandas as pd

from rocm_core.analysis import Results, metric_label
from rocm_core.figures import _style as style
from rocm_core.figures._images import Block, draw_blocks


def draw_samples(
    results: Results, rewards: Sequence[str], prompts: int, title: str
) -> style.Drawing:
    """A block per training reward: one column per model, one row per prompt with its text above it.

    The prompts are the first of the validation set, the models those of the first seed. `data`
    names the image files.
    """
    shown = results.prompts[:prompts]
    blocks, data = [], []
    for reward in rewards:
        first = {s.method: s for s in reversed(results.everything) if s.reward in (None, reward)}
        sources = [first[method] for method in results.models_of(reward)]
        rows = [(p.text, [results.image(source, p.id) for source in sources]) for p in shown]
        labels = [results.label(source.method, short=True) for source in sources]
        blocks.append(Block(f"Trained on {metric_label(reward)}", labels, rows))
        data += [
            {
                "reward": reward,
                "method": source.method,
                "seed": source.seed,
                "prompt_id": prompt.id,
                "file": path.relative_to(results.root).as_posix() if path else None,
            }
            for prompt, (_, paths) in zip(shown, rows, strict=True)
            for source, path in zip(sources, paths, strict=True)
        ]
    caption = (
        f"The first {len(shown)} validation prompts, one row each, none left out. The noise of an "
        "image depends on its prompt alone, so what differs along a row is the model. Final models "
        "of the first training seed."
    )
    return style.Drawing(draw_blocks(blocks), pd.DataFrame(data), title, caption)
