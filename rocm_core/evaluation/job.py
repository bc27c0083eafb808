"""What the jobs of this room share: the device, the manifest of what they made, keeping it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rocm_core.provenance import stands, write_manifest


def pick_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def plain_paths(scorers: Mapping[str, str | Path | None]) -> dict[str, str | None]:
    """Scorers with the paths of their weights as JSON has them."""
    return {name: None if path is None else str(path) for name, path in scorers.items()}


def kept(path: Path, **content: Any) -> bool:
    """Whether a job of this content is done already, as the manifest `path` tells; then says so."""
    done = stands(path, **content)
    if done:
        print(f"kept as they are: the files of {path}", flush=True)
    return done


def write_job_manifest(path: Path, *, began: float, **content: Any) -> None:
    """A manifest with the device and the job's seconds since `began` (of time.perf_counter)."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    write_manifest(path, device=device, job_seconds=time.perf_counter() - began, **content)
