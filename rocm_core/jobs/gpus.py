"""GPUs: what a job asked for is there for torch to use, and no other job has it.

A claim is a locked file, which the kernel frees when the job ends, however it ends.
"""

import contextlib
import fcntl
import os
import random
import socket
import sys
import time
import warnings
from pathlib import Path
from urllib.parse import quote

from rocm_core.errors import UserError
from rocm_core.jobs.private import private_folder

POLL_SECONDS = 1.0


def require_gpus(count: int) -> int:
    """How many GPUs torch can use in this process; raises `UserError` if fewer than `count`."""
    import torch

    reason = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch warns of is the reason that it gives
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not found:
            try:
                torch.cuda.init()
            except (AssertionError, RuntimeError) as error:
                reason = f" ({str(error).partition(chr(10))[0].rstrip('. ')})"
    if found < count:
        raise _too_few(count, found, reason)
    return found


def _too_few(count: int, found: int, reason: str = "") -> UserError:
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = "no CUDA_VISIBLE_DEVICES" if listed is None else f"CUDA_VISIBLE_DEVICES={listed!r}"
    return UserError(
        f"resources.gpus asks for {count} GPU{'s' * (count > 1)}, but torch can use {found} on"
        f" {socket.gethostname()} with {visible}{reason}: see to the driver or container there, or"
        " set resources.gpus to 0 to compute on the CPU"
    )


def claim_gpus(count: int, purpose: str) -> None:
    """Let this process alone have `count` GPUs, and see no others; waits until as many are free.

    They stay claimed while this process lives, even after an exec. purpose: for who waits for them.
    Raises `UserError` where torch cannot use as many.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in (listed or "").split(",")]
    # Of MIG devices CUDA shows a process only the first in the list: each is tried once claimed.
    mig = names[0].startswith("MIG-") and count == 1
    if mig:
        devices = {name: name for name in names if name}
    else:
        found = require_gpus(count)
        names = names[:found] if listed is not None else [str(number) for number in range(found)]
        devices = {_identity(index, name): name for index, name in enumerate(names)}
    if len(devices) < count:
        raise _too_few(count, len(devices))
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(_claim(count, devices, purpose))
    if mig:
        require_gpus(count)


def _identity(index: int, name: str) -> str:
    """A GPU's UUID, because containers number GPUs anew; its name where torch knows none."""
    import torch

    with contextlib.suppress(AssertionError, AttributeError, RuntimeError):
        return str(torch.cuda.get_device_properties(index).uuid)
    return name


def _claim(count: int, devices: dict[str, str], purpose: str) -> list[str]:
    """Names of `count` of {identity: name}, which this process holds from now on."""
    # Slurm may give one GPU to several allocations on purpose: within one, jobs compete for it.
    # A job that is requeued keeps its number, while its process on the node that was lost may hang
    # on; several of Slurm's nodes can be one machine.
    place = (os.environ.get(name, "")[:40] for name in ("SLURM_JOB_ID", "SLURMD_NODENAME"))
    scope = quote("-".join(filter(None, place)), safe="") + "@"
    folder = private_folder("rocm-gpus")
    files = {folder / (scope + quote(key, safe="")): name for key, name in devices.items()}
    try:
        _forget_other_allocations(folder, scope)
        told = False
        while len(claims := _lock_some(count, files)) < count:
            for claim in claims.values():  # otherwise two jobs could wait for each other's
                os.close(claim)
            if not told:
                holders = (f"{files[f]} of {f.read_text()}" for f in files if f not in claims)
                print(f"waiting for a GPU: {', '.join(holders)}", file=sys.stderr)
            told = True
            time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))
        for claim in claims.values():
            os.set_inheritable(claim, True)
            os.ftruncate(claim, 0)
            os.pwrite(claim, f"process {os.getpid()} ({purpose})".encode(), 0)
    except OSError as error:
        raise UserError(
            f"GPUs cannot be claimed in {folder} ({error.strerror}): set TMPDIR to a folder of your"
            " own on a local disk"
        ) from None
    return [files[file] for file in claims]


def _lock_some(count: int, files: dict[Path, str]) -> dict[Path, int]:
    claims: dict[Path, int] = {}
    for file in files:
        if len(claims) < count and (claim := _lock(file)) is not None:
            claims[file] = claim
    return claims


def _lock(file: Path) -> int | None:
    """A descriptor that holds the lock until it is closed; None if another process has it."""
    claim = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(claim), os.stat(file)):
            return claim
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(claim)
    return None


def _forget_other_allocations(folder: Path, scope: str) -> None:
    """Remove the files of Slurm jobs that have ended."""
    for file in folder.iterdir():
        if not file.name.startswith((scope, "@")) and (claim := _lock(file)) is not None:
            file.unlink()
            os.close(claim)
