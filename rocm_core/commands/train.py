"""Train one cell of a configuration, without Snakemake.

`rocm-core train --configfile config/demo.yaml --cell hpsv2/rocm-kl/seed-0 --output trained`; the
same call resumes a run that was interrupted, unless its code, weights or settings have changed.
"""

import argparse
from pathlib import Path

from rocm_core.errors import UserError, run
from rocm_core.grid import (
    Artefacts,
    load_config,
    make_grid,
    searched,
    standardised,
    training_code,
)
from rocm_core.jobs import Progress
from rocm_core.plugins import did_you_mean
from rocm_core.prompts import make_prompts
from rocm_core.provenance import digest_of
from rocm_core.weights import digest_of_all


def main() -> None:
    """Train it."""
    parser = argparse.ArgumentParser(description="Train one cell of a configuration.")
    parser.add_argument("--configfile", required=True)
    parser.add_argument("--cell", required=True, help="as `rocm-core cells` lists it")
    parser.add_argument("--output", type=Path, required=True, help="folder of what it leaves")
    args = parser.parse_args()
    config = load_config(args.configfile)
    cells = {cell.name: cell for cell in make_grid(config)}
    if args.cell not in cells:
        hint = did_you_mean(args.cell, cells)
        raise UserError(f"--cell: {args.cell!r} is not a cell of {args.configfile}{hint}")
    from rocm_core.training import train

    settings = cells[args.cell].settings
    if searched(settings) or standardised(settings):
        raise UserError(
            f"--cell: {args.cell} needs what a search chooses, or how the base scores: train it by"
            f" `snakemake {Artefacts(config).layout.live.cell(args.cell).lora}`"
        )
    train(
        settings,
        make_prompts(config.prompts[settings.prompts]),
        args.output,
        fingerprint=digest_of(
            {"code": training_code(settings), "weights": digest_of_all(*settings.weights)}
        ),
        progress=Progress(config.progress, Path(f"{args.output}.run"), args.cell, config.name),
    )


if __name__ == "__main__":
    run(main)
