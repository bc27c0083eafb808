"""Fetch one file of the paper's weights, which then is in weights.lock."""

import argparse

from rocm_core.errors import run
from rocm_core.fetching import fetch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="a path of resources/weights.yaml, below weights/")
    parser.add_argument("--endpoint", help="of the hub, or a mirror of it")
    parser.add_argument("--mirror", help="a folder laid out as weights/, to copy from instead")
    args = parser.parse_args()
    fetch(args.file, args.endpoint, args.mirror)


if __name__ == "__main__":
    run(main)
