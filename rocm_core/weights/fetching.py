"""Fetching the paper's weights from the hub or a mirror, and maintaining `weights.lock`."""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rocm_core.errors import UserError
from rocm_core.plugins import require_known
from rocm_core.provenance import LOCK, digest_of, files_in, sha256_file, write_json
from rocm_core.weights.catalogue import (
    FOLDER,
    WeightsFile,
    note_verified,
    read_lock,
    stamp_of,
    table,
)
from rocm_core.weights.downloads import Remote, download, is_hub, tag_of

QUIET_SECONDS = 5.0  # that others are waited for before anything is said

_PARTIAL = ".partial"
_TABLE = "rocm_core/weights/table.yaml"
_SMALL = 100_000_000  # bytes; the most that a file may have whose size the table does not estimate
_GIT = 40  # hexadecimal digits of git's hash, where those of sha256 are 64


def fetch(path: str, endpoint: str | None = None, mirror: str | Path | None = None) -> None:
    """Fetch one file of the table to its place and record it in weights.lock.

    An interrupted fetch resumes where it stopped; the file appears once it is complete and has the
    hash recorded in the lock, in the table and on the hub; without any of the three it is refused.
    endpoint: of the hub or of a mirror of it. mirror: a folder with the layout of weights/ to read
    instead, which is trusted. Raises `UserError`.
    """
    require_known(path, table(), "the table of weights")
    file, locked = table()[path], read_lock().get(path, {})
    with _exclusive(path):
        if Path(path).is_file():
            return record([path])
        if mirror:
            revision, published = file.revision, None
            partial, source = _partial(path, mirror), Path(mirror) / Path(path).relative_to(FOLDER)
            if not source.is_file():
                raise UserError(f"the mirror lacks {source}: put it there or unset the mirror")
            shutil.copyfile(source, partial)
        else:
            # The revision that the table or the lock name for the file's repository, if any.
            locked_to = (e["revision"] for e in read_lock().values() if e.get("repo") == file.repo)
            revision = file.revision or next(filter(None, locked_to), None)
            known_here = bool(locked or file.sha256)
            partial, revision, published = _download(file, revision, endpoint, known_here)
        sha256 = sha256_file(partial)
        for known, place in (
            (locked.get("sha256"), LOCK),
            (file.sha256, _TABLE),
            (published, "the hub"),
        ):
            actual = _git_hash(partial) if known and len(known) == _GIT else sha256
            if known not in (None, actual):
                partial.unlink()
                raise UserError(
                    f"{path} was fetched from {mirror or file.repo}, but its hash {actual[:12]}…"
                    f" is not {known[:12]}… of {place}: fetch it again; the source may have changed"
                )
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, path)
        tag_of(partial).unlink(missing_ok=True)
        _write_lock({path: _entry(path, sha256, revision)})


def record(paths: Iterable[str | Path]) -> None:
    """Add local files, and all files in local folders, to weights.lock.

    Raises `UserError` if the lock or the table has a different sha256 for one of them.
    """
    entries, locked = {}, read_lock()
    for path in paths:
        path = Path(path)
        if not path.exists() or path.is_absolute() or ".." in path.parts:
            raise UserError(f"{path} must be a file or folder below the one {LOCK} lies in")
        for file in [path] if path.is_file() else [path / name for name in files_in(path)]:
            name, sha256 = file.as_posix(), sha256_file(file)
            known = table()[name].sha256 if name in table() else None
            if locked.get(name, {}).get("sha256", known or sha256) != sha256:
                place = LOCK if name in locked else _TABLE
                raise UserError(
                    f"{name} is not the file of {place}: its sha256 is {sha256[:12]}…;"
                    " remove it and fetch it again"
                )
            entries[name] = _entry(
                name, sha256, table()[name].revision if known == sha256 else None
            )
    _write_lock(entries)


