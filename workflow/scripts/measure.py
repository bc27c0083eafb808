"""Measure what shows reward hacking in one folder of images: their noise and their diversity."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rocm_core.errors import run
from rocm_core.evaluation import measure_folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--samples", type=Path, required=True, help="folder with an index.jsonl")
    parser.add_argument("--clip", type=Path, help="weights of clipscore, for CLIP's diversity")
    parser.add_argument("--output", type=Path, required=True, help="readouts.csv")
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    args = parser.parse_args(arguments)
    measure_folder(args.samples, args.output, args.clip, args.fingerprint)


if __name__ == "__main__":
    run(main)
