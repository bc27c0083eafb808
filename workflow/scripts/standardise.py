"""Measure how the base's images of a prompt set score: the mean and spread of each scorer."""

import argparse
import json
from pathlib import Path

from rocm_core.configuration import GenerationSettings
from rocm_core.errors import run
from rocm_core.evaluation import measure_base
from rocm_core.prompts import read_prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--settings", type=json.loads, required=True, help="GenerationSettings, JSON"
    )
    parser.add_argument(
        "--scorers", type=json.loads, required=True, help="{scorer: weights or null}, JSON"
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    args = parser.parse_args()
    measure_base(
        GenerationSettings.from_dict(args.settings),
        args.scorers,
        read_prompts(args.prompts),
        args.output,
        args.fingerprint,
        [args.prompts],
    )


if __name__ == "__main__":
    run(main)
