"""The gold judge: how well does an image show its caption? Analysis by synthesis.

The judge looks for the rendering of the caption that is nearest to the image, over every position
and radius the caption allows, and measures what is left unexplained, part by part:

* an object's error is the squared error over its (one pixel dilated) area, divided by what would be
  left there had the object been missing, so 1 means "not there" whatever its colour and background;
* the background's error is its mean squared error over everything else, in units of
  ``BACKGROUND_SCALE``.

The gold score is ``exp(-worst part / TEMPERATURE)``: an image is as good as its worst part. Noise
scores near 0, since no rendering explains noise. The judge is the known truth of this world and
plays the human; nothing is trained on it directly, and it has no gradient.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from rocm_core.shapes.scenes import (
    ALIGNMENT_TOLERANCE,
    GAP,
    RADII,
    SHAPES,
    SIZE,
    SIZES,
    Scenes,
    as_singles,
    background,
    coverage,
    draw,
    fits,
    parse,
)

TEMPERATURE = 0.12
BACKGROUND_SCALE = 0.03  # mean squared error per channel, images in [0, 1]
PASS = 0.5

_RADII_PER_SIZE = 3
_STARTS = 4  # best candidates of the grid search that are drawn and compared
_ROUNDS = (0.5, 0.3, 0.18, 0.1, 0.06)  # pixels, step of each refinement round
_CHUNK = 64


def judge(images: Tensor, captions: Sequence[str] | Scenes) -> Tensor:
    """Gold scores (N,) in (0, 1], 1 = a perfect rendering, :data:`PASS` and above = passes.

    ``images`` is (N, 3, 32, 32) in [0, 1]; raises ``UserError`` for a caption of another world.
    """
    return torch.exp(-unexplained(images, captions) / TEMPERATURE)


@torch.no_grad()
def unexplained(images: Tensor, captions: Sequence[str] | Scenes) -> Tensor:
    """(N,) error of the worst part under the best rendering, 0 = perfect, 1 = an object missing."""
    scenes = captions if isinstance(captions, Scenes) else parse(captions)
    images = images.detach().float().cpu().clamp(0, 1)
    return torch.cat(
        [
            _unexplained(images[i : i + _CHUNK], scenes[slice(i, i + _CHUNK)])
            for i in range(0, len(images), _CHUNK)
        ]
    )


def _unexplained(images: Tensor, scenes: Scenes) -> Tensor:
    canvas = background(scenes)
    position, radius = _refine(images, scenes, canvas, *_search(images, scenes, canvas))
    return _parts(images, scenes, canvas, position, radius).amax(1)


def _search(images: Tensor, scenes: Scenes, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """The best places on a grid for each scene's objects: positions (N, 2, 2), radii (N, 2)."""
    first, second = (_cost_map(images, scenes, canvas, j) for j in range(2))
    single = first.masked_fill(~_allowed(scenes), torch.inf)
    upright = (scenes.relation >= 2)[:, None, None]
    mirrored = (scenes.relation % 2 == 1)[:, None, None]

    def align(maps: Tensor) -> Tensor:
        """Turn maps (N, y, x) so that the first object is on the left of the second."""
        maps = torch.where(upright, maps.mT, maps)
        return torch.where(mirrored, maps.flip(2), maps)

    partner = _cheapest_partner(align(second), scenes)
    partner = torch.where(mirrored, partner.flip(2), partner)
    partner = torch.where(upright, partner.mT, partner)
    total = torch.where(scenes.pair[:, None, None], first + partner, single)
    start = _local_minima(total).flatten(1).topk(_STARTS, largest=False).indices

    n = len(images)
    places, middle = _places(), scenes.radii.mean(-1)
    every = scenes.repeat(_STARTS)
    one = places[start].view(-1, 1, 2)
    related = _related(every, one[:, 0], places)
    cost = second.flatten(1).repeat_interleave(_STARTS, 0).masked_fill(~related, torch.inf)
    other = torch.where(every.pair[:, None], places[cost.argmin(1)], one[:, 0])
    position = torch.stack([one[:, 0], other], 1).view(n, _STARTS, 2, 2)
    radius = middle[:, None].expand(-1, _STARTS, -1)
    best = _error(images, scenes, canvas, position, radius).argmin(1)
    rows = torch.arange(n)
    return position[rows, best], radius[rows, best]


def _cost_map(images: Tensor, scenes: Scenes, canvas: Tensor, j: int) -> Tensor:
    """(N, y, x) change of the squared error by drawing object ``j`` there, at its best radius."""
    without = ((images - canvas) ** 2).sum(1)
    drawn = ((images - scenes.colors[:, j, :, None, None]) ** 2).sum(1)
    gain = (drawn - without).flatten(1)
    side = len(_line())
    cost = torch.empty(len(images), side * side)
    for shape in range(len(SHAPES)):
        for size in range(len(SIZES)):
            chosen = (scenes.shape[:, j] == shape) & (scenes.size[:, j] == size)
            if chosen.any():
                every = gain[chosen] @ _templates(shape, size).T
                cost[chosen] = every.view(len(every), -1, _RADII_PER_SIZE).amin(-1)
    return cost.view(-1, side, side)


def _separation(scenes: Scenes) -> Tensor:
    """(N,) grid steps between two related objects of the largest radii."""
    return (scenes.radii[..., 1].sum(1) + GAP - 1).ceil().long()


