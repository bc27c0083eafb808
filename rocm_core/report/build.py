"""The report: one self-contained HTML file that shows what a run found and what it is made of."""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from rocm_core.analysis import (
    GOLD,
    Estimate,
    Results,
    Source,
    decimals,
    metric_label,
    number,
    paired_difference,
)
from rocm_core.errors import UserError
from rocm_core.figures import figures
from rocm_core.plugins import load
from rocm_core.tables import tables

_TEMPLATES = jinja2.FileSystemLoader(Path(__file__).parent)  # page.html.j2, with its style.css
_SHOWN = (
    *("settings", "code", "commit", "device", "seconds", "attempts", "peak_memory_gib"),
    *("beta", "reward_queries", "nfe"),
)
_TOLD_BY_NAME = {"reward", "scorer", "seed", "divergence"}
_GROUPS = {"Q": "What this reproduction asks", "": "The ROCM paper", "R": "The RLCM paper"}
_STRIP = 6  # images of a cell
# Pixels of their sides, by the number of cells: all strips together stay within a few megabytes.
_SIDES = ((60, 160), (150, 112), (float("inf"), 80))


@dataclass(frozen=True)
class Report:
    """The finished page."""

    html: str

    def save(self, stem: Path) -> None:
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".html").write_text(self.html, encoding="utf-8")


@dataclass(frozen=True)
class Reading:
    """What training with one method on one reward changed, against its base, paired over prompts.

    `reward` and `gold` are changes with their intervals (None: no such scores); `held_out` counts
    the directions of the metrics that are neither.
    """

    trained_on: str
    method: str
    seeds: int
    reward: Estimate | None
    gold: Estimate | None
    held_out: dict[str, int]

    @property
    def phrase(self) -> str:
        """The directions in words: "reward rises, gold judge falls"."""
        named = {"reward": self.reward, "gold judge": self.gold}
        told = [f"{name} {change.direction}" for name, change in named.items() if change]
        return ", ".join(told) or "missing"


