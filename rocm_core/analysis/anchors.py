"""Published and predicted numbers that results are held to: anchors.yaml beside this module."""

from pathlib import Path
from typing import Annotated

import numpy as np

from rocm_core.configuration import Settings, items
from rocm_core.errors import UserError
from rocm_core.reading import read_yaml

ANCHORS = Path(__file__).with_suffix(".yaml")
Range = Annotated[tuple[float, float], items(distinct=False)]


class Score(Settings):
    """A metric's published mean over prompts."""

    centre: float
    """The mean."""
    mean: float
    """How far another model's mean may lie from it."""
    image: float
    """How far the score of a single image may."""


class Difference(Settings):
    """How much more one metric gives than another, on the same images."""

    more: str
    """The one."""
    less: str
    """The other."""
    centre: float
    """The difference of their published means."""
    mean: float
    """How far another model's may lie from it."""


class Curve(Settings):
    """A published training of RLCM."""

    reward: str
    """What it trained on."""
    points: Annotated[tuple[Range, ...], items(2)]
    """Reward queries and mean reward."""
    level: float
    """How far from it a training may start."""
    gain: float
    """The least share of its gain over the same queries."""

    def at(self, queries: float) -> float:
        """The reward after so many queries."""
        x, y = np.array(self.points).T
        return float(np.interp(queries, x, y))


class Anchors(Settings):
    """All of them."""

    scores: dict[str, Score]
    """By metric."""
    differences: Annotated[tuple[Difference, ...], items(distinct=False)]
    """Of two metrics."""
    squared_distance: float
    """d² per dimension that a step stays below, however long it trains."""
    curve: Curve
    """RLCM's."""
    resolution: int
    """Pixels of the images that the following is about."""
    tflop: dict[str, float]
    """Of one image of a training, by method."""
    tflop_per_second: Range
    """That a GPU may give them."""
    memory_gib: Range
    """That a training with a divergence may take."""


def read_anchors(path: str | Path = ANCHORS) -> Anchors:
    """The anchors in a file; raises `UserError`, which names the file, for what are none."""
    values = read_yaml(path)
    try:
        return Anchors.from_dict(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
