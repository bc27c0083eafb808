"""Images of the base and of every trained model for the same prompts and noise."""

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from rocm_core.figures import _style as style
from rocm_core.labels import method_label, metric_label
from rocm_core.results import Results, Source

TITLE = "The same prompts and noise for the base and for every trained model"
PROMPTS = 4
_MARGIN, _GAP, _LINE = 0.06, 0.05, 0.165  # inches
_HEADING, _LABELS, _ROW = 0.36, 0.3, 0.14  # inches beside the images and prompts of a block
_CHARACTERS = 14  # of a prompt, an inch


@style.styled
def make(results: Results) -> style.Drawing:
    """A block a training reward: one column a model, one row a prompt with its text above it.

    The prompts are the first of the validation set, the models those of the first seed. `data`
    names the image files.
    """
    prompts = results.prompts[:PROMPTS]
    blocks = {reward: _sources(results, reward) for reward in results.rewards}
    columns = max(len(sources) for sources in blocks.values())
    width = max(style.WIDTH, 0.72 * columns)
    size = (width - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    texts = [_lines(prompt.text, int(_CHARACTERS * width)) for prompt in prompts]
    rows = sum(len(lines) * _LINE + size + _ROW for lines in texts)
    page = _Page(width, len(blocks) * (_HEADING + _LABELS + rows))
    centres = [_MARGIN + size / 2 + column * (size + _GAP) for column in range(columns)]
    data = []
    for reward, sources in blocks.items():
        page.down(0.1)
        page.text(f"Trained on {metric_label(reward)}", _MARGIN, va="top", weight="bold", size=11)
        page.down(_HEADING + _LABELS - 0.15)
        for source, centre in zip(sources, centres, strict=False):
            label = textwrap.fill(method_label(source.method, short=True), 11)
            page.text(label, centre, va="baseline", ha="center", size=8.5, linespacing=1.05)
        page.down(0.05)
        for prompt, lines in zip(prompts, texts, strict=True):
            page.text("\n".join(lines), _MARGIN, va="top", size=9, style="italic")
            page.down(len(lines) * _LINE + 0.02)
            for source, centre in zip(sources, centres, strict=False):
                path = results.image(source, prompt.id)
                page.picture(path, centre - size / 2, size)
                data.append(_record(results, reward, source, prompt.id, path))
            page.down(size + _ROW - 0.02)
    caption = (
        f"The first {len(prompts)} validation prompts, one row each. The noise of an image depends "
        "on its prompt alone, so what differs along a row is the model. One block a training "
        "reward; final models of the first training seed."
    )
    return style.Drawing(page.figure, pd.DataFrame(data), TITLE, caption)


def _sources(results: Results, reward: str) -> list[Source]:
    methods = results.methods(reward)
    bases = {results.base_of(reward, method) for method in methods}
    first = {s.method: s for s in reversed(results.trained) if s.reward == reward}
    return [s for s in results.bases if s.name in bases] + [first[m] for m in methods]


def _lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, max_lines=2, placeholder=" …")


def _record(
    results: Results, reward: str, source: Source, prompt_id: str, path: Path | None
) -> dict[str, Any]:
    file = path.relative_to(results.root).as_posix() if path else None
    key = {"reward": reward, "method": source.method, "seed": source.seed}
    return key | {"prompt_id": prompt_id, "file": file}


class _Page:
    """A figure filled from the top; places are inches from the left and below the cursor."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        self._size = (width, height)
        self._cursor = 0.04

    def down(self, inches: float) -> None:
        self._cursor += inches

    def text(self, text: str, left: float, **look: Any) -> None:
        width, height = self._size
        self.figure.text(left / width, 1 - self._cursor / height, text, **look)

    def picture(self, path: Path | None, left: float, size: float) -> None:
        width, height = self._size
        bottom = 1 - (self._cursor + size) / height
        axes = self.figure.add_axes((left / width, bottom, size / width, size / height))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(path is None)
        if path is None:
            axes.text(0.5, 0.5, "missing", ha="center", va="center", size=8.5)
            return
        with Image.open(path) as image:
            pixels = image.convert("RGB")
        axes.imshow(pixels, interpolation="nearest" if pixels.width < 128 else "antialiased")
