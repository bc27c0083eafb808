"""Fetch one file of the paper's weights, which then is in weights.lock."""

import argparse
import os

from rocm_core.errors import run
from rocm_core.fetching import fetch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a path of resources/weights.yaml, below weights/")
    # The defaults come from the configuration, through the environment: a job that changes nothing
    # else is not to run again for another origin.
    parser.add_argument(
        "--endpoint",
        default=os.environ.get("ROCM_WEIGHTS_ENDPOINT"),
        help="of the hub, or a mirror of it",
    )
    parser.add_argument(
        "--mirror",
        default=os.environ.get("ROCM_WEIGHTS_MIRROR"),
        help="a folder laid out as weights/, to copy from instead",
    )
    args = parser.parse_args()
    fetch(args.file, args.endpoint, args.mirror)


if __name__ == "__main__":
    run(main)
