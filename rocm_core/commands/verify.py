"""Check every artefact of a grid against its configuration, without starting any job.

`python -m rocm_core.commands.verify --configfile config/demo.yaml` lists the problems and then
exits with 1.
"""

import argparse
import csv
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rocm_core.configuration import Config
from rocm_core.errors import UserError, run
from rocm_core.grid import Artefacts, Made, load_config, used
from rocm_core.prompts import Prompt, normalise, prompt_count, read_prompts
from rocm_core.provenance import accepted_code, folder_digest, located, sha256_file
from rocm_core.weights import check_all


def verify(config: Config, root: str | Path | None = None) -> tuple[list[str], list[str]]:
    """What is missing, stale or wrong under `root` (the configuration's own results), and what was
    accepted by whom: one line each.

    Checked are the weights that are here, prompt sets, cells, samples, their scores, and everything
    rendered from them: presence, counts, settings, code fingerprint, weights, sha256 of every file,
    and that numbers are finite.
    """
    files = Artefacts(config, root)
    prompts, unreadable = read_sets(files)
    here = (path for path in used(config) if located(path).exists())
    problems = [*check_all(here), *unreadable, *_check_prompts(files, prompts)]
    accepted = []
    made = [*files.made_prompts(), *files.made(prompts), *files.made_renderings()]
    for one in made:
        manifest, unreadable = read_manifest(one.manifest)
        problems += unreadable or check_manifest(one, manifest)
        if manifest and is_accepted(one, manifest):
            note = manifest["accepted"][-1]
            accepted.append(f"{one.manifest}: accepted by {note['by']} on {note['at'][:10]}")
        if one.rows:
            rows, unreadable = _read_csv(one.outputs[0])
            problems += unreadable or _check_scores(one.outputs[0], rows, one.rows)
    for name, cell in files.cells.items():
        history = files.layout.cell(name).history
        rows, unreadable = _read_csv(history)
        problems += unreadable or _check_history(history, rows, cell.settings.iterations)
    return problems, accepted


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
    """Where a manifest disagrees with the configuration, the code or the files."""
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
    for file in made.outputs:
        if file.relative_to(folder).as_posix() not in manifest["outputs"]:
            yield f"{path} does not list {file.relative_to(folder)}"
    for name, sha256 in manifest["outputs"].items():
        if not (folder / name).is_file():
            yield f"{folder / name} is missing"
        elif sha256_file(folder / name) != sha256:
            yield f"{folder / name} is not the file that its manifest lists: its sha256 differs"


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
