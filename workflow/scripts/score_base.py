"""Score what the base makes of the prompts and the noise of a training."""

import argparse
import json
from pathlib import Path

from rocm_core.algorithms import load_settings
from rocm_core.errors import run
from rocm_core.prompts import read_prompts
from rocm_core.provenance import read_entry
from rocm_core.training import score_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--settings",
        type=json.loads,
        required=True,
        help="{runs: {reward: settings of a training}, pairs}, JSON",
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument(
        "--standards", type=Path, nargs="+", default=[], help="how the base scores, JSON"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    args = parser.parse_args()
    measured: dict[str, dict[str, float]] = {}
    for file in args.standards:
        measured |= read_entry(file, "scorers")
    score_base(
        {reward: load_settings(own) for reward, own in args.settings["runs"].items()},
        read_prompts(args.prompts),
        args.settings["pairs"],
        args.output,
        args.fingerprint,
        [args.prompts, *args.standards],
        measured,
    )


if __name__ == "__main__":
    run(main)
