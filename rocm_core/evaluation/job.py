"""What the jobs of this room share: the device, and the manifest of what they made."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rocm_core.provenance import write_manifest


def pick_device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def plain_paths(scorers: Mapping[str, str | Path | None]) -> dict[str, str | None]:
    """Scorers with the paths of their weights as JSON has them."""
    return {name: None if path is None else str(path) for name, path in scorers.items()}


def write_job_manifest(path: Path, *, began: float, **content: Any) -> None:
    """A manifest with the device and the seconds since `began` (of time.perf_counter)."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    write_manifest(path, device=device, seconds=time.perf_counter() - began, **content)