def _cheapest_partner(maps: Tensor, scenes: Scenes) -> Tensor:
    """(N, y, x) lowest cost of a second object on the right of (y, x), roughly in line with it."""
    reach = 2 * int(2 * ALIGNMENT_TOLERANCE) + 1
    in_line = -nn.functional.max_pool2d(-maps[:, None], (reach, 1), 1, (reach // 2, 0))[:, 0]
    rightwards = in_line.flip(2).cummin(2).values.flip(2)
    side = maps.shape[2]
    column = torch.arange(side) + _separation(scenes)[:, None]
    shifted = rightwards.gather(2, column.clamp_max(side - 1)[:, None].expand(-1, side, -1))
    return shifted.masked_fill((column >= side)[:, None], torch.inf)


def _related(scenes: Scenes, position: Tensor, places: Tensor) -> Tensor:
    """(N, places): may the second object be there when the first is at ``position`` (N, 2)?"""
    delta = places - position[:, None]
    horizontal = (scenes.relation < 2)[:, None]
    along = torch.where(horizontal, delta[..., 0], delta[..., 1])
    along = torch.where((scenes.relation % 2 == 1)[:, None], -along, along)
    across = torch.where(horizontal, delta[..., 1], delta[..., 0]).abs()
    return (along >= _separation(scenes)[:, None]) & (across <= 2 * ALIGNMENT_TOLERANCE)


def _allowed(scenes: Scenes) -> Tensor:
    """(N, y, x): may a single object of each scene be there?"""
    places = _places()
    position = places.repeat(len(scenes), 1)[:, None].expand(-1, 2, -1)
    radius = scenes.radii.mean(-1).repeat_interleave(len(places), 0)
    allowed = fits(as_singles(scenes).repeat(len(places)), position, radius)
    return allowed.view(len(scenes), len(_line()), -1)


def _local_minima(maps: Tensor) -> Tensor:
    """Maps (N, y, x) with everything but the minima of 5 × 5 windows at infinity."""
    lowest = -nn.functional.max_pool2d(-maps[:, None], 5, 1, 2)[:, 0]
    return maps.masked_fill(maps > lowest, torch.inf)


def _refine(
    images: Tensor, scenes: Scenes, canvas: Tensor, position: Tensor, radius: Tensor
) -> tuple[Tensor, Tensor]:
    """Coordinate search with shrinking steps around a start, within what the caption allows."""
    n = len(images)
    x = torch.cat([position.flatten(1), radius], 1)
    moves = torch.cat([torch.zeros(1, 6), torch.eye(6), -torch.eye(6)])
    rows = torch.arange(n)
    for step in _ROUNDS:
        for _ in range(2):
            trial = x[:, None] + step * moves
            p, r = trial[..., :4].reshape(n, -1, 2, 2), trial[..., 4:]
            error = _error(images, scenes, canvas, p, r)
            valid = fits(scenes.repeat(len(moves)), p.reshape(-1, 2, 2), r.reshape(-1, 2))
            valid = valid.view(n, -1)
            valid[:, 0] = True
            x = trial[rows, error.masked_fill(~valid, torch.inf).argmin(1)]
    return x[:, :4].view(n, 2, 2), x[:, 4:]


def _error(
    images: Tensor, scenes: Scenes, canvas: Tensor, position: Tensor, radius: Tensor
) -> Tensor:
    """(N, M) mean squared error of M renderings of each scene."""
    m = position.shape[1]
    drawn = draw(
        scenes.repeat(m),
        position.reshape(-1, 2, 2),
        radius.reshape(-1, 2),
        canvas.repeat_interleave(m, 0),
    )
    return ((drawn.view(-1, m, *images.shape[1:]) - images[:, None]) ** 2).mean((2, 3, 4))


def _parts(
    images: Tensor, scenes: Scenes, canvas: Tensor, position: Tensor, radius: Tensor
) -> Tensor:
    """(N, 3) errors of the background and of both objects (0 without a second object)."""
    error = ((draw(scenes, position, radius, canvas) - images) ** 2).mean(1)
    rest = torch.ones_like(error)
    objects = []
    for j in range(2):
        mask = coverage(scenes.shape[:, j], position[:, j], radius[:, j])
        area = nn.functional.max_pool2d(mask[:, None], 3, 1, 1)[:, 0]
        contrast = ((scenes.colors[:, j, :, None, None] - canvas) ** 2).mean(1)
        ratio = (area * error).sum((1, 2)) / (mask * contrast).sum((1, 2))
        exists = scenes.pair.float() if j else torch.ones(len(images))
        objects.append(ratio * exists)
        rest = rest * (1 - area * exists[:, None, None])
    behind = (rest * error).sum((1, 2)) / rest.sum((1, 2)) / BACKGROUND_SCALE
    return torch.stack([behind, *objects], 1)


@cache
def _line() -> Tensor:
    """Candidate coordinates on one axis, a pixel apart."""
    return torch.arange(3.5, SIZE - 3)


@cache
def _places() -> Tensor:
    """(P, 2) candidate positions as x and y, row by row."""
    return torch.cartesian_prod(_line(), _line()).flip(-1)


@cache
def _templates(shape: int, size: int) -> Tensor:
    """(places × radii, pixels) masks of one kind of object everywhere."""
    position = _places().repeat_interleave(_RADII_PER_SIZE, 0)
    radius = torch.linspace(*RADII[size], _RADII_PER_SIZE).repeat(len(_places()))
    return coverage(torch.full((len(position),), shape), position, radius).flatten(1)
