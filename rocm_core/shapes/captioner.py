"""The shapes world's captioner: the caption that explains an image best, by synthesis.

First the background: of the nine, the one with which most pixels agree. Then the object whose
drawing removes the most squared error, over all shapes, colours, sizes, places and radii; then,
with that one drawn, the second among those that a caption could relate to it. The second counts as
present if drawing it removes at least half of the squared error that its absence would cause.

"A left of B" and "B right of A" describe the same images: the captioner only ever says "left of"
and "above". Up to that, it recovers the captions of the renderer's images.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from rocm_core.shapes.scenes import (
    ALIGNMENT_TOLERANCE,
    BACKGROUNDS,
    COLORS,
    GAP,
    PLACES,
    RADII,
    RELATIONS,
    SHAPES,
    SIZE,
    SIZES,
    STYLES,
    Scenes,
    background,
    concatenate,
    coverage,
    describe,
    parse,
)

_CHUNK = 16  # images at once
_FOREIGN = 0.15  # squared distance to a background from which a pixel is something else
_REACH = 9  # pixels from the middle of the largest object to its last one
_BORDER = 3  # pixels at the edge that are not searched for the middle of an object
_STARTS = 3  # best places of the search on whole pixels that are searched more finely
_LOOSE = 1.5  # pixels by which a second object may be off where a caption wants it
_OFF_CENTRE = 3.75  # pixels; what is in the centre is off by at most 2, all else by at least 5.5


@dataclass(frozen=True)
class _Objects:
    """One object per image: indices and numbers (N,), `position` (N, 2) as x, y in pixels."""

    shape: Tensor
    color: Tensor
    size: Tensor
    position: Tensor
    radius: Tensor
    cost: Tensor  # change of the squared error by drawing it


@dataclass(frozen=True)
class _Templates:
    """T shapes around the middle of a window of 2 · _REACH + 1 pixels."""

    shape: Tensor
    size: Tensor
    offset: Tensor  # (T, 2) from the middle, as x, y
    radius: Tensor
    masks: Tensor  # (T, 2, window, window): m² and m


def caption(images: Tensor) -> list[str]:
    """The captions of images (N, 3, 32, 32) in [0, 1]."""
    return describe(read(images))


@torch.no_grad()
def read(images: Tensor) -> Scenes:
    """The scenes that images (N, 3, 32, 32) in [0, 1] show; of a pair, the left or the upper object
    is the first."""
    images = images.detach().float().cpu().clamp(0, 1)
    return concatenate(_read(chunk) for chunk in images.split(_CHUNK))


def _read(images: Tensor) -> Scenes:
    distance = (images[:, None] - _backgrounds()).square().sum(2)
    behind = distance.clamp_max(_FOREIGN).sum((2, 3)).argmin(1)  # index into them
    canvas = _backgrounds()[behind]
    one = _find_object(images, canvas, torch.ones(len(images), *_SEARCHED, dtype=torch.bool))
    canvas = canvas + _change(canvas, one)
    other = _find_object(images, canvas, _relatable(one))
    absence = _change(canvas, other).square().sum((1, 2, 3))
    pair = other.cost < -absence / 2

    delta = other.position - one.position
    upright = delta[:, 1].abs() > delta[:, 0].abs()
    swapped = pair & (torch.where(upright, delta[:, 1], delta[:, 0]) < 0)

    def columns(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([torch.where(swapped, b, a), torch.where(swapped, a, b)], 1)

    return Scenes(
        count=1 + pair.long(),
        shape=columns(one.shape, other.shape),
        color=columns(one.color, other.color),
        size=columns(one.size, other.size),
        relation=torch.where(upright, RELATIONS.index("above"), RELATIONS.index("left of")),
        place=_place(one.position),
        background=behind // len(STYLES),
        style=behind % len(STYLES),
    )


def _find_object(images: Tensor, canvas: Tensor, allowed: Tensor) -> _Objects:
    """The object that explains most of how images differ from the canvas (N, 3, 32, 32).

    ``allowed`` (N, y, x) says where its middle may be, give or take a pixel. Drawing the colour c
    with the mask m changes the squared error by Σ m² |c - canvas|² - 2 m (c - canvas)·(image -
    canvas), so the search correlates two maps of a colour with the masks of all shapes.
    """
    n, margin, window = len(images), _REACH - _BORDER, torch.arange(2 * _REACH + 1)
    change = _colors() - canvas[:, None]
    missed = (change * (images - canvas)[:, None]).sum(2)
    maps = torch.stack([change.square().sum(2), -2 * missed], 2)  # (N, color, 2, y, x)

    masks = _templates(offsets=1, radii=3).masks
    cost = (
        nn.functional.conv2d(maps.flatten(0, 1), masks, padding=margin)
        .view(n, -1, *_SEARCHED)
        .amin(1)
    )
    start = _lowest(cost.masked_fill(~allowed, torch.inf))
    top, left = start // _SEARCHED[1], start % _SEARCHED[1]

    templates = _templates(offsets=7, radii=4)
    patches = nn.functional.pad(maps, (margin,) * 4)[
        torch.arange(n)[:, None, None, None],
        :,
        :,
        (top[..., None] + window)[..., :, None],
        (left[..., None] + window)[..., None, :],
    ]  # (N, start, y, x, color, 2)
    patches = patches.permute(0, 1, 4, 5, 2, 3).flatten(3)
    cost, best = (patches @ templates.masks.flatten(1).T).flatten(1).min(1)
    kind, rest = best % len(templates.masks), best // len(templates.masks)
    place = start.gather(1, rest[:, None] // len(COLORS))[:, 0]
    return _Objects(
        shape=templates.shape[kind],
        color=rest % len(COLORS),
        size=templates.size[kind],
        position=_middles()[place] + templates.offset[kind],
        radius=templates.radius[kind],
        cost=cost,
    )


def _lowest(cost: Tensor) -> Tensor:
    """(N, _STARTS) places of the lowest local minima of maps (N, y, x)."""
    around = -nn.functional.max_pool2d(-cost[:, None], 3, 1, 1)[:, 0]
    cost = cost.masked_fill(cost > around, torch.inf)
    return cost.flatten(1).topk(_STARTS, largest=False).indices


def _change(canvas: Tensor, objects: _Objects) -> Tensor:
    """(N, 3, 32, 32) what drawing the objects adds to the canvas."""
    mask = coverage(objects.shape, objects.position, objects.radius)[:, None]
    return mask * (_colors()[objects.color] - canvas)


def _relatable(objects: _Objects) -> Tensor:
    """(N, y, x): could a caption relate a second object in this place to the first?"""
    distance = (_middles() - objects.position[:, None]).abs()
    apart = objects.radius[:, None] + RADII[0][0] + GAP - _LOOSE
    related = (distance.amax(2) >= apart) & (distance.amin(2) <= 2 * ALIGNMENT_TOLERANCE + _LOOSE)
    return related.view(-1, *_SEARCHED)


def _place(position: Tensor) -> Tensor:
    """(N,) indices into PLACES of single objects at (N, 2)."""
    delta = position - SIZE / 2
    x, y = delta.unbind(1)
    sideways = torch.where(x < 0, PLACES.index("at the left"), PLACES.index("at the right"))
    upright = torch.where(y < 0, PLACES.index("at the top"), PLACES.index("at the bottom"))
    place = torch.where(x.abs() > y.abs(), sideways, upright)
    return place.masked_fill(delta.abs().amax(1) < _OFF_CENTRE, PLACES.index("in the center"))


_SEARCHED = (SIZE - 2 * _BORDER,) * 2


@cache
def _middles() -> Tensor:
    """(P, 2) searched middles of objects as x and y, row by row."""
    line = torch.arange(_BORDER, SIZE - _BORDER) + 0.5
    return torch.cartesian_prod(line, line).flip(-1)


@cache
def _colors() -> Tensor:
    """(6, 3, 1, 1) colours of objects."""
    return torch.tensor(list(COLORS.values()))[:, :, None, None]


@cache
def _backgrounds() -> Tensor:
    """(9, 3, 32, 32) all backgrounds: index // 3 is the colour, index % 3 the style."""
    anything = "a small red circle in the center"
    captions = [
        f"{anything} on a {style} {color} background" for color in BACKGROUNDS for style in STYLES
    ]
    return background(parse(captions))


@cache
def _templates(offsets: int, radii: int) -> _Templates:
    """Every shape and size, at ``offsets``² places up to a pixel off, in ``radii`` radii."""
    shift = torch.linspace(-1, 1, offsets) if offsets > 1 else torch.zeros(1)
    kinds = torch.cartesian_prod(
        *(torch.arange(float(count)) for count in (len(SHAPES), len(SIZES), radii)), shift, shift
    )
    shape, size, step = kinds[:, :3].long().unbind(1)
    radius = torch.stack([torch.linspace(*limits, radii) for limits in RADII])[size, step]
    middle = SIZE // 2 + 0.5
    masks = coverage(shape, middle + kinds[:, 3:], radius)
    seen = slice(SIZE // 2 - _REACH, SIZE // 2 + _REACH + 1)
    masks = masks[:, seen, seen]
    return _Templates(shape, size, kinds[:, 3:], radius, torch.stack([masks.square(), masks], 1))
