"""Score one folder of images with the published scorers, in their own environment."""

import argparse
import json
from pathlib import Path

from rocm_core.errors import run
from rocm_core.evaluation import judge_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judges", type=json.loads, required=True, help="{metric: weights}, JSON")
    parser.add_argument("--samples", type=Path, required=True, help="folder with an index.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="judged.csv")
    args = parser.parse_args()
    judge_folder(args.judges, args.samples, args.output)


if __name__ == "__main__":
    run(main)
