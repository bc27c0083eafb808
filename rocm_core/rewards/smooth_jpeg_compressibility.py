"""JPEG compressibility with a gradient: minus the bytes that JPEG codes an image's pixels in.

The steps are the encoder's (ITU-T T.81): luma and chroma, chroma at half the resolution, cosine
transform of blocks of 8 × 8 pixels, division by the quantisation table at quality 95, rounding,
Huffman codes of each block's mean, less the one before, and of its other numbers. Only the last two
have no gradient. Their bits count as they are, straight through, with the slope of

    ½ log2(1 + (2q)⁴):  about 0 for what is rounded to 0, 2 at q = 1, 2 more for each doubling,

which is what the code of a number q takes, a bit for its magnitude and about one for its size. On
the disk an image is measured by the real encoder, as `jpeg_compressibility` does.
"""

import functools
import io
import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from rocm_core.rewards._weightless import Weightless
from rocm_core.rewards.jpeg_incompressibility import QUALITY, kilobytes

DIFFERENTIABLE = True
JUDGES = False

BLOCK = 8
# Luma, blue and red difference of R, G, B (JFIF, after ITU-R BT.601).
COLOURS = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


class SmoothJpegCompressibility(Weightless):
    """Minus the estimated kB of the image's entropy-coded data, without headers."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (N,) of images (N, 3, H, W) in [0, 1]."""
        return -estimated_kilobytes(images)

    @torch.no_grad()
    def measure(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Minus the kB of the image's JPEG file."""
        return -kilobytes(images)


def estimated_kilobytes(images: Tensor) -> Tensor:
    """(N,) of images (N, 3, H, W) in [0, 1], in units of 1000 bytes; too much where H or W is not a
    multiple of 16, as what pads them is then coded like the image."""
    wide = images.to(torch.promote_types(images.dtype, torch.float32)).clamp(0, 1)
    pixels = _round(wide * 255)
    height, width = (-side % (2 * BLOCK) for side in pixels.shape[2:])
    pixels = functional.pad(pixels, (0, width, 0, height), mode="replicate")
    colours = _round(torch.einsum("dc,nchw->ndhw", pixels.new_tensor(COLOURS), pixels))
    luma, chroma = colours[:, :1] - 128, _round(functional.avg_pool2d(colours[:, 1:], 2))
    bits = _bits(luma, 0, group=2) + _bits(chroma, 1, group=1)
    return bits / 8 / 1000


def _round(values: Tensor) -> Tensor:
    """The nearest integers, with the gradient of the values themselves."""
    return values + (values.round() - values).detach()


def _bits(planes: Tensor, table: int, group: int) -> Tensor:
    """(N,) bits of planes (N, C, H, W), whose blocks are coded in squares of `group`² blocks."""
    transform = _cosines().to(planes)
    blocks = planes.unflatten(3, (-1, group, BLOCK)).unflatten(2, (-1, group, BLOCK))
    # (N, C, rows, a, y, columns, b, x) to the encoder's order: (N, C, rows, columns, a, b, y, x)
    blocks = blocks.permute(0, 1, 2, 5, 3, 6, 4, 7).flatten(2, 5)
    scaled = transform @ blocks @ transform.T / _quantisation(table).to(planes)
    scaled = scaled.flatten(3)[..., _zigzag().to(planes.device)]
    mean, rest = scaled[..., :1], scaled[..., 1:]
    steps = torch.diff(mean, dim=2, prepend=torch.zeros_like(mean[:, :, :1]))
    both = torch.cat([steps, rest], 3)
    smooth = torch.log2(1 + (2 * both) ** 4).sum((1, 2, 3)) / 2
    with torch.no_grad():
        rounded = mean.round()
        steps = torch.diff(rounded, dim=2, prepend=torch.zeros_like(rounded[:, :, :1]))
        exact = _coded(steps, rest.round(), table)
    return exact + (smooth - smooth.detach())


def _coded(steps: Tensor, rest: Tensor, table: int) -> Tensor:
    """(N,) bits of the codes of integers: steps of means (N, C, blocks, 1), and the other numbers
    (N, C, blocks, 63) in zigzag order, of which runs of zeros share the code of what follows."""
    of_steps, of_rest = (lengths.to(rest.device) for lengths in _code_lengths()[table])
    size = _size(steps)
    bits = of_steps[size] + size
    size, place = _size(rest), torch.arange(rest.shape[-1], device=rest.device)
    latest = torch.where(size > 0, place, -1).cummax(-1).values
    before = functional.pad(latest[..., :-1], (1, 0), value=-1)
    run = place - before - 1
    codes = of_rest[run % 16 * 16 + size] + size + run // 16 * of_rest[15 * 16]
    ends = (latest[..., -1:] < len(place) - 1) * of_rest[0]
    bits = (
        bits.sum((1, 2, 3)) + torch.where(size > 0, codes, 0).sum((1, 2, 3)) + ends.sum((1, 2, 3))
    )
    return bits.to(rest)


def _size(values: Tensor) -> Tensor:
    """How many bits the magnitude of an integer has."""
    return torch.frexp(values.abs()).exponent.long()


@functools.cache
def _zigzag() -> Tensor:
    """(64,) the order in which a block's numbers are coded: by diagonals, to and fro."""
    places = [(row, column) for row in range(BLOCK) for column in range(BLOCK)]
    places.sort(key=lambda p: (sum(p), p[0] if sum(p) % 2 else p[1]))
    return torch.tensor([row * BLOCK + column for row, column in places])


@functools.cache
def _code_lengths() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Bits of each Huffman code, by symbol, of steps and of the rest: of luma, then of chroma."""
    data, lengths = _sample(), torch.zeros(2, 2, 256, dtype=torch.long)
    place = 2
    while data[place + 1] != 0xDA:  # the start of the coded data
        segment = int.from_bytes(data[place + 2 : place + 4])
        if data[place + 1] == 0xC4:  # tables: class and number, codes of each length, symbols
            at = place + 4
            while at < place + 2 + segment:
                counts, symbol = data[at + 1 : at + 17], at + 17
                for bits, count in enumerate(counts, 1):
                    for code in data[symbol : symbol + count]:
                        lengths[data[at] % 16, data[at] // 16, code] = bits
                    symbol += count
                at = symbol
        place += 2 + segment
    (a, b), (c, d) = (tuple(one) for one in lengths)
    return (a, b), (c, d)


@functools.cache
def _cosines() -> Tensor:
    """(8, 8) orthonormal cosine transform, by frequency and pixel."""
    place = torch.arange(BLOCK, dtype=torch.double)
    cosines = torch.cos((2 * place + 1) * place[:, None] * math.pi / (2 * BLOCK))
    cosines[0] /= math.sqrt(2)
    return cosines * math.sqrt(2 / BLOCK)


@functools.cache
def _quantisation(table: int) -> Tensor:
    """(8, 8) the encoder's table: 0 of luma, 1 of chroma."""
    values = Image.open(io.BytesIO(_sample())).quantization[table]  # type: ignore[attr-defined]
    return torch.tensor(values, dtype=torch.double).view(BLOCK, BLOCK)


@functools.cache
def _sample() -> bytes:
    """A file of the encoder, which holds its tables."""
    file = io.BytesIO()
    Image.new("RGB", (BLOCK, BLOCK)).save(file, format="JPEG", quality=QUALITY)
    return file.getvalue()


load = SmoothJpegCompressibility.load
