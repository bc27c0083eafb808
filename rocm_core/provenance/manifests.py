"""Manifests: what an artefact is, what made it, and from what."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rocm_core.plugins import ROOT
from rocm_core.provenance.files import folder_digest, sha256_file, write_json

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
    command = [
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+dirty",
        "--exclude=*",
    ]
    with contextlib.suppress(OSError):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return answer.stdout.strip() or None
    return None


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that numbers depend on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
