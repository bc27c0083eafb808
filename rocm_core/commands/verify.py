"""Check every artefact of a grid against its configuration. Looks only; starts nothing.

`python -m rocm_core.commands.verify --configfile config/demo.yaml` lists what is amiss and then
exits with 1.
"""

import argparse
import contextlib
import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rocm_core.commands.render import shows_votes
from rocm_core.configuration import Config
from rocm_core.errors import UserError, run
from rocm_core.figures import figures
from rocm_core.grid import (
    Artefacts,
    Made,
    load_config,
    shown_sections,
    snapshot_prompts,
    snapshot_steps,
    used,
)
from rocm_core.grid import code as fingerprints
from rocm_core.prompts import Prompt, normalise, prompt_count, read_prompts
from rocm_core.provenance import accepted_code, folder_digest, record_beside, sha256_file
from rocm_core.tables import tables
from rocm_core.weights import check_all

# What scores of snapshots hold beside the metrics: how far the snapshot went from the reference.
DISTANCES = ("squared_distance",)


@dataclass
class Findings:
    """What `verify` found: problems, one sentence each, and manifests whose code was accepted."""

    problems: list[str] = field(default_factory=list)
    accepted: list[Path] = field(default_factory=list)


def verify(config: Config, root: str | Path | None = None) -> Findings:
    """What is missing, stale or wrong under `root` (the configuration's own results).

    Checked are the weights that are here, prompt sets, cells, samples, their scores, and everything
    rendered from them: presence, counts, settings, code fingerprint, weights, sha256 of every file,
    and that numbers are finite.
    """
    files = Artefacts(config, root)
    prompts = readable_prompts(files)
    made = [*files.made_prompts(), *files.made(prompts), *rendered(files)]
    found = Findings([*check_all(path for path in used(config) if Path(path).exists())])
    found.problems += _check_prompts(files)
    for one in made:
        manifest, problems = read_manifest(one.manifest)
        found.problems += problems or check_manifest(one, manifest)
        if manifest and is_accepted(one, manifest):
            found.accepted.append(one.manifest)
    for name, cell in files.cells.items():
        found.problems += _check_history(files.layout.cell(name).history, cell.settings.iterations)
    found.problems += _check_values(files, prompts)
    return found


def readable_prompts(files: Artefacts) -> dict[str, list[Prompt]]:
    """The prompt sets that images are made of, as far as their files can be read."""
    prompts: dict[str, list[Prompt]] = {}
    evaluated = (cell.evaluated_on for cell in files.cells.values())
    for name in dict.fromkeys([*files.evaluation_sets, *evaluated]):
        with contextlib.suppress(UserError):  # `_check_prompts` says so
            prompts[name] = read_prompts(files.layout.prompts(name))
    return prompts


def rendered(files: Artefacts) -> Iterator[Made]:
    """Tables, figures, claims and the report."""
    config, shown = files.config, tables(files.config)
    parts = [("table", name) for name in shown] + [("figure", name) for name in figures(config)]
    for kind, name in [*parts, ("claims", "claims"), ("report", "report")]:
        outputs = files.layout.rendered(kind, name)
        yield Made(
            record_beside(outputs[0]),
            shown_sections(config, study=shows_votes(kind, name)),
            fingerprints.render_code(kind, name, config, shown if kind == "report" else ()),
            [file.name for file in outputs],
            rendered=True,
        )
    if config.published:
        table = files.layout.scorer_agreement
        yield Made(record_beside(table), {}, fingerprints.agreement_code(), [table.name])


