"""The paper's weights: what is needed from where, fetched once, and held to `weights.lock`.

`python -m rocm_core.weights --list` shows the table, `--fetch` fetches what is missing, `--check`
hashes everything again, `--record PATH` takes local files into the lock.
"""

import argparse
import contextlib
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rocm_core.errors import UserError, run
from rocm_core.fingerprint import ROOT
from rocm_core.provenance import (
    LOCK,
    digest_of,
    files_in,
    folder_digest,
    listed_hashes,
    read_listing,
    record_of,
    sha256_file,
    write_json,
)

if TYPE_CHECKING:
    from rocm_core.config import Config

FOLDER = "weights"
_CHECKED = ".checked.json"  # {path: size, time and sha256 of the file when it was last found right}
_FETCH = "fetch it with `snakemake weights`, where there is a network"


@dataclass(frozen=True)
class WeightsFile:
    """One file of the table: `path` here, `remote` in `repo`; None where it is not known.

    host: hub or github. type: of the repository on the hub, model or dataset. size: in bytes, and
    about: the same, reckoned. benchmark: prompts to judge on, never to be trained on.
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
    found = {}
    for entry in yaml.safe_load((ROOT / "resources/weights.yaml").read_text(encoding="utf-8")):
        for name, known in entry["files"].items():
            path = f"{FOLDER}/{entry['folder']}/{name}"
            found[path] = WeightsFile(
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
    return found


def files_of(path: str | Path) -> list[str]:
    """The table's files at or below a local path; none for a path that it does not name."""
    path = Path(path).as_posix()
    return [name for name in table() if name == path or name.startswith(f"{path}/")]


def used(config: "Config") -> list[str]:
    """The local paths of a configuration's models, scorers and prompts."""
    models = ((policy.model, policy.lora) for policy in config.policies.values())
    paths = [path for both in models for path in both if path]
    paths += [path for path in config.scorers.values() if path]
    files = (file for prompts in config.prompts.values() for file in prompts.files)
    return list(dict.fromkeys([*paths, *files]))


def needed(config: "Config") -> list[str]:
    """The table's files that a configuration's models, scorers and prompts are made of."""
    return list(dict.fromkeys(name for path in used(config) for name in files_of(path)))


def weights_digest(path: str | Path) -> str:
    """What a job's params show of its weights: the same before and after they are fetched.

    For the table's files it is their origin, to whose first content `weights.lock` holds them; for
    any others a digest of their content.
    """
    files = [table()[name] for name in files_of(path)]
    if not files:
        return folder_digest(path)
    return digest_of({f.path: f"{f.repo}@{f.revision}/{f.remote} {f.sha256}" for f in files})


def check_weights(path: str | Path, full: bool = False) -> None:
    """Raise `UserError` unless the weights are all there and are those that were recorded.

    Recorded is what weights.lock or MANIFEST.json, in the folder or above it, list; without either
    they need only exist, unless the table names them. A file listed in weights.lock is hashed when
    its size or time has changed since it was last found right; full: in any case.
    """
    path = Path(path)
    for name in files_of(path):
        if not Path(name).is_file():
            raise UserError(f"{name} is missing: {_FETCH}")
    if not path.exists():
        raise UserError(f"the weights {path} do not exist: fetch them or correct the path")
    folder = path if path.is_dir() else path.parent
    record, listed = record_of(folder), listed_hashes(folder)
    if not path.is_dir():
        listed = {name: sha256 for name, sha256 in listed.items() if name == path.name}
    if listed or files_of(path):
        _refuse_strays(folder, files_in(folder) if path.is_dir() else [path.name], listed, record)
    checked = Checked(record)
    for name, sha256 in listed.items():
        file = folder / name
        if not file.is_file():
            raise UserError(f"{file} is missing, which {_name(record)} lists: restore it")
        if full or not checked.knows(file, sha256):
            if sha256_file(file) != sha256:
                raise UserError(
                    f"{file} ({file.stat().st_size:,} bytes) is truncated or changed, its sha256"
                    f" is not that of {_name(record)}: restore it"
                )
            checked.add(file, sha256)
    checked.save()


