"""Simulated raters in a real browser, in a world where the true preference is known.

They read the prompt and the pixels off the page, ask the gold judge, add noise of their own, and
press keys. Needs playwright (envs/requirements-dev.txt) and an installed Chromium.
"""

import base64
import contextlib
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rocm_core.errors import UserError
from rocm_core.provenance import StudyFiles, write_json
from rocm_core.shapes.judge import judge
from rocm_core.shapes.scenes import SIZE
from rocm_core.study.server import StudyServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Deviation of the noise on the difference of two verdicts, which lie in [0, 1], for each question.
NOISE: Mapping[str, float] = {"appeal": 1.0, "alignment": 0.25, "preference": 0.5}
INDIFFERENT = 0.1  # differences smaller than this are ties
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PIXELS = """(image) => {
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return btoa(String.fromCharCode(...data));
}"""


class SimulatedRater:
    """The gold judge with a rater's own noise."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def keys(self, prompt: str, left: torch.Tensor, right: torch.Tensor) -> list[str]:
        """The key to press for each question on two images (3, H, W) in [0, 1]."""
        better, worse = judge(torch.stack([left, right]), [prompt] * 2).tolist()
        keys = []
        for noise in NOISE.values():
            seen = better - worse + noise * self._generator.standard_normal()
            keys.append("s" if abs(seen) < INDIFFERENT else "a" if seen > 0 else "b")
        return keys


@contextlib.contextmanager
def open_browser() -> Iterator["Browser"]:
    """The system's Chromium without a window."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise UserError(f"no browser is installed: one of {', '.join(BROWSERS)} is needed")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise UserError("playwright is not installed: see envs/requirements-dev.txt") from None
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root otherwise
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def begin(page: "Page", link: str) -> None:
    """Open a rater's link and accept the warning."""
    page.goto(link)
    page.click("#begin:enabled")


def vote(page: "Page", rater: SimulatedRater) -> bool:
    """Answer the pair on show; False where there is none left."""
    page.wait_for_selector("fieldset.current, #thanks:not([hidden])")
    if page.is_visible("#thanks"):
        return False
    shown = page.get_attribute("#left", "src")
    left, right = (_image(page.eval_on_selector(side, _PIXELS)) for side in ("#left", "#right"))
    for key in [*rater.keys(page.inner_text("#prompt"), left, right), "Enter"]:
        page.keyboard.press(key)
    page.wait_for_function(
        "shown => document.querySelector('#left').getAttribute('src') !== shown"
        " || !document.querySelector('#thanks').hidden",
        arg=shown,
    )
    return True


def _image(pixels: str) -> torch.Tensor:
    """(3, 32, 32) in [0, 1] of the bytes of an RGBA image, in base64."""
    rgba = torch.tensor(list(base64.b64decode(pixels))).reshape(SIZE, SIZE, 4)
    return rgba[..., :3].permute(2, 0, 1) / 255


def simulate(folder: Path, browser: "Browser", raters: int, seed: int) -> None:
    """Let the first `raters` raters of the study in `folder` answer every pair on its page, and
    write down, for whoever counts the votes, that these are of no people."""
    with StudyServer(folder, port=0) as server:
        write_json(StudyFiles(folder).simulated, {"raters": raters, "seed": seed})
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            for number, code in enumerate(server.raters[:raters]):
                context: Any = browser.new_context()
                page = context.new_page()
                begin(page, f"{server.address}?rater={code}")
                rater = SimulatedRater(seed + number)
                while vote(page, rater):
                    pass
                context.close()
        finally:
            server.shutdown()
            thread.join()
