"""Measure how far the gradients of single images scatter, at a training's end or also its start."""

import argparse
import json
from pathlib import Path

from rocm_core.algorithms import load_settings
from rocm_core.errors import run
from rocm_core.prompts import read_prompts
from rocm_core.provenance import read_entry
from rocm_core.training import measure_gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--settings",
        type=json.loads,
        required=True,
        help="{methods: {method: its settings}, images, images_per_prompt, steps}, JSON",
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--lora", type=Path, required=True, help="of the training's end")
    parser.add_argument("--standards", type=Path, help="how the base scores, JSON")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    args = parser.parse_args()
    standards = read_entry(args.standards, "scorers") if args.standards else None
    methods = args.settings["methods"].items()
    measure_gradients(
        {name: load_settings(settings) for name, settings in methods},
        read_prompts(args.prompts),
        args.settings["images"],
        args.settings["images_per_prompt"],
        args.settings["steps"],
        args.lora,
        args.output,
        args.fingerprint,
        [args.prompts, *filter(None, [args.standards])],
        standards,
    )


if __name__ == "__main__":
    run(main)
