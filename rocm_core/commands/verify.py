"""Every artefact of a grid against its configuration. Looks only; starts nothing.

`python -m rocm_core.commands.verify --configfile config/demo.yaml` lists what is amiss, then exits with 1.
"""

import argparse
import contextlib
import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rocm_core.configuration import Config, GenerationSettings
from rocm_core.errors import UserError, run
from rocm_core.grid import (
    Cell,
    evaluation_sets,
    generation_settings,
    load_config,
    make_grid,
    monitor_prompts,
    sample_sets,
    snapshot_steps,
    training_sets,
    used,
)
from rocm_core.grid import code as fingerprints
from rocm_core.prompts import Prompt, normalise, prompt_count, read_prompts
from rocm_core.provenance import folder_digest, sha256_file
from rocm_core.weights import check_all

# What monitor scores hold beside the metrics: how far the snapshot went from the reference.
DISTANCES = ("squared_distance",)


def verify(config: Config, root: str | Path | None = None) -> list[str]:
    """What is missing or wrong under `root` (the configuration's own results), one sentence each.

    Checked are the weights that are here, prompt sets, cells, samples and their scores: presence,
    counts, settings, code fingerprint, weights, sha256 of every file, and that numbers are finite.
    """
    root = Path(root) if root else config.root
    cells = make_grid(config)
    problems = [*check_all(path for path in used(config) if Path(path).exists())]
    problems += _check_prompts(config, root)
    for cell in cells:
        problems += _check_cell(cell, root / "cells" / cell.name)
    prompts: dict[str, list[Prompt]] = {}
    judged_on = evaluation_sets(config, cells)
    for name in dict.fromkeys([*judged_on, *(cell.monitored_on for cell in cells)]):
        with contextlib.suppress(UserError):  # said above, and nothing to hold the samples against
            prompts[name] = read_prompts(root / "prompts" / f"{name}.jsonl")
    sources: list[Cell | str] = [*dict.fromkeys(cell.settings.policy for cell in cells), *cells]
    for source in sources:
        for place, (name, steps) in enumerate(sample_sets(config, judged_on, source)):
            if name in prompts:
                settings = generation_settings(config, source, steps)
                folder = _samples(root, source) / name / f"steps-{steps}"
                fills_tables = place == 0
                judges = config.judges if fills_tables else ()
                problems += _check_samples(config, settings, prompts[name], folder, judges)
                if fills_tables:
                    problems += _check_readouts(config, prompts[name], folder)
    for cell in cells:
        if config.monitor.prompts and cell.settings.snapshot_every and cell.monitored_on in prompts:
            folder = _samples(root, cell) / "snapshots"
            judged = prompts[cell.monitored_on][: monitor_prompts(config)]
            problems += _check_monitor(config, cell, judged, folder)
    return problems


def _samples(root: Path, source: Cell | str) -> Path:
    return root / "samples" / (source.name if isinstance(source, Cell) else f"base-{source}")


def _check_prompts(config: Config, root: Path) -> Iterator[str]:
    texts: dict[str, set[str]] = {}
    for name, settings in config.prompts.items():
        path = root / "prompts" / f"{name}.jsonl"
        try:
            prompts = read_prompts(path)
        except UserError as error:
            yield str(error)
            continue
        texts[name] = {normalise(prompt.text) for prompt in prompts}
        if prompt_count(settings) not in (None, len(prompts)):
            yield f"{path} holds {len(prompts)} prompts, not {prompt_count(settings)}"
    learned = training_sets(make_grid(config))
    for name in sorted(texts.keys() - learned):
        for other in learned:
            shared = texts[name] & texts.get(other, set())
            if shared and config.prompts[name].overlap != "allow":
                path = root / "prompts" / f"{name}.jsonl"
                yield f"{path} shares {len(shared)} prompts with {other}, such as {min(shared)!r}"


def _check_cell(cell: Cell, folder: Path) -> Iterator[str]:
    snapshots = [f"snapshots/step-{step}.safetensors" for step in snapshot_steps(cell.settings)]
    outputs = ["lora.safetensors", "history.csv", *snapshots]
    code = fingerprints.train_code(cell.settings)
    yield from _check_manifest(folder / "manifest.json", cell.settings.to_dict(), code, outputs)
    yield from _check_history(folder / "history.csv", cell.settings.iterations)


def _check_history(path: Path, iterations: int) -> Iterator[str]:
    rows, problems = _read_csv(path)
    yield from problems
    if rows and len(rows) != iterations:
        yield f"{path} has {len(rows)} steps, not {iterations}"
    yield from _check_finite(path, (number for row in rows for number in row.values() if number))


