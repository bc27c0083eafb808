"""Make one prompt set: a .jsonl file with an id, a text and a source per line."""

import argparse
import json
from pathlib import Path

from rocm_core.configuration import PromptSettings
from rocm_core.errors import run
from rocm_core.prompts import make_prompts, prompt_files, read_prompts, write_prompts
from rocm_core.provenance import hash_inputs, located, record_beside, write_manifest
from rocm_core.weights import check_weights, files_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--settings", type=json.loads, required=True, help="PromptSettings, JSON")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="sets to stay clear of")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--fingerprint", default="", help="of the code, for the manifest")
    args = parser.parse_args()
    settings = PromptSettings.from_dict(args.settings)
    for file in filter(files_of, prompt_files(settings)):
        check_weights(file)
    inputs = hash_inputs(args.exclude)
    exclude = [prompt for path in args.exclude for prompt in read_prompts(path)]
    write_prompts(args.output, make_prompts(settings, exclude))
    write_manifest(
        record_beside(args.output),
        settings=settings.to_dict(),
        code=args.fingerprint,
        weights=[file for file in prompt_files(settings) if located(file).is_file()],
        inputs=inputs,
        outputs=[args.output],
    )


if __name__ == "__main__":
    run(main)
