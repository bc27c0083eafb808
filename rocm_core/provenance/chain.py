"""The chain from the report to the prompts: what each manifest must say, and whether it does.

A folder of shards holds the chain without its large links: what is `left_out` there is known by the
sha256 that its own manifest lists; the images of snapshots, from which nothing is made but their
scores, by one digest for all.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocm_core.provenance.files import folder_digest, sha256_file
from rocm_core.provenance.manifests import accepted_code, content_digest, sealed


@dataclass(frozen=True)
class Made:
    """What one job makes: its manifest and what that must say.

    outputs: its files, all below the manifest's folder. inputs: the results that it is made from;
    None: what it reads is its own affair. rows: the keys of the scores that the first of its files
    must hold, ([step,] prompt id, metric). rendered: `settings` are digests of the configuration's
    sections, as `shown_sections` has them. source: the cell or base that it is of; "": of several.
    processes: how many make it together, each with batches of its own.
    """

    manifest: Path
    settings: Mapping[str, Any]
    code: str
    outputs: Sequence[Path]
    inputs: Sequence[Path] | None
    rows: Collection[tuple[str, ...]] = ()
    rendered: bool = False
    source: str = ""
    processes: int = 1


def left_out(path: str) -> bool:
    """Whether shards do without a file: LoRAs, and images with their index, whose name a prompt set
    may have, too."""
    is_index = path.endswith("/index.jsonl") and not path.endswith("/prompts/index.jsonl")
    return is_index or path.endswith((".safetensors", ".png"))


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


def processes_of(manifest: Mapping[str, Any]) -> int:
    """How many processes made it together."""
    return manifest.get("processes", 1)


def is_of_other_code(made: Made, manifest: Mapping[str, Any]) -> bool:
    """Whether other code made it, which nobody accepted."""
    return manifest["code"] != made.code and not is_accepted(made, manifest)


def differing(made: Made, manifest: Mapping[str, Any]) -> list[str]:
    """The settings by which a manifest is of another configuration, also those that this one lacks:
    an optional setting is there only where it is not at its default."""
    was = manifest["settings"]
    others = [key for key, value in made.settings.items() if was.get(key) != value]
    gone = (key for key, value in was.items() if not (value is None or value is False))
    return others + sorted(set(gone) - made.settings.keys())


def check_manifest(
    made: Made,
    manifest: Mapping[str, Any],
    damaged: Collection[Path] = (),
    absent: Mapping[Path, str] | None = None,
    looked_at: Callable[[str], bool] = lambda path: True,
) -> Iterator[str]:
    """Where a manifest disagrees with the configuration, its files or their inputs.

    damaged: files that are missing or not what their own manifests list. They are named there, and
    not again by everything that was made from them. absent: files that need not be here, with the
    sha256 that their manifests list, or folders of such files (`lacking`). looked_at: which files
    are, by their paths.
    """
    path, folder = made.manifest, made.manifest.parent
    was, others = manifest["settings"], differing(made, manifest)
    if made.rendered and others:
        yield f"{path}: made from a configuration that differs in {', '.join(others)}"
    for key in others if not made.rendered else ():
        value = made.settings.get(key)
        yield f"{path}: made with {key} {was.get(key)!r}, the configuration says {value!r}"
    if (processes := processes_of(manifest)) != made.processes:
        yield f"{path}: made with processes {processes}, resources.gpus asks for {made.processes}"
    for name, digest in manifest["weights"].items():
        if folder_digest(name) not in (digest, "absent"):
            yield f"{path}: made with other weights in {name}"
    for file in made.outputs:
        name = file.relative_to(folder).as_posix()
        told = left_out(str(file)) and "left_out" in manifest  # by one digest for all
        if name not in manifest["outputs"] and not told:
            yield f"{path} does not list {file.relative_to(folder)}"
    absent = absent or {}
    yield from damage(path, manifest, absent, looked_at).values()
    if "digest" in manifest:
        read = _files(folder, manifest["inputs"], looked_at)
        yield from _check_inputs(made, read, damaged, absent, looked_at)


def damage(
    path: Path,
    manifest: Mapping[str, Any],
    absent: Mapping[Path, str],
    looked_at: Callable[[str], bool] = lambda path: True,
) -> dict[Path, str]:
    """{file: sentence} of a manifest and its files that are not as they were written."""
    problems = {}
    if "digest" not in manifest:
        said = "is of an older version, which did not record what its files were made from"
        problems[path] = f"{path} {said}"
    elif manifest["digest"] != sealed(manifest)["digest"]:
        problems[path] = f"{path} was edited after it was written: its own digest differs"
    for file, sha256 in _files(path.parent, manifest["outputs"], looked_at).items():
        if not file.is_file():
            if file not in absent:
                problems[file] = f"{file} is missing"
        elif sha256_file(file) != sha256:
            problems[file] = f"{file} is not the file that its manifest lists: its sha256 differs"
    return problems


def lacking(path: Path, manifest: Mapping[str, Any]) -> dict[Path, str]:
    """{file: sha256} of what a manifest lists and shards do without; where it has one digest for
    all of them, their folder and that digest."""
    listed = _files(path.parent, manifest["outputs"], left_out)
    in_bulk = {path.parent: manifest["left_out"]} if "left_out" in manifest else {}
    return in_bulk | {file: sha256 for file, sha256 in listed.items() if not file.exists()}


def _files(
    folder: Path, names: Mapping[str, str], looked_at: Callable[[str], bool]
) -> dict[Path, str]:
    """{file: sha256} of {path from a folder: sha256}."""
    listed = {f"{folder}/{name}": sha256 for name, sha256 in names.items()}
    return {Path(os.path.normpath(k)): sha256 for k, sha256 in listed.items() if looked_at(k)}


def _check_inputs(
    made: Made,
    read: Mapping[Path, str],
    damaged: Collection[Path],
    absent: Mapping[Path, str],
    looked_at: Callable[[str], bool],
) -> Iterator[str]:
    """Where an artefact was not made from the results that are there, or not from its own."""
    if made.inputs is not None:
        wanted = {Path(os.path.normpath(file)) for file in made.inputs if looked_at(str(file))}
        if unread := wanted - read.keys():
            yield f"{made.manifest}: not made from {first_of(unread)}"
        if others := read.keys() - wanted:
            yield f"{made.manifest}: made from {first_of(others)}, which is not its own"
    rest = read.keys() - set(damaged)
    here = {file: file.is_file() for file in rest}
    if missing := [file for file in rest if not (here[file] or _is_absent(file, absent))]:
        yield f"{made.manifest}: made from {first_of(missing)}, which is missing"
    digests = {f: content_digest(f) if here[f] else absent.get(f, read[f]) for f in rest}
    if changed := [file for file in rest if digests[file] != read[file]]:
        yield f"{made.manifest}: made from another {first_of(changed)}"


def _is_absent(file: Path, absent: Mapping[Path, str]) -> bool:
    """Whether a file need not be here, by itself or with all of its folder."""
    return file in absent or (left_out(str(file)) and not absent.keys().isdisjoint(file.parents))


def first_of(files: Collection[Path]) -> str:
    """The first of some files, and how many more there are."""
    return f"{min(files)}{f' and {len(files) - 1} more' if len(files) > 1 else ''}"
