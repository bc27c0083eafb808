"""Score one folder of images with the published scorers, in their own environment."""

import argparse
import json
from pathlib import Path

from rocm_core.errors import run
from rocm_core.evaluation import score_folder_published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--scorers", type=json.loads, required=True, help="{metric: weights}, JSON")
    parser.add_argument("--samples", type=Path, required=True, help="folder with an index.jsonl")
    parser.add_argument("--output", type=Path, required=True, help="published.csv")
    parser.add_argument("--fingerprint", default="", help="of the code, for the manifest")
    args = parser.parse_args()
    score_folder_published(args.scorers, args.samples, args.output, args.fingerprint)


if __name__ == "__main__":
    run(main)
