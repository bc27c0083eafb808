"""Fetch one file of the paper's weights, which then is in weights.lock."""

import argparse
import os

from rocm_core.errors import run
from rocm_core.weights import fetch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a path of rocm_core/weights/table.yaml, below weights/")
    for name, meaning in (("ENDPOINT", "of the hub"), ("MIRROR", "a folder laid out as weights/")):
        variable = f"WEIGHTS_{name}"
        parser.add_argument(
            f"--{name.lower()}",
            default=os.environ.get(variable),
            help=f"{meaning}; by default ${variable}",
        )
    args = parser.parse_args()
    fetch(args.file, args.endpoint, args.mirror)


if __name__ == "__main__":
    run(main)
