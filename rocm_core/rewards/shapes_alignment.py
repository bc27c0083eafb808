"""Prompt-image alignment in the shapes world: what the image shows, against what the prompt asks.

The counterpart of ``alignment``, with an exact captioner in place of the vision-language model. The
two agree by the F1 of what they state: the background's style and colour, a single object's place
or a pair's relation, and the size, colour and shape of each object. Compared by words, "left of"
and "right of" would tell captions apart that describe one and the same image, and "a", "on" and
"background" would always agree.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from rocm_core.rewards._shapes import looked_at
from rocm_core.rewards._weightless import Weightless
from rocm_core.shapes.captioner import read
from rocm_core.shapes.scenes import Scenes, parse

DIFFERENTIABLE = False


class ShapesAlignment(Weightless):
    """F1 of what prompt and image state, in [0, 1]: 1 where the image shows exactly its prompt."""

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1], each for its own caption.

        Raises :class:`UserError` for a prompt of another world.
        """
        return agreement(read(looked_at(images)), parse(prompts)).to(images.device)


def agreement(first: Scenes, second: Scenes) -> torch.Tensor:
    """(N,) F1 of what the scenes state, under the best matching of their objects."""
    common = torch.stack(
        [
            _common(first, second),
            _common(_turned(first), second),
            _common(first, _turned(second)),
        ]
    ).amax(0)
    return 2 * common / (_statements(first) + _statements(second))


def _statements(scenes: Scenes) -> torch.Tensor:
    return torch.where(scenes.pair, 9, 6)


def _common(a: Scenes, b: Scenes) -> torch.Tensor:
    """(N,) number of equal statements, the objects matched in their order."""
    both, neither = a.pair & b.pair, ~(a.pair | b.pair)
    same = torch.stack([a.shape == b.shape, a.color == b.color, a.size == b.size])
    things = same.sum(0)  # (N, 2)
    where = (both & (a.relation == b.relation)) | (neither & (a.place == b.place))
    behind = (a.background == b.background).long() + (a.style == b.style)
    return behind + where + things[:, 0] + both * things[:, 1]


def _turned(scenes: Scenes) -> Scenes:
    """Pairs described from their second objects: "A left of B" as "B right of A"."""
    pair = scenes.pair[:, None]

    def turned(values: torch.Tensor) -> torch.Tensor:
        return torch.where(pair, values.flip(1), values)

    return replace(
        scenes,
        shape=turned(scenes.shape),
        color=turned(scenes.color),
        size=turned(scenes.size),
        relation=scenes.relation ^ 1,  # opposites are neighbours in RELATIONS
    )


load = ShapesAlignment.load
