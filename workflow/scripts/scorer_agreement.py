"""The table of differences between our scores of images and those of the published packages."""

import argparse
from pathlib import Path

from rocm_core.errors import run
from rocm_core.evaluation import write_agreement
from rocm_core.provenance import hash_inputs, record_beside, write_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--ours", type=Path, nargs="+", required=True, help="each a scores.csv")
    parser.add_argument(
        "--published", type=Path, nargs="+", required=True, help="its published.csv"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--fingerprint", default="", help="of the code, for the manifest")
    args = parser.parse_args()
    inputs = hash_inputs([*args.ours, *args.published])
    write_agreement(args.ours, args.published, args.output)
    write_manifest(
        record_beside(args.output),
        settings={},
        code=args.fingerprint,
        inputs=inputs,
        outputs=[args.output],
    )


if __name__ == "__main__":
    run(main)
