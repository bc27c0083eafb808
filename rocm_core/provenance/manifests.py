"""Manifests: what an artefact is, what made it, from what, and who accepted it for newer code."""

import contextlib
import functools
import getpass
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
from rocm_core.provenance.files import Layout, folder_digest, sha256_file, write_json

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
    inputs: Iterable[str | Path] = (),
    device: str = "cpu",
    seconds: float = 0.0,
    peak_memory_gib: float | None = None,
    attempts: int = 1,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the manifest of an artefact: what made it, from what, and the sha256 of its files.

    settings: the job's settings, seeds included. code: its code fingerprint. outputs: files below
    the manifest's folder. weights: folders or files that were loaded. inputs: files of the same
    results that it was made from. seconds: of work, summed over attempts. extra: further top-level
    keys.
    """
    folder = Path(path).parent.absolute()
    manifest = {
        "settings": dict(settings),
        "code": code,
        "commit": git_commit(),
        "packages": package_versions(),
        "weights": {str(name): folder_digest(name) for name in weights},
        "device": device,
        "seconds": round(seconds, 3),
        "peak_memory_gib": peak_memory_gib,
        "attempts": attempts,
        **(extra or {}),
        "inputs": {
            Path(os.path.relpath(file, folder)).as_posix(): sha256_file(file)
            for file in sorted(map(Path, inputs))
        },
        "outputs": {
            Path(file).absolute().relative_to(folder).as_posix(): sha256_file(file)
            for file in sorted(map(Path, outputs))
        },
    }
    write_json(path, manifest)


@functools.cache
def git_commit() -> str | None:
    """The checkout's commit, with "+dirty" where tracked files differ from it; None without git."""
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
        self.entries: dict[str, dict[str, str]] = {}
        if layout.accepted.exists():
            try:
                self.entries = dict(json.loads(layout.accepted.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{layout.accepted} cannot be read ({error}): restore it, or remove it to run"
                    " again what it kept"
                ) from None

    def code(self, manifest: Path, code: str) -> str:
        """The fingerprint that the rules show Snakemake for a job whose code is now `code`."""
        entry = self.entries.get(self._key(manifest), {})
        return entry["recorded"] if entry.get("code") == code else code

    def accept(self, manifest: Path, code: str) -> None:
        """Note in a manifest and in this record that its results stand for those of `code`."""
        content = json.loads(manifest.read_text(encoding="utf-8"))
        # The name and address that git signs commits with, else the login.
        name, bracket, _ = _git("var", "GIT_AUTHOR_IDENT").partition(">")
        note = {
            "code": code,
            "instead_of": content["code"],
            "by": name + bracket or getpass.getuser(),
            "commit": git_commit(),
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(manifest, content | {"accepted": [*content.get("accepted", []), note]})
        # A job that ran under accepted code is on record under the older fingerprint.
        recorded = self.code(manifest, content["code"])
        self.entries[self._key(manifest)] = {"code": code, "recorded": recorded}

    def save(self) -> None:
        """Write the record."""
        write_json(self.layout.accepted, dict(sorted(self.entries.items())))

    def _key(self, manifest: Path) -> str:
        return manifest.relative_to(self.layout.root).as_posix()


def accepted_code(manifest: dict[str, Any]) -> str | None:
    """The fingerprint that was accepted for a manifest last; None if none was."""
    return (manifest.get("accepted") or [{}])[-1].get("code")