def _download(
    file: WeightsFile, revision: str | None, endpoint: str | None, known_here: bool
) -> tuple[Path, str | None, str | None]:
    """The whole file under a temporary name, its revision, and its hash if the hub has it."""
    import httpx2
    from huggingface_hub import errors

    try:
        remote, revision = _locate(file, revision, endpoint, known_here)
        partial = _partial(file.path, f"{revision} {remote.hash}")
        download(remote, partial)
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError):
        raise UserError(
            f"{file.repo} has no {file.remote} at revision {revision or 'main'}: correct {_TABLE}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{file.repo} is closed or gone: ask for access and set HF_TOKEN, or correct {_TABLE}"
        ) from None
    except (httpx2.HTTPError, OSError) as error:
        if getattr(error, "errno", None):  # of the disk
            raise
        raise UserError(
            f"{file.path} can't be fetched from {file.repo} ({type(error).__name__}): run this"
            " where there is a network, or set weights.endpoint or weights.mirror"
        ) from None
    return partial, revision, remote.hash


def _locate(
    file: WeightsFile, revision: str | None, endpoint: str | None, known_here: bool
) -> tuple[Remote, str | None]:
    """Where a file lies, what the hub says of it, and its revision: the given one, if it is full.

    known_here: its sha256 is. Raises `UserError` for an answer that cannot be the hub's.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    limit = file.size or file.about and file.about * 5 // 4 or _SMALL
    if file.host == "github":
        url = f"https://raw.githubusercontent.com/{file.repo}/{revision}/{file.remote}"
        return Remote(file.path, file.repo, url, None, file.size, limit), revision
    url = hf_hub_url(
        file.repo, file.remote, repo_type=file.type, revision=revision, endpoint=endpoint
    )
    token = None if is_hub(url) else False
    known = get_hf_file_metadata(url, endpoint=endpoint, token=token)
    hash = _hexadecimal(known.etag, 40, 64)
    commit, pinned = _hexadecimal(known.commit_hash, 40), _hexadecimal(revision, 40)
    if not (hash or known_here) or not (pinned or commit):
        raise UserError(
            f"{file.path} can't be fetched from {file.repo}, which did not answer as a hub does: a"
            " captive portal or a proxy may have answered; fetch it from another network"
        )
    if pinned and commit not in (None, pinned):
        raise UserError(
            f"{file.path} was asked for at revision {pinned[:12]}… of {file.repo}, but the hub"
            f" answered with {commit[:12]}…: fetch it again, or correct weights.endpoint"
        )
    if (known.size or 0) > limit:
        raise UserError(
            f"{file.path} has {known.size:,} bytes in {file.repo}, more than the {limit:,} it may"
            f" have: correct its size in {_TABLE}"
        )
    size = known.size or file.size
    return Remote(file.path, file.repo, known.location, hash, size, size or limit), pinned or commit


def _hexadecimal(text: str | None, *digits: int) -> str | None:
    """A text of so many hexadecimal digits, None for any other."""
    return text if text and len(text) in digits and not text.strip("0123456789abcdef") else None


def _git_hash(path: Path) -> str:
    """git's hash of a blob, by which the hub knows its small files."""
    header = f"blob {path.stat().st_size}\0".encode()
    return hashlib.sha1(header + path.read_bytes(), usedforsecurity=False).hexdigest()


def _partial(path: str, revision: object) -> Path:
    folder = Path(FOLDER) / _PARTIAL
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{Path(path).name}.{digest_of({path: str(revision)})[:16]}"


@contextlib.contextmanager
def _exclusive(path: str) -> Iterator[None]:
    """One process at a time may work on a file; the others wait, and say so."""
    lock = FileLock(_partial(path, "lock"))
    try:
        lock.acquire(timeout=QUIET_SECONDS)
    except Timeout:
        print(f"waiting for another process that works on {path}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _entry(path: str, sha256: str, revision: str | None) -> dict[str, Any]:
    return {
        "repo": table()[path].repo if path in table() else None,
        "revision": revision,
        "size": Path(path).stat().st_size,
        "sha256": sha256,
    }


def _write_lock(entries: Mapping[str, dict[str, Any]]) -> None:
    """Add entries to the lock; existing entries stay as they are."""
    with _exclusive(LOCK):
        old = read_lock()
        if new := {path: entry for path, entry in entries.items() if path not in old}:
            write_json(LOCK, dict(sorted((old | new).items())))
    stamps: dict[str, str] = {}
    for path, entry in entries.items():
        stamps |= stamp_of(Path.cwd(), Path(path), entry["sha256"])
    note_verified(Path.cwd(), stamps)
