"""Prompts in figures: drawn as they are, in whatever script, with what fonts there are."""

import warnings
from importlib import import_module

import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.text import Text
from synthetic import make_config, write_results

from rocm_core.analysis import Results
from rocm_core.commands.render import render
from rocm_core.errors import warn
from rocm_core.figures import _fonts, _images
from rocm_core.prompts import Prompt, write_prompts


def draw(name, config, root):
    return import_module(f"rocm_core.figures.{name}").make(Results(config, root))


PROMPTS = [
    *("Ba$$in", "$100 bills next to a $20", r"a \$5 sign", r"$\frac{", "50% _a_ ^b {c} #1"),
    *("=1+1", "@SUM(A1)", "-2 degrees", "+1 cat", "قطة على النافذة", "חתול ליד החלון", "Ünïcode ☃"),
]


def with_prompts(root, texts):
    config = make_config()
    write_results(root, config, size=8)
    prompts = [Prompt(f"p{number:04d}", text, "own") for number, text in enumerate(texts)]
    write_prompts(root / "prompts" / "validation.jsonl", prompts)
    return config, root


def said(drawing):
    return [text for text in drawing.figure.findobj(Text) if text.get_text()]


@pytest.mark.parametrize("name", ["figure1", "figure2", "figure6", "samples"])
def test_a_prompt_is_drawn_as_it_is(name, tmp_path, capsys):
    results = with_prompts(tmp_path / "results", PROMPTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render("figure", name, *results, tmp_path / name)
        drawing = draw(name, *results)
    texts = {" ".join(text.get_text().split()): text for text in said(drawing)}
    shown = {"figure1": 12, "figure2": 6, "figure6": 3, "samples": 4}[name]
    for prompt in PROMPTS[:shown]:
        assert texts[prompt]._preprocess_math(prompt) == (prompt, False)  # drawn, not read
    assert capsys.readouterr().err == ""
    if name == "figure1":
        cells = pd.read_csv(tmp_path / "figure1.csv", keep_default_na=False)["text"]
        assert [cell.removeprefix("'") for cell in cells] == PROMPTS
        assert [cell for cell in cells if cell[0] in "=+-@"] == []


@pytest.fixture
def only_dejavu(monkeypatch):
    """No fonts but matplotlib's, whatever this machine has."""
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)

    def forget():
        for cached in (_fonts._families, _fonts._family_of, warn):
            cached.cache_clear()

    forget()
    yield
    forget()


FOREIGN = ["猫が窓辺に座る", "एक बिल्ली", "a family 👩\u200d🚀❤\ufe0f and text"] + ["a cat"] * 9


def test_what_no_font_has_is_spelled_and_said_once(only_dejavu, tmp_path, capsys):
    results = with_prompts(tmp_path / "results", FOREIGN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("figure1", "figure2"):
            render("figure", name, *results, tmp_path / name)
    texts = {"".join(text.get_text().split()) for text in said(draw("figure1", *results))}
    assert FOREIGN[0].encode("ascii", "backslashreplace").decode() in texts
    assert "afamily\\U0001f469\u200d\\U0001f680❤andtext" in {t.replace("\ufe0f", "") for t in texts}
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.startswith("warning: figures spell characters that")
    assert pd.read_csv(tmp_path / "figure1.csv")["text"][0] == FOREIGN[0]


def test_an_installed_font_draws_what_the_styles_lacks(only_dejavu, tmp_path, capsys):
    built = FontBuilder(1000, isTTF=True)
    built.setupGlyphOrder([".notdef", "any"])
    built.setupCharacterMap({ord(character): "any" for character in FOREIGN[0]})
    pen = TTGlyphPen(None)
    for place, point in enumerate([(0, 0), (0, 500), (500, 500)]):
        (pen.lineTo if place else pen.moveTo)(point)
    pen.closePath()
    built.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "any": pen.glyph()})
    built.setupHorizontalMetrics({".notdef": (500, 0), "any": (600, 0)})
    built.setupHorizontalHeader(ascent=800, descent=-200)
    built.setupNameTable({"familyName": "Script of a Test", "styleName": "Regular"})
    built.setupOS2()
    built.setupPost()
    built.save(tmp_path / "script.ttf")
    font_manager.fontManager.addfont(tmp_path / "script.ttf")
    results = with_prompts(tmp_path / "results", [FOREIGN[0], *["a cat"] * 11])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render("figure", "figure1", *results, tmp_path / "figure1")
    (drawn,) = (t for t in said(draw("figure1", *results)) if "猫" in t.get_text())
    assert drawn.get_fontfamily() == ["DejaVu Sans", "Script of a Test"]
    assert capsys.readouterr().err == ""


def test_wide_characters_take_two_places(monkeypatch):
    monkeypatch.setattr(_images, "drawable", lambda text: text)
    assert _images.wrap("é" * 28, 2.0, 4) == ["é" * 28]
    assert _images.wrap("猫" * 28, 2.0, 4) == ["猫" * 14] * 2
    assert _images.wrap("猫" * 60, 2.0, 2)[-1].endswith("…")
