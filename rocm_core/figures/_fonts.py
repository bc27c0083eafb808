"""Any script in figures: what the style's font lacks is drawn with another installed font, or
spelled where there is none."""

import functools
import unicodedata
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from rocm_core.errors import warn

FAMILY = "DejaVu Sans"  # comes with matplotlib


def use_fonts(figure: Figure) -> None:
    """Give every text of a figure fonts that have its characters, and spell what no font has.

    Few italic or bold faces have more than a few scripts, so what they lack is set upright.
    """
    for artist in figure.findobj(Text):
        text = drawable(artist.get_text())
        artist.set_text(text)
        own = font_manager.get_font(font_manager.findfont(artist.get_fontproperties()))
        if not own.get_charmap().keys() >= {ord(c) for c in text if not c.isspace()}:
            families = [FAMILY, *filter(None, map(_family_of, text))]
            artist.set(family=list(dict.fromkeys(families)), style="normal", weight="normal")


def drawable(text: str) -> str:
    r"""A text whose characters no installed font has are spelled as code points, \u732b; those that
    show nothing are left out. Warns of it once."""
    if text.isascii() or all(map(_family_of, text)):
        return text
    lacking = {c for c in text if not _family_of(c)}
    spelled = {ord(c): "" if _is_unseen(c) else ascii(c)[1:-1] for c in lacking}
    if any(spelled.values()):
        _warn()
    return text.translate(spelled)


def _warn() -> None:
    warn(
        "figures spell characters that no installed font has as code points such as \\u732b:"
        " install a font of their script, such as Noto Sans CJK, and render the figures again"
    )


def _is_unseen(character: str) -> bool:
    """A joiner, a mark of direction or a variation selector."""
    return unicodedata.category(character) == "Cf" or "VARIATION" in unicodedata.name(character, "")


@functools.cache
def _family_of(character: str) -> str | None:
    """The first font family that has a character; that of the style has all kinds of space."""
    if character.isspace():
        return FAMILY
    return next((family for family, has in _families() if ord(character) in has()), None)


@functools.cache
def _families() -> list[tuple[str, "functools.partial[frozenset[int]]"]]:
    """The style's font, then those installed beside matplotlib's, each with what its upright face
    has."""
    own = Path(matplotlib.get_data_path())
    entries = [
        entry
        for entry in font_manager.fontManager.ttflist
        if entry.size == "scalable"
        and (entry.name == FAMILY or not Path(entry.fname).is_relative_to(own))
    ]
    entries.sort(key=lambda e: (e.style != "normal", e.weight != 400, e.stretch != "normal"))
    upright = {entry.name: entry for entry in reversed(entries)}
    return [
        (name, functools.partial(_characters, upright[name].fname, upright[name].index))
        for name in sorted(upright, key=lambda n: (n != FAMILY, not n.startswith("Noto Sans"), n))
    ]


@functools.cache
def _characters(file: str, index: int) -> frozenset[int]:
    """The code points that a font file has glyphs for; none of one that cannot be read."""
    try:
        return frozenset(font_manager.get_font(font_manager.FontPath(file, index)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
