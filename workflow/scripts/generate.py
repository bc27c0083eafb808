"""Generate one image per prompt, with a cell's LoRA or with the base model."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rocm_core.configuration import GenerationSettings
from rocm_core.errors import run
from rocm_core.evaluation import generate
from rocm_core.prompts import read_prompts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument(
        "--settings", type=json.loads, required=True, help="GenerationSettings, JSON"
    )
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--lora", type=Path, help="without it: the base model")
    parser.add_argument("--output", type=Path, required=True, help="folder of the images")
    parser.add_argument("--fingerprint", required=True, help="of the code, for the manifest")
    args = parser.parse_args(arguments)
    generate(
        GenerationSettings.from_dict(args.settings),
        read_prompts(args.prompts),
        args.lora,
        args.output,
        args.fingerprint,
        [args.prompts],
    )


if __name__ == "__main__":
    run(main)