def read_manifest(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A manifest, or {} and what is wrong with it."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for key in ("settings", "outputs", "weights"):
            manifest[key] = dict(manifest[key])
        manifest["code"] = str(manifest["code"])
        accepted_code(manifest)
    except FileNotFoundError:
        return {}, [f"{path} is missing: nothing says how its files were made, or that all are"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, [f"{path} is not a manifest ({error})"]
    return manifest, []


def is_accepted(made: Made, manifest: Mapping[str, Any]) -> bool:
    """Whether results of other code were accepted as those of the present code."""
    return manifest["code"] != made.code == accepted_code(dict(manifest))


def check_manifest(made: Made, manifest: Mapping[str, Any]) -> Iterator[str]:
    """What a manifest says that does not fit the configuration, the code or the files."""
    path, folder = made.manifest, made.manifest.parent
    was = manifest["settings"]
    differing = [key for key, value in made.settings.items() if was.get(key) != value]
    if made.rendered and differing:
        yield f"{path}: made from a configuration that differs in {', '.join(differing)}"
    for key in differing if not made.rendered else ():
        value = made.settings[key]
        yield f"{path}: made with {key} {was.get(key)!r}, the configuration says {value!r}"
    if manifest["code"] != made.code and not is_accepted(made, manifest):
        yield f"{path}: made by other code ({manifest['code'][:12]}, now {made.code[:12]})"
    for name, digest in manifest["weights"].items():
        if folder_digest(name) not in (digest, "absent"):
            yield f"{path}: made with other weights in {name}"
    for name, sha256 in manifest.get("inputs", {}).items():
        if (folder / name).is_file() and sha256_file(folder / name) != sha256:
            yield f"{path}: made from another {(folder / name).resolve().name} ({name})"
    for name in made.outputs:
        if name not in manifest["outputs"]:
            yield f"{path} does not list {name}"
    for name, sha256 in manifest["outputs"].items():
        if not (folder / name).is_file():
            yield f"{folder / name} is missing"
        elif sha256_file(folder / name) != sha256:
            yield f"{folder / name} is not the file that its manifest lists: its sha256 differs"


def _check_prompts(files: Artefacts) -> Iterator[str]:
    texts: dict[str, set[str]] = {}
    for name, settings in files.config.prompts.items():
        path = files.layout.prompts(name)
        try:
            prompts = read_prompts(path)
        except UserError as error:
            yield str(error)
            continue
        texts[name] = {normalise(prompt.text) for prompt in prompts}
        count = prompt_count(settings)
        if count not in (None, len(prompts)):
            yield f"{path} holds {len(prompts)} prompts, not {count}"
    for name in sorted(texts.keys() - files.trained_on):
        for other in files.trained_on:
            shared = texts[name] & texts.get(other, set())
            if shared and files.config.prompts[name].overlap != "allow":
                path = files.layout.prompts(name)
                yield f"{path} shares {len(shared)} prompts with {other}, such as {min(shared)!r}"


def _check_history(path: Path, iterations: int) -> Iterator[str]:
    rows, problems = _read_csv(path)
    yield from problems
    if rows and len(rows) != iterations:
        yield f"{path} has {len(rows)} steps, not {iterations}"
    yield from _check_finite(path, (number for row in rows for number in row.values() if number))


def _check_values(files: Artefacts, prompts: Mapping[str, list[Prompt]]) -> Iterator[str]:
    """The numbers in the files of scores and read-outs: that all are there, once, and finite."""
    config = files.config
    readouts = ["high_frequency", "pixel_diversity", *(["clip_diversity"] if files.clip else [])]

    def check(path: Path, prompt_set: str, metrics: Iterable[str]) -> Iterator[str]:
        wanted = {(p.id, metric) for p in prompts.get(prompt_set, ()) for metric in metrics}
        if wanted:
            yield from _check_scores(path, ("prompt_id", "metric"), wanted)

    for _, prompt_set, images in files.folders():
        yield from check(images.scores, prompt_set, config.metrics)
    for _, prompt_set, images in files.folders(["validation"], every_step=False):
        yield from check(images.readouts, prompt_set, readouts)
        yield from check(images.published, prompt_set, config.published)
    for name, snapshots in files.evaluated().items():
        cell = files.cells[name]
        first = prompts.get(cell.evaluated_on, [])[: snapshot_prompts(config)]
        steps, columns = [0, *snapshot_steps(cell.settings)], (*config.metrics, *DISTANCES)
        wanted = {(str(n), p.id, column) for n in steps for p in first for column in columns}
        if wanted:
            keys = ("step", "prompt_id", "metric")
            yield from _check_scores(snapshots.scores, keys, wanted)


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
    found = verify(config)
    print("\n".join(found.problems) or f"{config.root}: everything is there and as configured")
    for manifest in found.accepted:
        notes = json.loads(manifest.read_text(encoding="utf-8"))["accepted"]
        print(f"{manifest}: accepted by {notes[-1]['by']} on {notes[-1]['at'][:10]}")
    return 1 if found.problems else 0


if __name__ == "__main__":
    run(main)
