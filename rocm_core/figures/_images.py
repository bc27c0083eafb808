"""Pages of images with their prompts: what figures 1, 2 and 6 are made of."""

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from rocm_core.analysis import Results, metric_label
from rocm_core.figures import _style as style
from rocm_core.figures._fonts import drawable

_MARGIN, _GAP, _LINE = 0.06, 0.05, 0.165  # inches
_HEADING, _LABEL, _ROW = 0.38, 0.14, 0.14  # inches of a heading, a label's line, between rows
_NARROWEST, _WIDEST = 0.72, 1.1  # inches of a column
_CHARACTERS = 14  # of a text, per inch


@dataclass(frozen=True)
class Block:
    """Rows of pictures under one heading: a text above each row, a label above each column.

    A picture that is None is drawn as an empty frame that says it is missing.
    """

    heading: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Path | None]]]


def draw_blocks(blocks: Sequence[Block]) -> Figure:
    """One block below the other, with as many pictures in a row as the widest has columns."""
    columns = max(len(block.columns) for block in blocks)
    width = max(style.WIDTH, _NARROWEST * columns)
    size = min(_WIDEST, (width - 2 * _MARGIN - (columns - 1) * _GAP) / columns)
    places = [_MARGIN + column * (size + _GAP) for column in range(columns)]
    texts = [[wrap(text, width, 2) for text, _ in block.rows] for block in blocks]
    rows = sum(len(lines) * _LINE + size + _ROW for block in texts for lines in block)
    labels = [[_fold(label, size) for label in block.columns] for block in blocks]
    tall = [_LABEL * max(label.count("\n") + 1 for label in of_block) for of_block in labels]
    page = Page(width, rows + sum(tall) + len(blocks) * _HEADING)
    for block, lines_of, named, height in zip(blocks, texts, labels, tall, strict=True):
        page.down(0.1)
        page.text(block.heading, _MARGIN, va="top", weight="bold", size=11)
        page.down(_HEADING - 0.15 + height)
        for label, left in zip(named, places, strict=False):
            centre = left + size / 2
            page.text(label, centre, va="baseline", ha="center", size=8.5, linespacing=1.05)
        page.down(0.05)
        for (_, pictures), lines in zip(block.rows, lines_of, strict=True):
            page.text("\n".join(lines), _MARGIN, va="top", size=9, style="italic")
            page.down(len(lines) * _LINE + 0.02)
            for path, left in zip(pictures, places, strict=False):
                page.picture(path, left, size)
            page.down(size + _ROW - 0.02)
    return page.figure


def draw_gallery(pictures: Sequence[tuple[str, Path | None]], columns: int) -> Figure:
    """Pictures from left to right and from top to bottom, each with its text below."""
    lines = 4
    size = (style.WIDTH - 2 * _MARGIN - (columns - 1) * 2 * _GAP) / columns
    below = (lines + 0.6) * _LINE
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    page = Page(style.WIDTH, len(rows) * (size + below))
    for row in rows:
        for number, (text, path) in enumerate(row):
            left = _MARGIN + number * (size + 2 * _GAP)
            page.picture(path, left, size)
            said = "\n".join(wrap(text, size, lines))
            page.text(said, left, size + 0.04, va="top", size=8.5, style="italic")
        page.down(size + below)
    return page.figure


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


def _fold(label: str, width: float) -> str:
    """The lines of a label, each in as many of `width` inches as it takes; words stay whole."""
    most = max(10, int(12 * width))
    lines = label.split("\n")
    return "\n".join(textwrap.fill(line, most, break_long_words=False) for line in lines)


def lead(names: Sequence[str], wanted: str) -> str:
    """`wanted`, which the paper shows, if it is among the names, else the first of them."""
    return wanted if wanted in names else names[0]


def wrap(text: str, width: float, lines: int) -> list[str]:
    """`text` in so many lines of `width` inches at the most; a character of Chinese, Japanese or
    Korean is as wide as two."""
    wide = (f"{c}\0" if unicodedata.east_asian_width(c) in "FW" else c for c in drawable(text))
    most = int(_CHARACTERS * width)
    wrapped = textwrap.wrap("".join(wide), most, max_lines=lines, placeholder=" …")
    return [line.replace("\0", "") for line in wrapped]


class Page:
    """A figure filled from the top; places are inches from the left and below the cursor."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        self._size = (width, height)
        self._cursor = 0.04

    def down(self, inches: float) -> None:
        """Move the cursor down."""
        self._cursor += inches

    def text(self, text: str, left: float, below: float = 0.0, **look: Any) -> None:
        """Write at a place."""
        width, height = self._size
        self.figure.text(left / width, 1 - (self._cursor + below) / height, text, **look)

    def picture(self, path: Path | None, left: float, size: float) -> None:
        """Draw an image file, or the frame of a missing one, from the cursor down."""
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
