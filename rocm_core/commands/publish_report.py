"""Copy what readers look at of a finished run: its report, claims, tables and figures."""

import argparse
import shutil
from pathlib import Path

from rocm_core.analysis import Results
from rocm_core.commands.shards import digest, moved, write
from rocm_core.errors import UserError, run
from rocm_core.grid import Artefacts, load_config, offered, render_code, shown_sections
from rocm_core.provenance import record_beside, write_manifest
from rocm_core.report import make


def publish(results: Results, folder: Path, files: Artefacts | None = None) -> None:
    """Write a run's pages into a folder; the report there links to no trainings, which are not.

    files: those of the run where the folder is that of its shards. The pages then come with their
    manifests, so that `verify` follows them to the shards. Raises `UserError` where something of
    the run is missing.
    """
    layout, config = results.layout, results.config
    drawn = [(k, n) for k in ("table", "figure") for n in offered(f"{k}s", config, layout)]
    pages = [layout.rendered(kind, name) for kind, name in [("claims", ""), *drawn]]
    pages += [[layout.scorer_agreement]] if files and layout.scorer_agreement.exists() else []
    records = [record_beside(files_of[0]) for files_of in pages] if files else []
    for file in [*records, *(file for files_of in pages for file in files_of)]:
        if not file.exists():
            raise UserError(f"{file} does not exist: run `snakemake report` first")
    page = make(results, with_trainings=False)
    for file in (file for files_of in pages for file in files_of):
        target = folder / file.relative_to(layout.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    page.save(folder / "report")
    if files:
        for record in records:
            write(folder / record.relative_to(layout.root), moved(files, record))
        read = {path: sha for path, sha in results.files_read.items() if layout.holds(path)}
        write_manifest(
            folder / "report.manifest.json",
            settings=shown_sections(config, "report", "report"),
            code=render_code("report", "report", config),
            weights=results.files_read.keys() - read.keys(),
            inputs={folder / layout.within(p): digest(files, p, sha) for p, sha in read.items()},
            outputs=[folder / "report.html"],
        )


def main() -> None:
    """Publish the results of a configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", required=True)
    parser.add_argument("--to", type=Path, help="the folder; by default that of the shards")
    arguments = parser.parse_args()
    config = load_config(arguments.configfile)
    files = Artefacts(config)
    folder = arguments.to or files.shards
    if folder is None:
        raise UserError("name a folder with --to, or `shards` in the configuration")
    is_shards = files.shards is not None and folder.resolve() == files.shards.resolve()
    publish(Results(config, files.layout), folder, files if is_shards else None)
    print(f"{folder}/report.html")


if __name__ == "__main__":
    run(main)
