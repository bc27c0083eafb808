"""Manifests: what an artefact is, what made it, from what, and who accepted it for newer code.

A manifest holds the sha256 of the files that a job wrote and of those that it read, by their paths
from the manifest's folder, and last its own: `commands.verify` follows them from the prompts to the
report. Nobody but `Accepted` edits a manifest, and its own digest leaves out what that adds.
"""

import contextlib
import functools
import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rocm_core.errors import UserError
from rocm_core.plugins import ROOT
from rocm_core.provenance.files import (
    Layout,
    folder_digest,
    record_beside,
    sha256_file,
    write_json,
)

_PACKAGES = (
    *("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate", "open_clip_torch"),
    *("timm", "safetensors", "numpy", "snakemake"),
)


def write_manifest(
    path: str | Path,
    *,
    settings: Mapping[str, Any],
    code: str,
    outputs: Iterable[str | Path] = (),
    weights: Iterable[str | Path] = (),
    inputs: Mapping[Path, str] | None = None,
    device: str = "cpu",
    job_seconds: float = 0.0,
    peak_memory_gib: float | None = None,
    attempts: int = 1,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the manifest of an artefact: what made it, from what, and the sha256 of its files.

    settings: the job's settings, seeds included. code: its code fingerprint. outputs: files below
    the manifest's folder. weights: folders or files that were loaded. inputs: the files of results
    that it was made from, as `hash_inputs` has them. job_seconds: from start to
    end of the job's work, loading included, summed over attempts and processes. extra: further
    top-level keys.
    """
    folder = Path(path).parent.absolute()
    manifest = {
        "settings": dict(settings),
        "code": code,
        "commit": git_commit(),
        "packages": package_versions(),
        "weights": {str(name): folder_digest(name) for name in weights},
        "device": device,
        "job_seconds": round(job_seconds, 3),
        "peak_memory_gib": peak_memory_gib,
        "attempts": attempts,
        **(extra or {}),
        "inputs": by_relative_path(inputs or {}, folder),
        "outputs": {
            Path(file).absolute().relative_to(folder).as_posix(): sha256_file(file)
            for file in sorted(map(Path, outputs))
        },
    }
    write_json(path, sealed(manifest))


def stands(
    path: Path,
    *,
    settings: Mapping[str, Any],
    code: str,
    weights: Iterable[str | Path],
    inputs: Mapping[Path, str],
) -> bool:
    """Whether what a manifest lists is there, whole, and what a job of these arguments, which are
    those of `write_manifest`, would make again with these packages. Accepted code counts."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        same = {
            "settings": json.loads(json.dumps(dict(settings))),
            "weights": {str(name): folder_digest(name) for name in weights},
            "inputs": by_relative_path(inputs, path.parent.absolute()),
            "packages": package_versions(),
            "digest": sealed(manifest)["digest"],
        }
        return (
            all(manifest[key] == value for key, value in same.items())
            and code in (manifest["code"], accepted_code(manifest))
            and all(sha256_file(path.parent / n) == h for n, h in manifest["outputs"].items())
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False  # a manifest or file that is missing or damaged: make it again


def by_relative_path(inputs: Mapping[Path, str], folder: Path) -> dict[str, str]:
    """The inputs of a manifest in `folder`, as it names them."""
    return {Path(os.path.relpath(file, folder)).as_posix(): inputs[file] for file in sorted(inputs)}


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with its own digest, over all but who accepted it."""
    rest = {key: value for key, value in manifest.items() if key not in ("digest", "accepted")}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return dict(manifest) | {"digest": digest}


def content_digest(path: Path) -> str:
    """The sha256 of a file; of a manifest its own digest, which no acceptance changes."""
    if path.name.endswith("manifest.json"):
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            return sealed(json.loads(path.read_text(encoding="utf-8")))["digest"]
    return sha256_file(path)


def hash_inputs(files: Iterable[str | Path]) -> dict[Path, str]:
    """{file: `content_digest`} of what a job is about to read, for the manifest of what it makes.

    Raises `UserError` for a file that does not exist or is not the one that its manifest lists; one
    that no manifest lists, such as a LoRA from elsewhere, is taken as it is.
    """
    # Both are remembered: they are of what runs, not of what is checked out when a job ends.
    git_commit(), package_versions()
    hashes = {}
    for file in map(Path, files):
        if not file.is_file():
            raise UserError(f"{file} does not exist: make it first, or correct the path")
        hashes[file], here = content_digest(file), file.absolute()
        folders = [here.parent, here.parent.parent]
        for manifest in [record_beside(here), *(folder / "manifest.json" for folder in folders)]:
            name = here.relative_to(manifest.parent).as_posix()
            if listed_outputs(manifest).get(name) not in (None, hashes[file]):
                raise UserError(
                    f"{file} is not the file that its {manifest.name} lists: restore it, or make"
                    " it again"
                )
    return hashes


def listed_outputs(manifest: Path) -> dict[str, str]:
    """{relative name: sha256} of the files that a manifest lists, {} where it can't be read."""
    with contextlib.suppress(OSError):
        status = manifest.stat()
        return _read_outputs(manifest, status.st_size, status.st_mtime_ns)
    return {}


@functools.cache
def _read_outputs(manifest: Path, size: int, mtime_ns: int) -> dict[str, str]:
    """What a manifest lists; one unchanged in size and time is read once."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return dict(json.loads(manifest.read_text(encoding="utf-8"))["outputs"])
    return {}


@functools.cache
def git_commit() -> str | None:
    """The checkout's commit, with "+dirty" where tracked files differ from it; None without git."""
    if not (ROOT / ".git").exists():  # an installed package, maybe below somebody else's checkout
        return None
    return _git("describe", "--always", "--abbrev=40", "--dirty=+dirty", "--exclude=*") or None


def _git(*arguments: str) -> str:
    """What git says of the checkout; nothing without git."""
    with contextlib.suppress(OSError):
        # git says nothing of a checkout that is somebody else's, as a shared one is.
        command = ["git", "-C", str(ROOT), "-c", f"safe.directory={ROOT}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return ""


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that numbers depend on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class Accepted:
    """The record `accepted.json` of one configuration's results.

    For each manifest it names the code that was accepted, and the fingerprint that Snakemake has on
    record for the job, which the rules go on showing it while the code is the accepted one.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.entries = self._read()

    def _read(self) -> dict[str, dict[str, str]]:
        path = self.layout.accepted
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} cannot be read ({error}): restore it, or remove it to run again what it"
                " kept"
            ) from None

    def holds(self, manifest: Path, code: str) -> bool:
        """Whether `code` is what was accepted for a manifest."""
        return self.entries.get(self._key(manifest), {}).get("code") == code

    def code(self, manifest: Path, code: str) -> str:
        """The fingerprint that the rules show Snakemake for a job whose code is now `code`."""
        entry = self.entries.get(self._key(manifest), {})
        return entry["recorded"] if entry.get("code") == code else code

    def accept(self, manifest: Path, content: Mapping[str, Any], code: str) -> None:
        """Note in a manifest of this content, unless it says so, and then in this record, that its
        results stand for those of `code`."""
        # The name and address that git signs commits with, else the login.
        name, bracket, _ = _git("var", "GIT_AUTHOR_IDENT").partition(">")
        note = {
            "code": code,
            "instead_of": content["code"],
            "by": name + bracket or getpass.getuser(),
            "commit": git_commit(),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        notes = [*content.get("accepted", [])]
        notes += [note] if accepted_code(dict(content)) != code else []
        write_json(manifest, {**content, "accepted": notes})
        self.entries = self._read()  # somebody else may have accepted others meanwhile
        # A job that ran under accepted code is on record under the older fingerprint.
        recorded = self.code(manifest, content["code"])
        self.entries[self._key(manifest)] = {"code": code, "recorded": recorded}
        write_json(self.layout.accepted, dict(sorted(self.entries.items())))

    def _key(self, manifest: Path) -> str:
        return manifest.relative_to(self.layout.root).as_posix()


def accepted_code(manifest: dict[str, Any]) -> str | None:
    """The fingerprint that was accepted for a manifest last; None if none was."""
    return (manifest.get("accepted") or [{}])[-1].get("code")
