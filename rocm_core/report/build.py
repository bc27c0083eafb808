"""The report: one self-contained HTML file that shows what a run found and what it is made of."""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from rocm_core.analysis import (
    GOLD,
    Estimate,
    Results,
    Source,
    decimals,
    environment,
    held_out,
    metric_label,
    number,
)
from rocm_core.claims import VERDICTS
from rocm_core.errors import UserError
from rocm_core.grid import offered
from rocm_core.plugins import facts, load
from rocm_core.provenance import atomic_write
from rocm_core.report.terms import TERMS, anchor, explained

_SHOWN = (
    *("settings", "code", "commit", "device", "job_seconds", "attempts", "peak_memory_gib"),
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
        """Write `stem` with the suffix .html."""
        with atomic_write(stem.with_suffix(".html")) as file:
            file.write(self.html.encode())


@dataclass(frozen=True)
class Reading:
    """What training with one method on one reward changed, against its base, paired over prompts.

    `reward` and `gold` are changes with their intervals (None: no such scores); `held_out` counts
    the directions of the scorers that no training on this reward used, but for the gold judge.
    """

    trained_on: str
    method: str
    seeds: int | None
    reward: Estimate | None
    gold: Estimate | None
    held_out: dict[str, int]

    @property
    def phrase(self) -> str:
        """The directions in words: "reward rises, gold judge falls"."""
        named = {"reward": self.reward, "gold judge": self.gold}
        told = [f"{name} {change.direction}" for name, change in named.items() if change]
        return ", ".join(told) or "missing"


def make(results: Results, *, with_trainings: bool = True) -> Report:
    """Assemble the page from scores, manifests, images, the tables, and the claims and figures
    already made. with_trainings: link to the LoRAs, which a published page has not beside it."""
    templates = environment(
        Path(__file__).parent,
        metric=metric_label,
        method=results.label,
        reward=results.reward_label,
        signed=lambda change: number(change.mean, decimals(change.half_width), signed=True),
        bounds=lambda change: change.bounds(decimals(change.half_width)),
        explained=explained,
        anchor=anchor,
    )
    path = results.layout.rendered("claims", "claims")[0]
    ledger, limits = (
        results.entries(path, key, "a ledger", "decide the claims again")
        for key in ("claims", "limits")
    )
    varying, shared = _varying(results)
    cells = _cells(results, with_trainings, varying)
    side = next(side for most, side in _SIDES if len(cells) <= most)
    shown = {
        name: load("tables", name).make(results)
        for name in offered("tables", results.config, results.layout)
    }
    pictures = _pictures(results)
    verdicts = Counter(one["verdict"] for one in ledger)
    html = templates.get_template("page.html.j2").render(
        groups={
            heading: [c for c in ledger if c["id"].rstrip("0123456789abc") == prefix]
            for prefix, heading in _GROUPS.items()
        },
        tally=", ".join(f"{verdicts[name]} {name}" for name in VERDICTS if verdicts[name]),
        limits=limits,
        titles=_titles(shown, pictures),
        terms=TERMS,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        commits=list(dict.fromkeys(c["commit"] for c in cells if c["commit"])),
        configuration=json.dumps(_configuration(results), indent=2, ensure_ascii=False),
        shown_prompts=results.prompts[:_STRIP],
        config=results.config,
        rewards=results.rewards,
        results=results,
        has_gold=GOLD in results.config.metrics,
        readings=list(read(results)),
        tables=[
            {"name": name, "table": table, "html": Markup(_with_terms(table).html())}
            | {"files": _files(results, "table", name)}
            for name, table in shown.items()
        ],
        plots=[one for one in pictures if not one["of_images"]],
        galleries=[one for one in pictures if one["of_images"]],
        cells=cells,
        strips={source.name: _strip(results, source, side) for source in results.everything},
        varying=varying,
        shared=shared,
        packages=next(iter(results.manifests.values()), {}).get("packages", {}),
        gaps=results.gaps,
    )
    return Report(html)


def read(results: Results) -> Iterator[Reading]:
    """One reading for each training reward and method, swept methods included."""
    for reward in results.rewards:
        for method in results.methods(reward, sweeps=True):
            used = results.used(reward)
            metrics = dict.fromkeys([*results.config.metrics, reward])  # an ensemble is no metric
            changes = {m: results.change(reward, method, m) for m in metrics}
            trained, gold = changes.pop(reward, None), changes.pop(GOLD, None)
            others = [changes[metric] for metric in held_out(changes, used)]
            directions = [change.direction for change in others if change]
            counts = {d: directions.count(d) for d in ("rises", "falls", "undecided")}
            seeds = results.seeds(reward, method)
            yield Reading(reward, method, seeds, trained, gold, counts)


def _configuration(results: Results) -> dict[str, Any]:
    """The configuration with every default, as JSON values."""
    return {key: value for key, value in results.config.to_dict().items() if key != "partial"}


def _titles(tables: Mapping[str, Any], pictures: list[dict[str, Any]]) -> dict[str, str]:
    """How the page names each of its tables and figures: "Table 1", or the title."""
    titles = {name: table.title for name, table in tables.items()}
    titles |= {picture["name"]: picture["title"] for picture in pictures}
    numbered = {name: re.fullmatch(r"(table|figure)(\d+)", name) for name in titles}
    return titles | {n: f"{m[1].capitalize()} {m[2]}" for n, m in numbered.items() if m}


def _with_terms(table: Any) -> Any:
    """A table whose heads and first column explain each term where it stands first."""
    told: list[str] = []
    header = [explained(name, told) for name in table.header]

    def row(label: Any, *entries: Any) -> list[Any]:
        return [replace(label, text=explained(label.text, told)), *entries]

    blocks = [replace(one, rows=[row(*cells) for cells in one.rows]) for one in table.blocks]
    return replace(table, header=header, blocks=blocks)


def _files(results: Results, kind: str, name: str) -> list[tuple[str, str]]:
    """(suffix, path from the page) of what there is of a table or figure."""
    paths = [path for path in results.layout.rendered(kind, name) if path.exists()]
    return [(path.suffix[1:], path.relative_to(results.root).as_posix()) for path in paths]


def _pictures(results: Results) -> list[dict[str, Any]]:
    """Title, caption, files and inlined PNG of each figure in the results directory, and whether it
    shows images by models."""
    pictures = []
    for name in offered("figures", results.config, results.layout):
        path = results.layout.rendered("figure", name)[1]
        if not path.exists():
            if results.config.partial:
                continue
            raise UserError(f"{path} does not exist: render the figure {name} first")
        with Image.open(results.existing(path)) as image:
            title, caption = (str(image.info.get(k, "")) for k in ("Title", "Description"))
        source, files = _data_uri("png", path.read_bytes()), _files(results, "figure", name)
        of_images = {"images", "prompts of snapshots"} & set(facts("figures", name)["READS"])
        pictures.append(
            {"name": name, "title": title, "caption": caption, "source": source, "files": files}
            | {"of_images": bool(of_images)}
        )
    return pictures


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _cells(results: Results, with_trainings: bool, varying: list[str]) -> list[dict[str, Any]]:
    """What each trained cell is made of and cost: its source and its manifest, and in words those
    of its settings that are `varying`."""
    cells = []
    for source in results.trained:
        manifest = results.manifests.get(source.name)
        if manifest is None:
            continue
        lacking = [key for key in _SHOWN if key not in manifest]
        if lacking:
            path = results.layout.cell(source.name).manifest
            raise UserError(f"{path} has no {lacking[0]}: train the cell again")
        lora = results.lora(source)
        file = (
            lora.relative_to(results.root).as_posix() if with_trainings and lora.exists() else None
        )
        first = source.seed == results.config.seeds[0] and not source.swept
        told = dict(_told(manifest, varying))
        cells.append(manifest | {"source": source, "lora": file, "first": first, "varying": told})
    return cells


def _told(manifest: Mapping[str, Any], keys: list[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """(setting, (its value, where that comes from)) in words: of a search what it chose, and of
    what; of a β that adapts where it ended."""
    found = {"beta": manifest["beta"], **manifest.get("chosen", {})}
    for key, value in manifest["settings"].items():
        if key in keys and isinstance(value, Mapping) and key in found:
            tried = value.get("search", [])
            at_edge = tried and found[key] in (min(tried), max(tried))
            edge = "; at the edge of what was tried" if at_edge else ""
            yield key, (f"{found[key]:.4g}", _in_words(value) + edge)
        elif key in keys:
            yield key, (_in_words(value), "")


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_in_words(one)}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


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
    return _data_uri("jpeg", file.getvalue())


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
