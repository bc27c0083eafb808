"""Copy what readers look at of a finished run: its report, claims, tables and figures."""

import argparse
import shutil
from pathlib import Path

from rocm_core.analysis import Results
from rocm_core.errors import UserError, run
from rocm_core.grid import load_config, offered
from rocm_core.report import make


def publish(results: Results, folder: Path) -> None:
    """Write a run's pages into a folder; the report there links to no trainings, which are not.

    Raises `UserError` where something of the run is missing.
    """
    layout = results.layout
    drawn = [(k, n) for k in ("table", "figure") for n in offered(f"{k}s", results.config)]
    files = [
        file for kind, name in [("claims", ""), *drawn] for file in layout.rendered(kind, name)
    ]
    for file in files:
        if not file.exists():
            raise UserError(f"{file} does not exist: run `snakemake report` first")
    page = make(results, with_trainings=False)
    for file in files:
        target = folder / file.relative_to(layout.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    page.save(folder / "report")


def main() -> None:
    """Publish the results of a configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", required=True)
    parser.add_argument(
        "--to", required=True, type=Path, help="the folder, such as docs/results/shapes"
    )
    arguments = parser.parse_args()
    config = load_config(arguments.configfile)
    publish(Results(config, config.root), arguments.to)
    print(f"{arguments.to}/report.html")


if __name__ == "__main__":
    run(main)
