"""Check every artefact of a grid against its configuration, without starting any job.

`python -m rocm_core.commands.verify --configfile config/demo.yaml` lists the problems and then
exits with 1.
"""

import argparse
import base64
import csv
import itertools
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rocm_core.configuration import Config
from rocm_core.errors import UserError, run, warn
from rocm_core.grid import (
    Artefacts,
    load_config,
    made_renderings,
    made_results,
    made_study,
    offered,
    used,
)
from rocm_core.prompts import Prompt, normalise, prompt_count, read_prompts
from rocm_core.provenance import (
    Layout,
    Made,
    check_manifest,
    damage,
    differing,
    files_in,
    first_of,
    is_accepted,
    is_of_other_code,
    lacking,
    listed_outputs,
    located,
    processes_of,
    read_manifest,
)
from rocm_core.weights import check_all


def verify(config: Config, root: str | Path | None = None) -> tuple[list[str], list[str]]:
    """What is missing, stale or wrong under `root` (the configuration's own results) and in its
    shards, and what was accepted by whom or made by other code: one line each.

    Checked are the weights that are here, prompt sets, cells, samples, their scores, and everything
    rendered from them: presence, counts, settings, code fingerprint, weights, sha256 of every file
    and of what it was made from, and that numbers are finite. Shards need not have the files that
    they are made without; without results, they are what everything must be found in.
    """
    files = Artefacts(config, root)
    here = (path for path in used(config) if located(path).exists())
    problems = [*check_all(here)]
    has_shards = files.shards is not None and files.shards.is_dir()
    trees = [(files, False)] if files.layout.root.is_dir() or not has_shards else []
    trees += [(Artefacts(config, files.shards), True)] if has_shards else []
    everything: list[tuple[Made, bool]] = []
    for tree, of_shards in trees:
        prompts, unreadable = read_sets(tree)
        problems += [*unreadable, *_check_prompts(tree, prompts)]
        results = [*made_results(tree, prompts)]
        drawn = [*made_study(tree), *made_renderings(tree)]
        problems += _check_strays(results)
        due = _of_shards(tree, results, drawn, len(trees) == 1) if of_shards else [*results, *drawn]
        everything += [(one, of_shards) for one in due]
    found, notes = examine(everything)
    return [*problems, *itertools.chain(*found.values())], notes


def examine(everything: Sequence[tuple[Made, bool]]) -> tuple[dict[Path, list[str]], list[str]]:
    """What is wrong with artefacts, {manifest: sentences}, and what is accepted or of other code.

    everything: each with whether it is in a folder of shards.
    """
    manifests = [(one, of_shards, *read_manifest(one.manifest)) for one, of_shards in everything]
    absent: dict[Path, str] = {}
    for one, of_shards, manifest, _ in manifests:
        if of_shards and manifest and not one.rendered:
            absent |= lacking(one.manifest, manifest)
    damaged = {
        file
        for one, _, manifest, _ in manifests
        if manifest
        for file in damage(one.manifest, manifest, absent)
    }
    found: dict[Path, list[str]] = {}
    accepted: list[str] = []
    commits: Counter[str] = Counter()
    for one, of_shards, manifest, unreadable in manifests:
        problems = found.setdefault(one.manifest, [])
        problems += unreadable or check_manifest(one, manifest, damaged, absent)
        if manifest and is_accepted(one, manifest):
            note = manifest["accepted"][-1]
            accepted.append(f"{one.manifest}: accepted by {note['by']} on {note['at'][:10]}")
        elif manifest and is_of_other_code(one, manifest):
            if of_shards:
                commits[manifest.get("commit") or "unknown"] += 1
            else:
                was, now = manifest["code"][:12], one.code[:12]
                problems.append(f"{one.manifest}: made by other code ({was}, now {now})")
        if one.rows:
            rows, unreadable = _read_csv(one.outputs[0])
            problems += unreadable or _check_scores(one.outputs[0], rows, one.rows)
        if history := next((file for file in one.outputs if file.name == "history.csv"), None):
            rows, unreadable = _read_csv(history)
            problems += unreadable or _check_history(history, rows, one.settings["iterations"])
            problems += _check_costs(one.manifest, rows)
    named = "shards: artefacts made by the code of commit {}, which is not the present code: {}"
    return found, [*accepted, *(named.format(*one) for one in commits.items())]


