"""Evaluate the snapshots of one training by every metric, step 0 being the base model."""

import argparse
import json
from pathlib import Path

from rocm_core.configuration import GenerationSettings
from rocm_core.errors import run
from rocm_core.evaluation import evaluate_snapshots
from rocm_core.prompts import read_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--settings", type=json.loads, required=True, help="GenerationSettings, JSON"
    )
    parser.add_argument(
        "--scorers", type=json.loads, required=True, help="{metric: weights or null}, JSON"
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument(
        "--count", type=int, required=True, help="number of prompts, from the first"
    )
    parser.add_argument("--snapshots", type=Path, required=True, help="folder of step-<n> LoRAs")
    parser.add_argument("--output", type=Path, required=True, help="folder of images and scores")
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    args = parser.parse_args()
    evaluate_snapshots(
        GenerationSettings.from_dict(args.settings),
        args.scorers,
        read_prompts(args.prompts)[: args.count],
        args.snapshots,
        args.output,
        args.fingerprint,
        [args.prompts],
    )


if __name__ == "__main__":
    run(main)
