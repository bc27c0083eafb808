"""Check every artefact of a grid against its configuration, without starting any job.

`python -m rocm_core.commands.verify --configfile config/demo.yaml` lists the problems and then
exits with 1.
"""

import argparse
import csv
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rocm_core.configuration import Config
from rocm_core.errors import UserError, run, warn
from rocm_core.grid import Artefacts, Made, load_config, used
from rocm_core.prompts import Prompt, normalise, prompt_count, read_prompts
from rocm_core.provenance import (
    accepted_code,
    content_digest,
    files_in,
    folder_digest,
    listed_outputs,
    located,
    sealed,
    sha256_file,
)
from rocm_core.weights import check_all


def verify(config: Config, root: str | Path | None = None) -> tuple[list[str], list[str]]:
    """What is missing, stale or wrong under `root` (the configuration's own results), and what was
    accepted by whom: one line each.

    Checked are the weights that are here, prompt sets, cells, samples, their scores, and everything
    rendered from them: presence, counts, settings, code fingerprint, weights, sha256 of every file
    and of what it was made from, and that numbers are finite.
    """
    files = Artefacts(config, root)
    prompts, unreadable = read_sets(files)
    here = (path for path in used(config) if located(path).exists())
    problems = [*check_all(here), *unreadable, *_check_prompts(files, prompts)]
    accepted, made = [], list(files.made(prompts))
    everything = [*files.made_prompts(), *made, *files.made_study(), *files.made_renderings()]
    manifests = [(one, *read_manifest(one.manifest)) for one in everything]
    damaged = {
        file
        for one, manifest, _ in manifests
        if manifest
        for file in _damage(one.manifest, manifest)
    }
    for one, manifest, unreadable in manifests:
        problems += unreadable or check_manifest(one, manifest, damaged)
        if manifest and is_accepted(one, manifest):
            note = manifest["accepted"][-1]
            accepted.append(f"{one.manifest}: accepted by {note['by']} on {note['at'][:10]}")
        if one.rows:
            rows, unreadable = _read_csv(one.outputs[0])
            problems += unreadable or _check_scores(one.outputs[0], rows, one.rows)
    for name, cell in files.cells.items():
        own = files.layout.cell(name)
        rows, unreadable = _read_csv(own.history)
        problems += unreadable or _check_history(own.history, rows, cell.settings.iterations)
        problems += _check_costs(own.manifest, rows)
    return [*problems, *_check_strays(made)], accepted


def require_fresh(files: Artefacts, records: Path = Path(".snakemake/metadata")) -> None:
    """Raise `UserError` where results came without Snakemake's records of them, as a copy does, and
    some are of other code or settings: it would take them as they are. Those that are as they
    should be get a warning, since a later edit would go unnoticed as well."""
    if files.config.partial or (records.is_dir() and any(records.iterdir())):
        return
    prompts, _ = read_sets(files)
    made = [*files.made_prompts(), *files.made(prompts)]
    here = [(one, manifest) for one in made if (manifest := read_manifest(one.manifest)[0])]
    stale = [one.manifest for one, manifest in here if _is_stale(one, manifest)]
    root = files.layout.root
    if stale:
        raise UserError(
            f"{root} came without Snakemake's records of it (.snakemake), and {_first(stale)} were"
            " made by other code or settings: `make verify` names them; remove them, or keep them"
            " with `make accept`"
        )
    if here:
        warn(
            f"{root} came without Snakemake's records of it (.snakemake): after `make verify`,"
            " `snakemake --cores 1 --touch all` takes it in, so that edits are noticed"
        )


def _is_stale(made: Made, manifest: Mapping[str, Any]) -> bool:
    was = manifest["settings"]
    differs = any(was.get(key) != value for key, value in made.settings.items())
    return differs or (manifest["code"] != made.code and not is_accepted(made, manifest))


def read_sets(files: Artefacts) -> tuple[dict[str, list[Prompt]], list[str]]:
    """The prompt sets whose files can be read, and what is wrong with the others."""
    prompts: dict[str, list[Prompt]] = {}
    problems = []
    for name in files.config.prompts:
        try:
            prompts[name] = read_prompts(files.layout.prompts(name))
        except UserError as error:
            problems.append(str(error))
    return prompts, problems


