"""Fetching the paper's weights from the hub or a mirror, and maintaining `weights.lock`."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from rocm_core.errors import UserError
from rocm_core.provenance import LOCK, digest_of, files_in, sha256_file, write_json
from rocm_core.weights.catalogue import (
    FOLDER,
    WeightsFile,
    note_verified,
    read_lock,
    stamp_of,
    table,
)

_PARTIAL = ".partial"
_TABLE = "resources/weights.yaml"


def fetch(path: str, endpoint: str | None = None, mirror: str | Path | None = None) -> None:
    """Fetch one file of the table to its place and record it in weights.lock.

    An interrupted fetch resumes where it stopped; the file appears once it is complete and its
    sha256 is the one recorded in the lock, in the table or on the hub. endpoint: of the hub or of a
    mirror of it. mirror: a folder with the layout of weights/ to read instead. Raises `UserError`.
    """
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
            partial, revision, published = _download(file, revision, endpoint)
        sha256 = sha256_file(partial)
        for known, place in (
            (locked.get("sha256"), LOCK),
            (file.sha256, _TABLE),
            (published, "the hub"),
        ):
            if known not in (None, sha256):
                partial.unlink()
                raise UserError(
                    f"{path} was fetched from {mirror or file.repo}, but its sha256 {sha256[:12]}…"
                    f" is not {known[:12]}… of {place}: fetch it again; the source may have changed"
                )
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial, path)
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
    file: WeightsFile, revision: str | None, endpoint: str | None
) -> tuple[Path, str | None, str | None]:
    """The complete file under a temporary name, its revision, and its sha256 if the hub has it."""
    import httpx2
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get

    try:
        size, published = file.size, None
        if file.host == "github":
            url = f"https://raw.githubusercontent.com/{file.repo}/{revision}/{file.remote}"
        else:
            url = hf_hub_url(
                file.repo, file.remote, repo_type=file.type, revision=revision, endpoint=endpoint
            )
            known = get_hf_file_metadata(url, endpoint=endpoint)
            url, size, revision = known.location, known.size, known.commit_hash
            published = known.etag if known.etag and len(known.etag) == 64 else None
        partial = _partial(file.path, revision)
        with open(partial, "ab") as output:
            # hf_hub_download would start again after an interruption.
            http_get(
                url,
                output,
                resume_size=output.tell(),
                expected_size=size,
                displayed_filename=file.path,
            )
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
    return partial, revision, published


def _partial(path: str, revision: object) -> Path:
    folder = Path(FOLDER) / _PARTIAL
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{Path(path).name}.{digest_of({path: str(revision)})[:16]}"


def _exclusive(path: str) -> FileLock:
    """One process at a time may work on a file."""
    return FileLock(_partial(path, "lock"))


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