def require_recorded(path: Path) -> None:
    """Raise `UserError` unless a file, which may hold code, is listed and is the one listed."""
    if path.name not in listed_hashes(path.parent):
        raise UserError(
            f"{path} is a pickle that no {LOCK} or MANIFEST.json lists, so it is not opened: if you"
            f" trust it, take it in with `python -m rocm_core.weights --record {path}`"
        )
    check_weights(path)


def _refuse_strays(
    folder: Path, present: Iterable[str], listed: Mapping[str, str], record: Path | None
) -> None:
    for name in present:
        if name not in listed:
            raise UserError(
                f"{folder / name} is not listed in {_name(record)}: remove it, or take it in with"
                f" `python -m rocm_core.weights --record {folder / name}`"
            )


def _name(record: Path | None) -> str:
    return record.name if record else LOCK


class Checked:
    """Files found right before, as {path: stamp} beside the weights; nothing for a MANIFEST.json,
    whose files are small. Lost, it costs a hash; a folder that can't be written goes without."""

    def __init__(self, record: Path | None):
        self.root = record.parent if record and record.name == LOCK else None
        self.stamps: dict[str, str] = {}
        self.changed = False
        if self.root:
            with contextlib.suppress(OSError, ValueError):
                self.stamps = dict(json.loads((self.root / FOLDER / _CHECKED).read_text()))

    def knows(self, file: Path, sha256: str) -> bool:
        return self.stamps.get(self._key(file)) == _stamp(file, sha256)

    def add(self, file: Path, sha256: str) -> None:
        self.changed |= not self.knows(file, sha256)
        self.stamps[self._key(file)] = _stamp(file, sha256)

    def save(self) -> None:
        if self.root and self.changed:
            with contextlib.suppress(OSError):
                write_json(self.root / FOLDER / _CHECKED, self.stamps)

    def _key(self, file: Path) -> str:
        return file.absolute().relative_to(self.root).as_posix() if self.root else str(file)


def _stamp(file: Path, sha256: str) -> str:
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns} {sha256}"


def read_lock() -> dict[str, dict[str, Any]]:
    return read_listing(Path(LOCK)) if Path(LOCK).is_file() else {}


def describe(paths: Iterable[str]) -> str:
    """The table as text: one line a file, then what there is to fetch."""
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
    """How much of the table's files is not here yet, as far as sizes are known or reckoned."""
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
    """A size as people write it: 1.97 GB."""
    if size is None:
        return "?"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def main() -> int:
    from rocm_core.config import load_config
    from rocm_core.fetching import fetch, record

    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show what is needed (the default)")
    what.add_argument("--fetch", action="store_true", help="fetch what is missing")
    what.add_argument("--check", action="store_true", help="hash every file again")
    what.add_argument("--record", nargs="+", metavar="PATH", help="take local files into the lock")
    parser.add_argument("--configfile", help="what this configuration needs, not the whole table")
    arguments = parser.parse_args()
    config = load_config(arguments.configfile) if arguments.configfile else None
    paths = needed(config) if config else list(table())
    if arguments.record:
        record(arguments.record)
    elif arguments.fetch:
        for path in paths:
            fetch(path, *((config.weights.endpoint, config.weights.mirror) if config else ()))
    elif arguments.check:
        problems = [*check_all(paths)]
        print("\n".join(problems) or f"{len(paths)} files are as {LOCK} lists them")
        return 1 if problems else 0
    else:
        print(describe(paths))
    return 0


def check_all(paths: Iterable[str | Path]) -> Iterator[str]:
    """What is wrong with files or folders, each hashed in full, a sentence each."""
    for path in paths:
        try:
            check_weights(path, full=True)
        except UserError as error:
            yield str(error)


if __name__ == "__main__":
    run(main)
