"""The table of published files: what each is, where it is from, and what remains to be fetched.

The files here are checked against what weights.lock or MANIFEST.json recorded.
"""

import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.plugins import ROOT
from rocm_core.provenance import (
    LOCK,
    digest_of,
    files_in,
    folder_digest,
    here,
    listed_hashes,
    located,
    read_listing,
    record_of,
    sha256_file,
    write_json,
)
from rocm_core.reading import parse_yaml

_TABLE = Path(__file__).with_name("table.yaml")
FOLDER = "weights"
_CHECKED = ".checked.json"  # {path: size, time and sha256 of the file when it was last verified}
_FETCH = "fetch it with `snakemake weights`"


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
    """All files that rocm_core/weights/table.yaml names, by their local path."""
    files = {}
    for entry in parse_yaml(_TABLE.read_text(encoding="utf-8")):
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


@functools.cache
def _classes() -> dict[str, dict[str, str]]:
    """{folder: {file: class}} of the table's models whose classes of diffusers it states."""
    entries = parse_yaml(_TABLE.read_text(encoding="utf-8"))
    return {f"{FOLDER}/{e['folder']}": e["classes"] for e in entries if "classes" in e}


def class_of(folder: str | Path, file: str) -> str | None:
    """The class of diffusers that a file of a model's folder names, where the table states it."""
    if Path(folder).parts[:1] != (FOLDER,):
        return None
    return _classes().get(Path(folder).as_posix(), {}).get(file)


def files_of(*paths: str | Path | None) -> list[str]:
    """The table's files at or below any of several local paths; none for what it does not name."""
    names = [Path(path).as_posix() for path in paths if path]
    return [file for name in names for file in table() if f"{file}/".startswith(f"{name}/")]


def inputs_of(*paths: str | None) -> list[str]:
    """The table's files at or below several local paths that a rule waits for: those that are read
    from below the working directory, where they are fetched, not from the checkout."""
    return files_of(*here(*paths))


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
    lock = located(LOCK)
    return read_listing(lock) if lock.is_file() else {}


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


def check_weights(path: str | Path, full: bool = False) -> None:
    """Raise `UserError` unless the weights are complete and match the record of them.

    The record is weights.lock or MANIFEST.json, in the folder or above it; without one, the weights
    need only exist, unless the table names them. A file listed in weights.lock is hashed only if
    its size or time has changed since it was last verified; full: always.
    """
    path = located(path)
    inside = path.is_relative_to(ROOT)
    home, tabled = (ROOT, files_of(path.relative_to(ROOT))) if inside else (Path(), files_of(path))
    for file in (home / name for name in tabled):
        if not file.is_file():
            where = f"in {home}, " if home == ROOT else ""
            raise UserError(f"{file} is missing: {_FETCH}, {where}where there is a network")
    if not path.exists():
        raise UserError(f"the weights {path} do not exist: fetch them or correct the path")
    folder = path if path.is_dir() else path.parent
    record, listed = record_of(folder), listed_hashes(folder)
    listing = record.name if record else LOCK
    if not path.is_dir():
        listed = {name: sha256 for name, sha256 in listed.items() if name == path.name}
    if listed or tabled:
        present = files_in(folder) if path.is_dir() else [path.name]
        for file in (folder / name for name in present if name not in listed):
            raise UserError(
                f"{file} is not listed in {listing}: remove it, or take it in with"
                f" `python -m rocm_core.commands.weights --record {file}`"
            )
    root = record.parent if record else folder
    known, verified = _verified(root), dict[str, str]()
    for name, sha256 in listed.items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} is missing, which {listing} lists: restore it")
        stamp = stamp_of(root, file, sha256)
        if (full or not stamp.items() <= known.items()) and sha256_file(file) != sha256:
            raise UserError(
                f"{file} ({file.stat().st_size:,} bytes) is truncated or changed, its sha256"
                f" is not that of {listing}: restore it"
            )
        verified |= stamp
    if listing == LOCK:  # the files that a MANIFEST.json lists are small
        note_verified(root, verified)


def require_recorded(path: Path) -> None:
    """Raise `UserError` unless a file, which may contain code, is listed and matches its hash."""
    if path.name not in listed_hashes(path.parent):
        raise UserError(
            f"{path} is a pickle that no {LOCK} or MANIFEST.json lists, so it is not opened: if you"
            f" trust it, take it in with `python -m rocm_core.commands.weights --record {path}`"
        )
    check_weights(path)


def stamp_of(root: Path, file: Path, sha256: str) -> dict[str, str]:
    """{path below root: size, time and sha256} of a file that has this sha256."""
    status = file.stat()
    name = file.absolute().relative_to(root).as_posix()
    return {name: f"{status.st_size} {status.st_mtime_ns} {sha256}"}


def _verified(root: Path) -> dict[str, str]:
    """The stamps of files verified before, which are kept beside the weights. Losing them costs one
    hash per file."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((root / FOLDER / _CHECKED).read_text()))
    return {}


def note_verified(root: Path, stamps: Mapping[str, str]) -> None:
    """Add the stamps of verified files to those kept; a read-only folder does without them."""
    known = _verified(root)
    if not stamps.items() <= known.items():
        with contextlib.suppress(OSError):
            write_json(root / FOLDER / _CHECKED, {**known, **stamps})


def check_all(paths: Iterable[str | Path]) -> Iterator[str]:
    """What is wrong with files or folders, each hashed in full: one sentence per problem."""
    for path in paths:
        try:
            check_weights(path, full=True)
        except UserError as error:
            yield str(error)
