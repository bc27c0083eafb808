"""Start a job's script on GPUs of its own, in one process or in several.

`python -m rocm_core.commands.launch [--gpus N] [--processes N] script.py …` becomes that script,
which sees N GPUs that no other job started this way has: none starts where there are fewer.

Several processes are started by torch.distributed.run, which is what `accelerate launch` calls for
them: the Accelerator in the script reads the same variables of the environment from both.
"""

import argparse
import itertools
import os
import sys

from rocm_core.errors import run
from rocm_core.jobs import claim_gpus

# By these, whoever starts several processes tells each which one it is, or where they meet. This
# job is one process or starts its own, whatever it was itself started by.
RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
RANKS |= {"PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}
TORCHRUN = "PET_"  # begins the defaults of torch.distributed.run
NO_GPU = {"ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"}


def main() -> None:
    """Claim GPUs, then become the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=0, help="0: whatever is visible")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    unwanted = RANKS | (NO_GPU if args.gpus else set())
    for name in [n for n in os.environ if n in unwanted or n.startswith(TORCHRUN)]:
        del os.environ[name]
    if args.gpus:
        output = dict(itertools.pairwise(args.arguments)).get("--output")
        claim_gpus(args.gpus, args.script + (f", for {output}" if output else ""))
    command = [sys.executable, args.script, *args.arguments]
    if args.processes > 1:
        command[1:1] = [
            *("-m", "torch.distributed.run"),
            *("--standalone", f"--nproc-per-node={args.processes}"),
        ]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    run(main)
