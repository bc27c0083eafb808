"""Start a job's script on GPUs of its own, in one process or in several.

`python -m rocm_core.commands.launch [--gpus N] [--processes N] script.py …` becomes that script.
Outside of Slurm, which does it itself, the script sees only GPUs that no other job started this way
has.

Several processes are started by torch.distributed.run, which is what `accelerate launch` calls for
them: the Accelerator in the script reads the same variables of the environment from both.
"""

import argparse
import fcntl
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path

from rocm_core.errors import UserError, run

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


def main() -> None:
    """Claim GPUs, then become the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=0, help="0: whatever is visible")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if args.gpus and "SLURM_JOB_ID" not in os.environ:
        if claimed := claim_gpus(args.gpus):
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(claimed)
    command = [sys.executable, args.script, *args.arguments]
    if args.processes > 1:
        command[1:1] = [
            *("-m", "torch.distributed.run"),
            *("--standalone", f"--nproc-per-node={args.processes}"),
        ]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    run(main)
