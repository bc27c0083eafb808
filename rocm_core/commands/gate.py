"""Hold a finished pilot to what is published and predicted, before the grid's GPU hours are spent.

`python -m rocm_core.commands.gate --configfile config/pilot.yaml`, or `make gate`: one line per
check, then the verdict. Exits with 1 where a check fails, and with 2 where the run is unfinished.
"""

import argparse

from rocm_core.analysis import ANCHORS, Check, Results, checks, read_anchors
from rocm_core.commands.verify import verify
from rocm_core.configuration import Config
from rocm_core.errors import run
from rocm_core.grid import Artefacts, load_config


def gate(config: Config, anchors: str) -> list[Check]:
    """The checks of a configuration's results, of which the last is that they are its own."""
    made = checks(Results(config, Artefacts(config).layout), read_anchors(anchors))
    problems, _ = verify(config)
    measured = f"{problems[0]} ({len(problems)} problems)" if problems else "no problems"
    remedy = "Run Snakemake again; `make verify` lists all of them"
    return [*made, Check("results as configured", not problems, measured, "no problems", remedy)]


def main() -> int:
    """Print the checks and the verdict; returns 1 where one fails."""
    parser = argparse.ArgumentParser(description="Decide by a pilot whether to start the grid.")
    parser.add_argument("--configfile", required=True)
    parser.add_argument(
        "--anchors", default=str(ANCHORS), help="default: rocm_core/analysis/anchors.yaml"
    )
    args = parser.parse_args()
    config = load_config(args.configfile)
    made = gate(config, args.anchors)
    print(*made, sep="\n")
    failed = sum(not check.passed for check in made)
    if failed:
        print(f"verdict: FAILED, {failed} of {len(made)} checks: explain them before the grid")
    else:
        print(f"verdict: passed, {len(made)} checks: the grid is worth its GPU hours")
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