def make(results: Results) -> Report:
    """Assemble the page from scores, manifests, images, the tables, and the claims and figures
    already made."""
    environment = jinja2.Environment(
        loader=_TEMPLATES,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["metric"] = metric_label
    environment.filters["method"] = results.label
    environment.filters["signed"] = lambda value, change: number(
        value, decimals(change.half_width), signed=True
    )
    shown = {name: load("tables", name).make(results) for name in tables(results.config)}
    ledger, cells = _ledger(results), _cells(results)
    side = next(side for most, side in _SIDES if len(cells) <= most)
    return Report(
        environment.get_template("page.html.j2").render(
            claims=_claims(ledger),
            tally=_tally(ledger),
            hours=_hours(cells),
            shown_prompts=results.prompts[:_STRIP],
            bases=[{"name": s.name, "strip": _strip(results, s, side)} for s in results.bases],
            config=results.config,
            rewards=results.rewards,
            results=results,
            judged=GOLD in results.config.metrics,
            readings=list(read(results)),
            tables=[(name, table, Markup(table.html())) for name, table in shown.items()],
            pictures=_pictures(results),
            cells=[cell | {"strip": _strip(results, cell["source"], side)} for cell in cells],
            varying=_varying(results),
            packages=next(iter(results.manifests.values()), {}).get("packages", {}),
            gaps=results.gaps,
        )
    )


def read(results: Results) -> Iterator[Reading]:
    """One reading for each training reward and method, swept methods included."""
    for reward in results.rewards:
        for method in results.methods(reward, sweeps=True):
            base = results.base_of(reward, method)
            changes = {}
            for metric in results.config.metrics:
                after = results.scores(method, metric, reward)
                before = results.scores(base, metric)
                if len(after) and len(before):
                    changes[metric] = paired_difference(after, before)
            trained, gold = changes.pop(reward, None), changes.pop(GOLD, None)
            directions = [change.direction for change in changes.values()]
            counts = {d: directions.count(d) for d in ("rises", "falls", "undecided")}
            seeds = results.seeds(reward, method)
            yield Reading(reward, method, seeds, trained, gold, counts)


def _pictures(results: Results) -> list[dict[str, str]]:
    """Title, caption, CSV path and inlined PNG of each figure in the results directory."""
    pictures = []
    for name in figures(results.config):
        path = results.layout.rendered("figure", name)[1]
        if not path.exists():
            if results.config.partial:
                continue
            raise UserError(f"{path} does not exist: render the figure {name} first")
        with Image.open(results.existing(path)) as image:
            title, caption = (str(image.info.get(k, "")) for k in ("Title", "Description"))
        data = base64.b64encode(path.read_bytes()).decode()
        source = f"data:image/png;base64,{data}"
        pictures.append({"name": name, "title": title, "caption": caption, "source": source})
    return pictures


def _ledger(results: Results) -> list[dict[str, Any]]:
    """The claims as `rocm_core.claims` wrote them."""
    path = results.layout.rendered("claims", "claims")[0]
    try:
        return list(json.loads(results.existing(path).read_text(encoding="utf-8"))["claims"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a ledger ({error}): decide the claims again") from None


def _claims(ledger: list[dict[str, Any]]) -> list[tuple[str, list[dict], list[dict]]]:
    """(heading, claims that this run tests, those that it has no part for) of each group."""
    groups = []
    for prefix, heading in _GROUPS.items():
        own = [c for c in ledger if c["id"].rstrip("0123456789abc") == prefix]
        tested, idle = ([c for c in own if bool(c["parts"]) == has] for has in (True, False))
        groups.append((heading, tested, idle))
    return groups


def _tally(ledger: list[dict[str, Any]]) -> str:
    """How many claims have which verdict: "3 confirmed, 1 refuted, 2 not decidable, 18 not tested";
    the last have no part in this configuration."""
    counts = Counter(claim["verdict"] if claim["parts"] else "not tested" for claim in ledger)
    names = ("confirmed", "refuted", "not decidable", "not tested")
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name])


def _hours(cells: list[dict[str, Any]]) -> str:
    """The time of all trainings by device: "3.2 hours on NVIDIA H100"."""
    spent: Counter[str] = Counter()
    for cell in cells:
        spent[cell["device"]] += cell["seconds"] / 3600
    told = [f"{hours:.3g} hours on {device}" for device, hours in spent.items()]
    return ", ".join(told) or "0 hours"


def _cells(results: Results) -> list[dict[str, Any]]:
    """What each trained cell is made of and cost: its source, name and manifest."""
    cells = []
    for source in results.trained:
        manifest = results.manifests.get(source.name)
        if manifest is None:
            continue
        lacking = [key for key in _SHOWN if key not in manifest]
        if lacking:
            path = results.root / "cells" / source.name / "manifest.json"
            raise UserError(f"{path} has no {lacking[0]}: train the cell again")
        about = {"source": source, "name": source.name, "id": source.name.replace("/", "-")}
        cells.append(about | {"reward": source.reward, "method": source.method} | manifest)
    return cells


def _strip(results: Results, source: Source, side: int) -> str | None:
    """The first validation images side by side as a data URI; None where there are none."""
    paths = [results.image(source, prompt.id) for prompt in results.prompts[:_STRIP]]
    images = [_thumbnail(path, side) for path in paths if path]
    if not images:
        return None
    strip = Image.new("RGB", (side * len(images), side))
    for place, image in enumerate(images):
        strip.paste(image, (place * side, 0))
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=85, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _thumbnail(path: Path, side: int) -> Image.Image:
    try:
        with Image.open(path) as image:
            # A pixel of a small world stays a pixel.
            grows = image.width < side
            filter = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
            return image.convert("RGB").resize((side, side), filter)
    except OSError:
        raise UserError(f"{path} is not an image: generate it again") from None


def _varying(results: Results) -> tuple[list[str], dict[str, Any]]:
    """Settings that differ between the cells, and the values of those that all cells share."""
    settings = [manifest["settings"] for manifest in results.manifests.values()]
    keys = list(dict.fromkeys(key for one in settings for key in one if key not in _TOLD_BY_NAME))
    shared = {
        k: settings[0].get(k) for k in keys if len({repr(one.get(k)) for one in settings}) == 1
    }
    return [key for key in keys if key not in shared], shared
