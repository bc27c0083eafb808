"""Files of the results: atomic writes, and digests of files, folders and listings."""

import contextlib
import csv
import functools
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rocm_core.errors import UserError

LOCK = "weights.lock"
RECORDS = ("MANIFEST.json", LOCK)


def sha256_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a file's content; a file unchanged in size and time is read once."""
    status = os.stat(path)
    return _sha256(str(path), status.st_size, status.st_mtime_ns)


@functools.cache
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(hashes: Mapping[str, str]) -> str:
    """One sha256 for {relative name: sha256}."""
    return hashlib.sha256(json.dumps(dict(sorted(hashes.items()))).encode()).hexdigest()


def folder_digest(path: str | Path) -> str:
    """One sha256 over the names and contents of a folder's files, hidden files left out.

    Looked up, without reading the files, where a MANIFEST.json or weights.lock lists them. A single
    file gives its own sha256; a missing path "absent", so that a dry-run needs none.
    """
    path = Path(path)
    if path.is_file():
        return sha256_file(path)
    if not path.is_dir():
        return "absent"
    return digest_of(
        listed_hashes(path) or {name: sha256_file(path / name) for name in files_in(path)}
    )


def record_of(folder: str | Path) -> Path | None:
    """The nearest MANIFEST.json or weights.lock, in a folder or in one of the three above it."""
    folder = Path(folder).absolute()
    records = (parent / name for parent in [folder, *folder.parents[:3]] for name in RECORDS)
    return next((record for record in records if record.is_file()), None)


def listed_hashes(folder: str | Path) -> dict[str, str]:
    """{relative name: sha256} of a folder's files as its `record_of` lists them, {} without one.
    Raises `UserError` for a record that cannot be read."""
    record = record_of(folder)
    if record is None:
        return {}
    below = Path(folder).absolute().relative_to(record.parent).as_posix() + "/"
    below = "" if below == "./" else below
    return dict(_listed(record, below, record.stat().st_size, record.stat().st_mtime_ns))


@functools.cache
def _listed(record: Path, below: str, size: int, mtime_ns: int) -> dict[str, str]:
    """What a record lists below a folder; one unchanged in size and time is read once."""
    entries = read_listing(record).items()
    hashes = {k: v if isinstance(v, str) else v["sha256"] for k, v in entries}
    return {k.removeprefix(below): v for k, v in hashes.items() if k.startswith(below)}


def read_listing(record: Path) -> dict[str, Any]:
    """The entries of a MANIFEST.json, sha256, or of a weights.lock, objects with sha256."""
    try:
        entries = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{record} cannot be read as JSON ({error}): restore it") from None
    values = entries.values() if isinstance(entries, dict) else [None]
    if not all(isinstance(v.get("sha256") if isinstance(v, dict) else v, str) for v in values):
        raise UserError(f"{record} must map file names to sha256: restore it")
    return entries


def files_in(folder: Path) -> list[str]:
    """Sorted relative names of a folder's files, hidden ones and records left out."""
    names = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(
        name.as_posix()
        for name in names
        if name.name not in RECORDS and not any(part.startswith(".") for part in name.parts)
    )


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` only when the block ends well; an old one stays till then.

    The file may also be written by its `.name`. On return content and name are on the disk (fsync).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
        _sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_csv(path: str | Path, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table atomically; None is an empty field."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=1) + "\n").encode())
