"""The table of published files: what each is, where it is from, and what remains to be fetched."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rocm_core.plugins import ROOT
from rocm_core.provenance import LOCK, digest_of, folder_digest, read_listing

FOLDER = "weights"


@dataclass(frozen=True)
class WeightsFile:
    """One file of the table: `path` here, `remote` in `repo`; None where it is not known.

    host: hub or github. type: of the repository on the hub, model or dataset. size: in bytes.
    about: the same, estimated. benchmark: prompts for evaluation, never to be trained on.
    """

    path: str
    repo: str
    remote: str
    host: str
    type: str
    revision: str | None
    licence: str | None
    size: int | None
    about: int | None
    sha256: str | None
    benchmark: bool


@functools.cache
def table() -> dict[str, WeightsFile]:
    """All files that resources/weights.yaml names, by their local path."""
    files = {}
    for entry in yaml.safe_load((ROOT / "resources/weights.yaml").read_text(encoding="utf-8")):
        for name, known in entry["files"].items():
            path = f"{FOLDER}/{entry['folder']}/{name}"
            files[path] = WeightsFile(
                path,
                entry["repo"],
                "/".join(filter(None, [entry.get("below"), name])),
                entry.get("host", "hub"),
                entry.get("type", "model"),
                entry["revision"],
                entry["licence"],
                (known or {}).get("size"),
                (known or {}).get("about"),
                (known or {}).get("sha256"),
                entry.get("benchmark", False),
            )
    return files


def files_of(*paths: str | Path | None) -> list[str]:
    """The table's files at or below any of several local paths; none for what it does not name."""
    names = [Path(path).as_posix() for path in paths if path]
    return [file for name in names for file in table() if f"{file}/".startswith(f"{name}/")]


def weights_digest(path: str | Path) -> str:
    """What a job's params record of its weights: the same before and after they are fetched.

    For the table's files it is their origin, whose first content `weights.lock` pins; for all other
    files it is a digest of their content.
    """
    files = [table()[name] for name in files_of(path)]
    origins = {f.path: f"{f.repo}@{f.revision}/{f.remote} {f.sha256}" for f in files}
    return digest_of(origins) if origins else folder_digest(path)


@functools.cache
def digest_of_all(*paths: str | None) -> str:
    """One digest of several folders of weights, as `weights_digest` has it for each."""
    return digest_of({path: weights_digest(path) for path in paths if path})


def read_lock() -> dict[str, dict[str, Any]]:
    """The entries of weights.lock by path; none where there is no lock."""
    return read_listing(Path(LOCK)) if Path(LOCK).is_file() else {}


def describe(paths: Iterable[str]) -> str:
    """The table as text: one line per file, then what remains to be fetched."""
    paths, locked = list(paths), read_lock()
    rows = [("file", "size", "", "from", "revision", "licence")]
    for path in paths:
        file, state = table()[path], "here" if Path(path).is_file() else "to fetch"
        revision = str(locked.get(path, {}).get("revision") or file.revision or "newest")
        licence = file.licence or "unknown"
        size = _human(_size(path, locked) or file.about)
        rows.append((path, size, state, file.repo, revision[:12], licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, to_fetch(paths)])


def to_fetch(paths: Iterable[str]) -> str:
    """How much of the table's files is still missing, as far as sizes are known or estimated."""
    locked = read_lock()
    missing = [path for path in paths if not Path(path).is_file()]
    sizes = [_size(path, locked) for path in missing]
    about = [table()[path].about for path, size in zip(missing, sizes, strict=True) if not size]
    total = sum(filter(None, [*sizes, *about]))
    unknown = about.count(None)
    more = f" and {unknown} small ones" if unknown else ""
    return f"to fetch: {len(sizes)} files, {'about ' if any(about) else ''}{_human(total)}{more}"


def _size(path: str, locked: Mapping[str, dict[str, Any]]) -> int | None:
    if Path(path).is_file():
        return Path(path).stat().st_size
    return locked.get(path, {}).get("size") or table()[path].size


def _human(size: int | None) -> str:
    """A size in human-readable form: 1.97 GB."""
    if size is None:
        return "?"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"
