"""Which shards can stand for the cells and bases that they are of."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rocm_core.errors import UserError
from rocm_core.grid.made import made_results
from rocm_core.provenance import (
    Layout,
    Made,
    check_manifest,
    left_out,
    read_entry,
    read_manifest,
    sha256_file,
)

if TYPE_CHECKING:
    from rocm_core.grid.artefacts import Artefacts


def shard_faults(shards: Artefacts, live: Layout) -> dict[str, str]:
    """Of the shards that there are: why one can't stand for its cell or base beside what is in
    `live`; "" where it can. What code made it is no reason. And of the files that are of no single
    cell or base, by their names from the shards' folder, why one can't be used."""
    found = {name: "" for name in shards.sources if shards.has(name)}
    if not found:
        return {}
    prompts = {name: () for name in shards.config.prompts}
    everything = [*made_results(shards, prompts)]
    faults = {one.manifest: _fault(one, shards.layout, live) for one in everything}
    makers = {file: one for one in everything for file in one.outputs}
    for one in everything:
        # Itself, and what it is made from that is not of one cell: prompts, standards, choices.
        chain = [one, *(makers[file] for file in one.inputs or () if file in makers)]
        told = (faults[link.manifest] for link in chain if link.source in ("", one.source))
        fault, file = next(filter(None, told), ""), one.outputs[0]
        if one.source in found:
            found[one.source] = found[one.source] or fault
        elif fault and not one.source and file.exists():
            found[file.relative_to(shards.layout.root).as_posix()] = fault
    return found


def _content(file: Path) -> str:
    """What a file that several cells are made from says to them: of a search what it chose, not the
    last digits of what its tries were worth."""
    with contextlib.suppress(UserError):
        return json.dumps(read_entry(file, "chosen"), sort_keys=True)
    return sha256_file(file)


def _fault(one: Made, shards: Layout, live: Layout) -> str:
    manifest, problems = read_manifest(one.manifest)
    if manifest:
        small = check_manifest(one, manifest, looked_at=lambda path: not left_out(path))
        problems = [*itertools.islice(small, 1)]
    file = one.outputs[0]
    other = live.root / file.relative_to(shards.root)
    if not (problems or one.source) and other.exists() and _content(other) != _content(file):
        problems = [f"{file} is not the same as {other}"]
    return next(iter(problems), "")