def _check_samples(
    config: Config,
    settings: GenerationSettings,
    prompts: list[Prompt],
    folder: Path,
    judges: tuple[str, ...],
) -> Iterator[str]:
    outputs = ["index.jsonl", *(f"{prompt.id}.png" for prompt in prompts)]
    code = fingerprints.generate_code(settings)
    yield from _check_manifest(folder / "manifest.json", settings.to_dict(), code, outputs)
    scorers, code = {"scorers": config.scorer_paths()}, fingerprints.score_code(config.metrics)
    yield from _check_manifest(folder / "scores.manifest.json", scorers, code, ["scores.csv"])
    wanted = {(prompt.id, metric) for prompt in prompts for metric in config.metrics}
    yield from _check_scores(folder / "scores.csv", ("prompt_id", "metric"), wanted)
    if judges:
        wanted = {(prompt.id, metric) for prompt in prompts for metric in judges}
        yield from _check_scores(folder / "judged.csv", ("prompt_id", "metric"), wanted)


def _check_readouts(config: Config, prompts: list[Prompt], folder: Path) -> Iterator[str]:
    clip = config.scorers["clipscore"] if "clipscore" in config.metrics else None
    path, code = folder / "readouts.manifest.json", fingerprints.measure_code()
    yield from _check_manifest(path, {"clip": clip}, code, ["readouts.csv"])
    names = ["high_frequency", "pixel_diversity"]
    names += ["clip_diversity"] if clip else []
    wanted = {(prompt.id, name) for prompt in prompts for name in names}
    yield from _check_scores(folder / "readouts.csv", ("prompt_id", "metric"), wanted)


def _check_monitor(
    config: Config, cell: Cell, prompts: list[Prompt], folder: Path
) -> Iterator[str]:
    settings = generation_settings(config, cell)
    steps = snapshot_steps(cell.settings)
    outputs = ["scores.csv", *(f"step-{step}/{p.id}.png" for step in steps for p in prompts)]
    code = fingerprints.monitor_code(settings, config.metrics)
    made = settings.to_dict() | {"scorers": config.scorer_paths()}
    yield from _check_manifest(folder / "manifest.json", made, code, outputs)
    columns = (*config.metrics, *DISTANCES)
    wanted = {(str(step), p.id, name) for step in [0, *steps] for p in prompts for name in columns}
    yield from _check_scores(folder / "scores.csv", ("step", "prompt_id", "metric"), wanted)


def _check_manifest(
    path: Path, settings: Mapping[str, Any], code: str, outputs: Iterable[str]
) -> Iterator[str]:
    folder = path.parent
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        made, listed, weights = (dict(manifest[key]) for key in ("settings", "outputs", "weights"))
        made_by = manifest["code"]
    except FileNotFoundError:
        yield f"{path} is missing: nothing says how its folder was made, or that it is finished"
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{path} is not a manifest ({error})"
        return
    for key, value in settings.items():
        if made.get(key) != value:
            yield f"{path}: made with {key} {made.get(key)!r}, the configuration says {value!r}"
    if made_by != code:
        yield f"{path}: made by other code ({str(made_by)[:12]}, now {code[:12]})"
    for name, digest in weights.items():
        if folder_digest(name) not in (digest, "absent"):
            yield f"{path}: made with other weights in {name}"
    for name in outputs:
        if name not in listed:
            yield f"{path} does not list {name}"
    for name, sha256 in listed.items():
        if not (folder / name).is_file():
            yield f"{folder / name} is missing"
        elif sha256_file(folder / name) != sha256:
            yield f"{folder / name} is not the file that its manifest lists: its sha256 differs"


def _check_scores(
    path: Path, keys: tuple[str, ...], wanted: Iterable[tuple[str, ...]]
) -> Iterator[str]:
    rows, problems = _read_csv(path)
    yield from problems
    if problems:
        return
    if any(None in (row.get(key) for key in (*keys, "value")) for row in rows):
        yield f"{path} lacks one of the columns {', '.join(keys)}, value"
        return
    found = [tuple(row[key] for key in keys) for row in rows]
    if len(set(found)) != len(found):
        yield f"{path} scores {len(found) - len(set(found))} images twice"
    if missing := set(wanted) - set(found):
        yield f"{path} lacks {len(missing)} scores, such as {' '.join(min(missing))}"
    yield from _check_finite(path, (row["value"] for row in rows))


def _check_finite(path: Path, numbers: Iterable[str]) -> Iterator[str]:
    bad = [number for number in numbers if not _is_finite(number)]
    if bad:
        yield f"{path} holds {len(bad)} values that are not finite numbers, the first is {bad[0]!r}"


def _is_finite(number: str) -> bool:
    try:
        return math.isfinite(float(number))
    except (TypeError, ValueError):
        return False


def _read_csv(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of a CSV file and what is wrong with it."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restkey="", restval=""))
    except FileNotFoundError:
        return [], [f"{path} is missing"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [f"{path} cannot be read ({error})"]
    return rows, [] if rows else [f"{path} is empty"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Check all results of a configuration.")
    parser.add_argument("--configfile", required=True)
    config = load_config(parser.parse_args().configfile)
    problems = verify(config)
    print("\n".join(problems) or f"{config.root}: everything is there and as configured")
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
