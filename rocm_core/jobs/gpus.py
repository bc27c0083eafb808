"""Claiming GPUs: outside of Slurm, which assigns them itself, a job sees only those it claimed."""

import fcntl
import os
import random
import re
import tempfile
import time
from pathlib import Path

from rocm_core.errors import UserError

POLL_SECONDS = 1.0


def claim_gpus(count: int) -> list[str]:
    """Names of `count` GPUs for CUDA_VISIBLE_DEVICES, waiting until as many are free.

    They stay claimed while this process lives, even after an exec. [] where there is no GPU.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        nodes = (re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*"))
        devices = sorted((node[1] for node in nodes if node), key=int)
    else:
        devices = [name.strip() for name in listed.split(",") if name.strip()]
    if not devices:
        return []
    if count > len(devices):
        raise UserError(f"the job wants {count} GPUs, but this machine has {len(devices)}")
    folder = Path(tempfile.gettempdir(), f"rocm-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    while True:
        claimed: dict[str, int] = {}
        for device in devices:
            if len(claimed) < count and (descriptor := _claim(folder / device)) is not None:
                claimed[device] = descriptor
        if len(claimed) == count:
            return list(claimed)
        for descriptor in claimed.values():  # otherwise two jobs could wait for each other's
            os.close(descriptor)
        time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))


def _claim(path: Path) -> int | None:
    """Lock a file until it is closed or this process ends, for whatever reason; None if another
    process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.set_inheritable(descriptor, True)
    return descriptor
