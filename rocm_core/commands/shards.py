"""Keep small files of what is finished as shards: git can hold them, and a later run goes on there.

`python -m rocm_core.commands.shards --configfile config/shapes.yaml`, or `make shards`, copies the
histories, scores, read-outs and manifests of finished cells and bases into the folder `shards` of
the configuration, with the prompts, what searches chose and what a user study's votes say. Only
what `verify` passes is taken.
"""

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocm_core.commands.verify import examine, read_sets
from rocm_core.configuration import Config
from rocm_core.errors import UserError, run
from rocm_core.grid import Artefacts, load_config, made_results, made_study
from rocm_core.provenance import (
    Made,
    atomic_write,
    content_digest,
    digest_of,
    left_out,
    read_manifest,
    record_beside,
    sealed,
)


def save(
    config: Config, root: str | Path | None = None
) -> tuple[dict[str, int], list[str], dict[str, str]]:
    """Copy what is finished under `root` (the configuration's own results) into the shards, whole
    cells and bases only.

    Returns the bytes of each that was finished, {cell or base: bytes}, names of those that are not,
    and why others that are were not taken, {cell or base: sentence}. What is there already is not
    written again. Raises `UserError` without a folder of shards or prompts, and where those there
    were made from other prompts.
    """
    files = Artefacts(config, root)
    if files.shards is None:
        raise UserError("shards: name a folder for them, such as docs/results/shapes")
    prompts, unreadable = read_sets(files)
    if unreadable:
        raise UserError(unreadable[0])
    results = [*made_results(files, prompts)]
    found, _ = examine([(one, False) for one in results])
    shared = [one for one in results if not one.source and not found[one.manifest]]
    said = [one for one in made_study(files) if one.outputs[0] == files.layout.study.results]
    shared += [one for one in said if not any(examine([(one, False)])[0].values())]
    makers = {file: one for one in results for file in one.outputs}
    taken: dict[str, int] = {}
    unfinished, refused = [], {}
    for name in files.sources:
        own = [one for one in results if one.source == name]
        chain = [makers[f] for one in own for f in one.inputs or () if f in makers] + own
        told = [problem for one in chain for problem in found[one.manifest]]
        if not all(one.manifest.exists() for one in own):
            unfinished.append(name)
        elif told:
            refused[name] = told[0]
        elif own:
            taken[name] = 0
    _require_same_prompts(files, shared)
    for one in [*shared, *(one for one in results if one.source in taken)]:
        size = _copy(files, one)
        if one.source:
            taken[one.source] += size
    return taken, unfinished, refused


def _require_same_prompts(files: Artefacts, shared: list[Made]) -> None:
    for one in shared:
        prompts = one.outputs[0]
        there = _target(files, prompts)
        if prompts.suffix == ".jsonl" and there.exists():
            if there.read_bytes() != prompts.read_bytes():
                raise UserError(
                    f"{there} holds other prompts than {prompts}: the shards beside it were made"
                    " from them, so name another folder, or remove this one"
                )


def _copy(files: Artefacts, made: Made) -> int:
    """Copy what shards hold of an artefact, the manifest last; returns its bytes."""
    manifest, _ = read_manifest(made.manifest)
    outputs = (made.manifest.parent / name for name in manifest["outputs"])
    contents = {file: file.read_bytes() for file in outputs if not left_out(str(file))}
    contents[made.manifest] = moved(files, made.manifest)
    for file, content in contents.items():
        write(_target(files, file), content)
    return sum(map(len, contents.values()))


def _target(files: Artefacts, file: Path) -> Path:
    assert files.shards
    return files.shards / file.relative_to(files.layout.root)


def write(file: Path, content: bytes) -> None:
    """Write a file, unless it is so already: then it keeps its time."""
    if not file.exists() or file.read_bytes() != content:
        with atomic_write(file) as writing:
            writing.write(content)


def moved(files: Artefacts, manifest: Path) -> bytes:
    """A manifest of the results as it is to stand among the shards: what was read from them, where
    they are. Images of snapshots, of which nothing else is made, have one digest for all; so have
    the votes of a user study and its key, which are not for all to read."""
    content = manifest.read_bytes()
    said: dict[str, Any] = json.loads(content)
    changed = said | {"inputs": _renamed(files, manifest.parent, said["inputs"])}
    changed.pop("accepted", None)  # shards of other code are used as they are
    images = {name: sha for name, sha in said["outputs"].items() if left_out(name)}
    if manifest.parent.name == "snapshots" and images:
        changed["outputs"] = {k: sha for k, sha in said["outputs"].items() if k not in images}
        changed["left_out"] = digest_of(images)
    study = files.layout.study
    of_people = {study.key.name, study.votes.name, study.simulated.name}
    people = {name: sha for name, sha in said["inputs"].items() if name in of_people}
    if manifest == record_beside(study.results) and people:
        changed["inputs"] = {k: sha for k, sha in changed["inputs"].items() if k not in people}
        changed["left_out"] = digest_of(people)
    if changed == said:
        return content
    return (json.dumps(sealed(changed), indent=1) + "\n").encode()


def _renamed(files: Artefacts, folder: Path, inputs: Mapping[str, str]) -> dict[str, str]:
    """Inputs with paths as if those from shards were from the results."""
    names = {}
    for name, sha256 in inputs.items():
        file = Path(os.path.normpath(folder / name))
        if files.shards and file.is_relative_to(files.shards):
            file = files.layout.root / file.relative_to(files.shards)
        names[Path(os.path.relpath(file, folder)).as_posix()] = digest(files, file, sha256)
    return names


def digest(files: Artefacts, file: Path, sha256: str) -> str:
    """The digest that a file of the results, now of `sha256`, has among the shards."""
    here = file.is_relative_to(files.layout.root) and file.is_file()
    if here and file.name.endswith("manifest.json") and content_digest(file) == sha256:
        return json.loads(moved(files, file))["digest"]
    return sha256


def main() -> None:
    """Take what is finished and print it."""
    parser = argparse.ArgumentParser(description="Keep what is finished as shards.")
    parser.add_argument("--configfile", required=True)
    config = load_config(parser.parse_args().configfile)
    taken, unfinished, refused = save(config)
    for name, size in taken.items():
        print(f"{name}: {size / 1000:,.0f} kB")
    for name, reason in refused.items():
        print(f"not taken: {name}: {reason}")
    total = sum(taken.values()) / 1e6
    print(
        f"{config.shards}: {len(taken)} shards of {total:.1f} MB taken or as they were,"
        f" {len(refused)} refused, {len(unfinished)} not finished"
    )


if __name__ == "__main__":
    run(main)