def read_manifest(path: Path) -> tuple[dict[str, Any], list[str]]:
    """A manifest, or {} and what is wrong with it."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for key in ("settings", "outputs", "weights"):
            manifest[key] = dict(manifest[key])
        manifest["inputs"] = dict(manifest.get("inputs", {}))
        dict(manifest.get("chosen", {}))
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


def check_manifest(
    made: Made, manifest: Mapping[str, Any], damaged: Collection[Path] = ()
) -> Iterator[str]:
    """Where a manifest disagrees with the configuration, the code, its files or their inputs.

    damaged: files that are missing or not what their own manifests list. They are named there, and
    not again by everything that was made from them.
    """
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
    for file in made.outputs:
        if file.relative_to(folder).as_posix() not in manifest["outputs"]:
            yield f"{path} does not list {file.relative_to(folder)}"
    yield from _damage(path, manifest).values()
    if "digest" in manifest:
        yield from _check_inputs(made, _files(folder, manifest["inputs"]), damaged)


def _damage(path: Path, manifest: Mapping[str, Any]) -> dict[Path, str]:
    """{file: sentence} of a manifest and its files that are not as they were written."""
    problems = {}
    if "digest" not in manifest:
        said = "is of an older version, which did not record what its files were made from"
        problems[path] = f"{path} {said}"
    elif manifest["digest"] != sealed(manifest)["digest"]:
        problems[path] = f"{path} was edited after it was written: its own digest differs"
    for file, sha256 in _files(path.parent, manifest["outputs"]).items():
        if not file.is_file():
            problems[file] = f"{file} is missing"
        elif sha256_file(file) != sha256:
            problems[file] = f"{file} is not the file that its manifest lists: its sha256 differs"
    return problems


def _files(folder: Path, names: Mapping[str, str]) -> dict[Path, str]:
    """{file: sha256} of {path from a folder: sha256}."""
    return {Path(os.path.normpath(folder / name)): sha256 for name, sha256 in names.items()}


def _check_inputs(made: Made, read: Mapping[Path, str], damaged: Collection[Path]) -> Iterator[str]:
    """Where an artefact was not made from the results that are there, or not from its own."""
    if made.inputs is not None:
        wanted = {Path(os.path.normpath(file)) for file in made.inputs}
        if lacking := wanted - read.keys():
            yield f"{made.manifest}: not made from {_first(lacking)}"
        if others := read.keys() - wanted:
            yield f"{made.manifest}: made from {_first(others)}, which is not its own"
    rest = read.keys() - set(damaged)
    if missing := [file for file in rest if not file.is_file()]:
        yield f"{made.manifest}: made from {_first(missing)}, which is missing"
    if changed := [f for f in rest if f.is_file() and content_digest(f) != read[f]]:
        yield f"{made.manifest}: made from another {_first(changed)}"


def _check_strays(made: Collection[Made]) -> Iterator[str]:
    """Files beside those of trainings, images and scores that no manifest lists."""
    known = {file for one in made for file in (one.manifest, *one.outputs)}
    for folder in {one.manifest.parent: None for one in made if one.manifest.is_file()}:
        for manifest in folder.glob("*manifest.json"):
            known |= {manifest, *(folder / name for name in listed_outputs(manifest))}
        if strays := {folder / name for name in files_in(folder)} - known:
            yield f"{_first(strays)} is listed by no manifest: remove it"


def _first(files: Collection[Path]) -> str:
    """The first of some files, and how many more there are."""
    return f"{min(files)}{f' and {len(files) - 1} more' if len(files) > 1 else ''}"


def _check_prompts(files: Artefacts, prompts: Mapping[str, list[Prompt]]) -> Iterator[str]:
    """Counts of prompts, and prompts to evaluate on that models were trained on."""
    texts = {name: {normalise(prompt.text) for prompt in part} for name, part in prompts.items()}
    for name, part in prompts.items():
        path, count = files.layout.prompts(name), prompt_count(files.config.prompts[name])
        if count not in (None, len(part)):
            yield f"{path} holds {len(part)} prompts, not {count}"
        for other in (kept_out.stem for kept_out in files.kept_out(name)):
            if shared := texts[name] & texts.get(other, set()):
                yield f"{path} shares {len(shared)} prompts with {other}, such as {min(shared)!r}"


def _check_costs(path: Path, history: list[dict[str, str]]) -> Iterator[str]:
    """Where a training's manifest says other than its settings and the end of its history."""
    manifest, _ = read_manifest(path)
    settings = manifest.get("settings", {}) | manifest.get("chosen", {})
    known: dict[str, Any] = history[-1] if history and manifest else {}
    known = known | {"beta": settings.get("beta")}
    for key in ("beta", "reward_queries", "nfe", "peak_memory_gib"):
        # A β that follows a target has no number in the settings.
        if _is_finite(known.get(key)) and manifest.get(key) != float(known[key]):
            yield f"{path} says {key} {manifest.get(key)}, where it was {known[key]}"


def _check_history(path: Path, rows: list[dict[str, str]], iterations: int) -> Iterator[str]:
    if len(rows) != iterations:
        yield f"{path} has {len(rows)} steps, not {iterations}"
    yield from _check_finite(path, (number for row in rows for number in row.values() if number))


def _check_scores(
    path: Path, rows: list[dict[str, str]], wanted: Collection[tuple[str, ...]]
) -> Iterator[str]:
    """Scores and read-outs: that those with the `wanted` keys are there, once, and finite."""
    keys = ("step", "prompt_id", "metric")[-len(next(iter(wanted))) :]
    if not rows[0].keys() >= {*keys, "value"}:
        yield f"{path} lacks one of the columns {', '.join(keys)}, value"
        return
    present = [tuple(row[key] for key in keys) for row in rows]
    if len(set(present)) != len(present):
        yield f"{path} scores {len(present) - len(set(present))} images twice"
    if missing := set(wanted) - set(present):
        yield f"{path} lacks {len(missing)} scores, such as {' '.join(min(missing))}"
    yield from _check_finite(path, (row["value"] for row in rows))


def _check_finite(path: Path, numbers: Iterable[str]) -> Iterator[str]:
    bad = [number for number in numbers if not _is_finite(number)]
    if bad:
        yield f"{path} holds {len(bad)} values that are not finite numbers, the first is {bad[0]!r}"


def _is_finite(number: Any) -> bool:
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
    """Print the problems and what was accepted; returns 1 where there are problems."""
    parser = argparse.ArgumentParser(description="Check all results of a configuration.")
    parser.add_argument("--configfile", required=True)
    config = load_config(parser.parse_args().configfile)
    problems, accepted = verify(config)
    shown = problems or [f"{config.root}: everything is there and as configured"]
    print("\n".join([*shown, *accepted]))
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
