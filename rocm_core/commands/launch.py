"""Start a job's script on GPUs of its own, in one process or in several.

`python -m rocm_core.commands.launch [--gpus N] [--processes N] script.py …` becomes that script.
Outside of Slurm, which does it itself, the script sees only GPUs that no other job started this way
has.

Several processes are started by torch.distributed.run, which is what `accelerate launch` calls for
them: the Accelerator in the script reads the same variables of the environment from both.
"""

import argparse
import os
import sys

from rocm_core.errors import run
from rocm_core.jobs import claim_gpus


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
        together = ["--standalone", f"--nproc-per-node={args.processes}"]
        command[1:1] = ["-m", "torch.distributed.run", *together]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    run(main)