def _of_shards(
    files: Artefacts, made: Iterable[Made], drawn: Iterable[Made], complete: bool
) -> list[Made]:
    """What shards must hold: all that can be made and, once the claims are published, drawn without
    images; where the results are here, too, only what there is anything of."""
    config, published = files.config, files.layout.rendered("claims")[0].exists()
    root = files.layout.root
    without_images = offered("figures", config, Layout(root, root, files.cells))
    pictures = {*offered("figures", config, files.layout)} - {*without_images}

    def is_there(one: Made) -> bool:
        if one.source:
            return files.has(one.source)
        return any(file.exists() for file in (one.manifest, *one.outputs))

    own = [one for one in made if complete or is_there(one)]
    is_due = complete and published
    due = [one for one in drawn if is_due and one.outputs[0].stem not in pictures]
    return [*own, *due, *(one for one in drawn if one not in due and is_there(one))]


def require_fresh(files: Artefacts, records: Path = Path(".snakemake")) -> None:
    """Raise `UserError` where results came without Snakemake's records of them, as a copy does, and
    some are of other code or settings: it would take them as they are. Those that are as they
    should be get a warning, since a later edit would go unnoticed as well. So do shards that can't
    be used."""
    if files.unused:
        name, fault = next(iter(files.unused.items()))
        more = f" and {len(files.unused) - 1} more" if len(files.unused) > 1 else ""
        warn(f"{files.shards}: {name}{more} can't be used and will be made again: {fault}")
    root = files.layout.root
    if files.config.partial or not root.is_dir():
        return
    folders = [records / name for name in ("metadata", "incomplete") if (records / name).is_dir()]
    here = [
        (one, manifest)
        for one in made_results(files, dict.fromkeys(files.config.prompts, ()))
        if not any(_record(folder, file).exists() for file in one.outputs for folder in folders)
        and (manifest := read_manifest(one.manifest)[0])
    ]
    stale = [one.manifest for one, manifest in here if _is_stale(one, manifest)]
    if stale:
        raise UserError(
            f"{root} came without Snakemake's records of it (.snakemake), and {first_of(stale)}"
            " were made by other code or settings: `make verify` names them; remove them, or keep"
            " them with `make accept`"
        )
    if here:
        warn(
            f"{root} came without Snakemake's records of it (.snakemake): after `make verify`,"
            " `snakemake --cores 1 --touch all` takes it in, so that edits are noticed"
        )


def _record(folder: Path, output: Path) -> Path:
    """Where Snakemake keeps what it knows of a job's output: a file of that name in base64, whose
    beginning is folders where it is too long for one."""
    name = base64.urlsafe_b64encode(str(output).encode()).decode()
    size = (os.pathconf(folder, "PC_NAME_MAX") or 255) - 1
    *above, last = (name[i : i + size] for i in range(0, len(name), size))
    return folder.joinpath(*(f"@{part}" for part in above), last)


def _is_stale(made: Made, manifest: Mapping[str, Any]) -> bool:
    differs = differing(made, manifest) or processes_of(manifest) != made.processes
    return bool(differs) or is_of_other_code(made, manifest)


def read_sets(files: Artefacts) -> tuple[dict[str, list[Prompt]], list[str]]:
    """The prompt sets whose files can be read, and what is wrong with the others."""
    prompts: dict[str, list[Prompt]] = {}
    problems = []
    for name in files.config.prompts:
        try:
            prompts[name] = read_prompts(files.layout.found(files.layout.prompts(name)))
        except UserError as error:
            problems.append(str(error))
    return prompts, problems


def _check_strays(made: Collection[Made]) -> Iterator[str]:
    """Files beside those of trainings, images and scores that no manifest lists."""
    known = {file for one in made for file in (one.manifest, *one.outputs)}
    for folder in {one.manifest.parent: None for one in made if one.manifest.is_file()}:
        for manifest in folder.glob("*manifest.json"):
            known |= {manifest, *(folder / name for name in listed_outputs(manifest))}
        if strays := {folder / name for name in files_in(folder)} - known:
            yield f"{first_of(strays)} is listed by no manifest: remove it"


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
    checked = config.root if config.root.is_dir() or not config.shards else config.shards
    shown = problems or [f"{checked}: everything is there and as configured"]
    print("\n".join([*shown, *accepted]))
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
