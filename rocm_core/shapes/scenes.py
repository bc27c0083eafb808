"""The embedded world: captioned scenes of one or two coloured shapes, 32 × 32 pixels.

A *caption* fixes what a scene must show; the *nuisance* parameters (exact positions and radii) are
free. The renderer draws a signed distance field per shape and anti-aliases over one pixel, so the
image is a smooth function of the nuisance parameters, which the judge (:mod:`.judge`) searches.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from rocm_core.errors import UserError
from rocm_core.shapes.words import (
    BACKGROUNDS,
    COLORS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
)

SIZE = 32
RADII = ((4.5, 5.5), (7.0, 8.0))  # pixels, per size
PAIR_SHARE = 0.25  # of all captions describe two objects
TRAINING_PAIR_SHARE = 0.5  # of the scenes the models learn from: pairs are the harder half
HELD_OUT_SHARE = 0.2  # of all captions no model of this world is ever trained on

_COLOR_TABLE = torch.tensor(list(COLORS.values()))
_BACKGROUND_TABLE = torch.tensor(list(BACKGROUNDS.values()))
_RADII_TABLE = torch.tensor(RADII)
_CENTER_TOLERANCE, _EDGE_TOLERANCE = 2.0, 1.5  # pixels, of a single object's place
ALIGNMENT_TOLERANCE = 2.5  # pixels, of each of two objects around their common line
GAP = 0.5  # pixels between two objects
_Y, _X = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")


@dataclass(frozen=True)
class Scenes:
    """A batch of N captions as indices into the tables above.

    ``shape``, ``color``, ``size`` are (N, 2), one column per object; ``count`` is 1 or 2;
    ``relation`` (of the first object to the second) matters for pairs, ``place`` for single ones.
    """

    count: Tensor
    shape: Tensor
    color: Tensor
    size: Tensor
    relation: Tensor
    place: Tensor
    background: Tensor
    style: Tensor

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, index) -> "Scenes":
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def repeat(self, times: int) -> "Scenes":
        """Each scene ``times`` times in a row."""
        return self[torch.arange(len(self)).repeat_interleave(times)]

    @property
    def pair(self) -> Tensor:
        """(N,) bool: does the scene have two objects?"""
        return self.count == 2

    @property
    def radii(self) -> Tensor:
        """(N, 2, 2) smallest and largest radius of each object, in pixels."""
        return _RADII_TABLE[self.size]

    @property
    def colors(self) -> Tensor:
        """(N, 2, 3) colour of each object in [0, 1]."""
        return _COLOR_TABLE[self.color]


def draw_scenes(count: int, generator: torch.Generator, pair_share: float = PAIR_SHARE) -> Scenes:
    """``count`` scenes drawn at random, with repetitions."""

    def choice(options: int, *shape: int) -> Tensor:
        return torch.randint(options, (count, *shape), generator=generator)

    return Scenes(
        count=1 + (torch.rand(count, generator=generator) < pair_share).long(),
        shape=choice(len(SHAPES), 2),
        color=choice(len(COLORS), 2),
        size=choice(len(SIZES), 2),
        relation=choice(len(RELATIONS)),
        place=choice(len(PLACES)),
        background=choice(len(BACKGROUNDS)),
        style=choice(len(STYLES)),
    )


def describe(scenes: Scenes) -> list[str]:
    """The captions of a batch of scenes."""

    def describe_one(s: Scenes) -> str:
        def thing(j: int) -> str:
            return f"a {SIZES[s.size[j]]} {tuple(COLORS)[s.color[j]]} {SHAPES[s.shape[j]]}"

        where = f"{RELATIONS[s.relation]} {thing(1)}" if s.count == 2 else PLACES[s.place]
        background = f"{STYLES[s.style]} {tuple(BACKGROUNDS)[s.background]}"
        return f"{thing(0)} {where} on a {background} background"

    return [describe_one(scenes[i]) for i in range(len(scenes))]


_THING = rf"a ({'|'.join(SIZES)}) ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(
    rf"{_THING} (?:({'|'.join(RELATIONS)}) {_THING}|({'|'.join(PLACES)}))"
    rf" on a ({'|'.join(STYLES)}) ({'|'.join(BACKGROUNDS)}) background"
)


def parse(captions: str | Sequence[str]) -> Scenes:
    """The scenes that captions describe; raises :class:`UserError` for any other text."""
    rows = []
    for caption in [captions] if isinstance(captions, str) else captions:
        match = _CAPTION.fullmatch(caption)
        if match is None:
            raise UserError(
                f"the caption {caption!r} is not of the shapes world; it has the form"
                " 'a large red circle left of a small blue ring on a plain gray background'"
            )
        size, color, shape, relation, size2, color2, shape2, place, style, background = (
            match.groups()
        )
        rows.append(
            {
                "count": 1 if relation is None else 2,
                "shape": [SHAPES.index(shape), SHAPES.index(shape2 or shape)],
                "color": [list(COLORS).index(color), list(COLORS).index(color2 or color)],
                "size": [SIZES.index(size), SIZES.index(size2 or size)],
                "relation": RELATIONS.index(relation or RELATIONS[0]),
                "place": PLACES.index(place or PLACES[0]),
                "background": list(BACKGROUNDS).index(background),
                "style": STYLES.index(style),
            }
        )
    return Scenes(**{f.name: torch.tensor([r[f.name] for r in rows]) for f in fields(Scenes)})


def held_out(caption: str) -> bool:
    """Is the caption one of those that no model of this world is trained on?"""
    return hashlib.sha256(caption.encode()).digest()[0] < HELD_OUT_SHARE * 256


def sample_captions(
    count: int,
    seed: int,
    exclude: Collection[str] = (),
    *,
    unseen: bool = False,
    keep: Callable[[str], bool] = lambda caption: True,
) -> list[str]:
    """``count`` different captions, none of them in ``exclude``.

    ``unseen=True`` draws from the held-out fifth of the world, ``False`` from the rest; ``keep``
    says which captions may be chosen.
    Raises :class:`UserError` if the world has too few captions.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen: dict[str, None] = {}
    excluded = set(exclude)
    known = -1
    while known < len(chosen):  # until a whole round brings nothing new
        known = len(chosen)
        for caption in describe(draw_scenes(max(500, count), generator)):
            if held_out(caption) == unseen and caption not in excluded and keep(caption):
                chosen.setdefault(caption)
            if len(chosen) == count:
                return list(chosen)
    raise UserError(f"the shapes world has no {count} different captions left; ask for fewer")


