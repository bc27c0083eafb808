"""Generate, score and measure the images of one model, in one process that imports everything once.

Each of the three scripts beside this one leaves as it is what it would make again.
"""

import argparse
import runpy
from pathlib import Path

from rocm_core.errors import run
from rocm_core.jobs import keep, restore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--arguments", required=True, help="files of each script's: this name and .<script>"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of images and numbers")
    args = parser.parse_args()
    folder = f"--output={args.output}"
    scores, readouts = args.output / "scores.csv", args.output / "readouts.csv"
    images = [args.output / "index.jsonl", args.output / "manifest.json"]
    parts = {
        "generate": (images, [folder]),
        "score": ([scores], [f"--samples={args.output}", f"--output={scores}"]),
        "measure": ([readouts], [f"--samples={args.output}", f"--output={readouts}"]),
    }
    for script, (files, options) in parts.items():
        restore(files)
        path = Path(__file__).with_name(f"{script}.py")
        runpy.run_path(str(path))["main"]([f"@{args.arguments}.{script}", *options])
        keep(files)
        for file in files:  # one that was kept is as new as its inputs, to Snakemake
            file.touch()


if __name__ == "__main__":
    run(main)
