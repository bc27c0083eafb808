"""Score one folder of images by every metric."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rocm_core.errors import run
from rocm_core.evaluation import score_folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--scorers", type=json.loads, required=True, help="{metric: weights or null}, JSON"
    )
    parser.add_argument("--samples", type=Path, required=True, help="folder with an index.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="scores.csv")
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    args = parser.parse_args(arguments)
    score_folder(args.scorers, args.samples, args.output, args.fingerprint)


if __name__ == "__main__":
    run(main)