def draw_nuisance(scenes: Scenes, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random positions (N, 2, 2) as x, y and radii (N, 2), in pixels, that fit the captions."""
    n = len(scenes)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator)

    low, high = scenes.radii.unbind(-1)
    radius = low + uniform(2) * (high - low)
    single = _place_anchor(scenes, radius[:, 0]) + (uniform(2) * 2 - 1) * _place_slack(scenes)
    low = (radius[:, 0] - 0.5)[:, None]
    single = single.clamp(low, SIZE - low)

    first, second = radius.unbind(1)
    slack = (SIZE + 1 - 2 * first - 2 * second - GAP).clamp_min(0)
    shares = torch.distributions.Exponential(1.0).icdf(uniform(3).clamp(1e-6, 1 - 1e-6))
    shares = shares / shares.sum(1, keepdim=True) * slack[:, None]
    a = first - 0.5 + shares[:, 0]
    b = a + first + second + GAP + shares[:, 1]
    mirrored = scenes.relation % 2 == 1
    along = torch.stack([torch.where(mirrored, SIZE - a, a), torch.where(mirrored, SIZE - b, b)], 1)
    middle = SIZE / 2 + (uniform(1) * 2 - 1) * 4
    across = middle + (uniform(2) * 2 - 1) * ALIGNMENT_TOLERANCE
    across = across.clamp(radius - 0.5, SIZE + 0.5 - radius)
    horizontal = (scenes.relation < 2)[:, None, None]
    pairs = torch.where(
        horizontal, torch.stack([along, across], -1), torch.stack([across, along], -1)
    )
    position = torch.where(scenes.pair[:, None, None], pairs, single[:, None].expand(-1, 2, -1))
    return position, radius


def _place_anchor(scenes: Scenes, radius: Tensor) -> Tensor:
    near, far, middle = radius, SIZE - radius, torch.full_like(radius, SIZE / 2)
    near, far = near + _EDGE_TOLERANCE - 0.5, far - _EDGE_TOLERANCE + 0.5
    x = torch.stack([middle, near, far, middle, middle], 1)
    y = torch.stack([middle, middle, middle, near, far], 1)
    index = scenes.place[:, None]
    return torch.cat([x.gather(1, index), y.gather(1, index)], 1)


def _place_slack(scenes: Scenes) -> Tensor:
    wide = 1.5 * _CENTER_TOLERANCE
    table = torch.tensor(
        [[_CENTER_TOLERANCE] * 2] + [[_EDGE_TOLERANCE, wide]] * 2 + [[wide, _EDGE_TOLERANCE]] * 2
    )
    return table[scenes.place]


def fits(scenes: Scenes, position: Tensor, radius: Tensor, tolerance: float = 1.0) -> Tensor:
    """(N,) bool: are these nuisance parameters what the captions allow, within ``tolerance`` px?"""
    border = radius - 0.5 - tolerance
    inside = ((position >= border[..., None]) & (position <= SIZE - border[..., None])).all(-1)
    inside = inside[:, 0] & (inside[:, 1] | ~scenes.pair)
    offset = (position[:, 0] - _place_anchor(scenes, radius[:, 0])).abs()
    placed = (offset <= _place_slack(scenes) + tolerance).all(-1)
    delta = position[:, 1] - position[:, 0]
    horizontal = scenes.relation < 2
    along = torch.where(horizontal, delta[:, 0], delta[:, 1])
    along = torch.where(scenes.relation % 2 == 1, -along, along)
    across = torch.where(horizontal, delta[:, 1], delta[:, 0]).abs()
    related = (along >= radius.sum(1) + GAP - tolerance) & (
        across <= 2 * ALIGNMENT_TOLERANCE + tolerance
    )
    low, high = scenes.radii.unbind(-1)
    sized = (radius >= low - 0.25 * tolerance) & (radius <= high + 0.25 * tolerance)
    sized = sized[:, 0] & (sized[:, 1] | ~scenes.pair)
    return inside & sized & torch.where(scenes.pair, related, placed)


# Distances to the outlines in units of the radius, negative inside; y points down.
_DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: (x * x + y * y).sqrt() - 1,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) - 0.9,
    "triangle": lambda x, y: torch.maximum(y - 0.85, (1.75 * x.abs() - 0.95 * (y + 1.0)) / 1.991),
    "cross": lambda x, y: torch.minimum(
        torch.maximum(x.abs() - 1, y.abs() - 0.33), torch.maximum(y.abs() - 1, x.abs() - 0.33)
    ),
    "ring": lambda x, y: ((x * x + y * y).sqrt() - 0.72).abs() - 0.28,
}


def coverage(shape: Tensor, position: Tensor, radius: Tensor) -> Tensor:
    """Anti-aliased masks (N, 32, 32) in [0, 1] of N shapes at (N, 2) with radii (N,) in pixels."""
    r = radius[:, None, None]
    x, y = (_X - position[:, 0, None, None]) / r, (_Y - position[:, 1, None, None]) / r
    distance = torch.empty(len(shape), SIZE, SIZE, dtype=position.dtype)
    for kind, name in enumerate(SHAPES):
        chosen = shape == kind
        if chosen.any():
            distance[chosen] = _DISTANCES[name](x[chosen], y[chosen])
    return (0.5 - distance * r).clamp(0, 1)


def background(scenes: Scenes) -> Tensor:
    """(N, 3, 32, 32) backgrounds in [0, 1]."""
    base = _BACKGROUND_TABLE[scenes.background][:, :, None, None].expand(-1, -1, SIZE, SIZE)
    sign = torch.where(scenes.background == 2, -1.0, 1.0)[:, None, None, None]
    gradient = base + sign * 0.4 * (_Y - 0.5) / (SIZE - 1)
    tiles = ((_X // 4 + _Y // 4) % 2).expand_as(base)
    checkered = base + sign * 0.25 * tiles
    style = scenes.style[:, None, None, None]
    return torch.where(style == 0, base, torch.where(style == 1, gradient, checkered)).clamp(0, 1)


def draw(scenes: Scenes, position: Tensor, radius: Tensor, canvas: Tensor | None = None) -> Tensor:
    """Images (N, 3, 32, 32) in [0, 1] of scenes at given nuisance parameters.

    The second object is drawn first. ``canvas`` saves drawing the backgrounds again.
    """
    image = background(scenes) if canvas is None else canvas
    for j in (1, 0):
        mask = coverage(scenes.shape[:, j], position[:, j], radius[:, j])[:, None]
        if j == 1:
            mask = mask * scenes.pair[:, None, None, None]
        image = image + mask * (scenes.colors[:, j, :, None, None] - image)
    return image


def render(scenes: Scenes, seed: int | torch.Generator) -> Tensor:
    """Images (N, 3, 32, 32) in [0, 1] of scenes at random nuisance parameters."""
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    return draw(scenes, *draw_nuisance(scenes, generator))


def training_scenes(
    count: int, generator: torch.Generator, pair_share: float = PAIR_SHARE
) -> Scenes:
    """Scenes with repetitions whose captions are not held out, for training this world's models."""
    kept: list[Scenes] = []
    while sum(map(len, kept)) < count:
        scenes = draw_scenes(count, generator, pair_share)
        index = torch.tensor([not held_out(caption) for caption in describe(scenes)])
        kept.append(scenes[index])
    return concatenate(kept)[slice(0, count)]


def as_singles(scenes: Scenes) -> Scenes:
    """The same scenes without their second objects."""
    return replace(scenes, count=torch.ones_like(scenes.count))


def concatenate(batches: Iterable[Scenes]) -> Scenes:
    """Several batches as one."""
    parts = list(batches)
    return Scenes(
        **{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Scenes)}
    )
