"""Keep finished trainings, images and scores over an update that changes code but no number.

`python -m rocm_core.commands.accept --configfile config/demo.yaml`, or `make accept`, records in
each manifest, and in accepted.json for the rules, who says so and for which code. Only code is ever
accepted: what was made with other settings, weights or prompts, or is damaged, is left as it is.
"""

import argparse
import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rocm_core.commands.verify import read_sets
from rocm_core.configuration import Config
from rocm_core.errors import UserError, run
from rocm_core.grid import Artefacts, load_config, made_results
from rocm_core.prompts import make_prompts, read_prompts, write_prompts
from rocm_core.provenance import (
    Accepted,
    Made,
    by_relative_path,
    check_manifest,
    hash_inputs,
    is_accepted,
    read_manifest,
    sealed,
)


def accept(
    config: Config,
    root: str | Path | None = None,
    cells: Sequence[str] = ("*",),
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Accept all artefacts that other code made and that are otherwise as configured; returns their
    manifests. `say` is told what is kept, and what is not and why. After an interruption, call it
    again: what a manifest says was accepted and accepted.json lacks is added there.

    cells: patterns of the cells and bases whose artefacts may be accepted. dry_run: only say so.
    Raises `UserError` where the present code makes other prompts: what was made from them is stale.
    """
    files = Artefacts(config, root)
    _require_same_prompts(files)
    accepted, kept = Accepted(files.layout), []
    for one in _matching(files, cells):
        manifest, problems = read_manifest(one.manifest)
        if not manifest:
            say(problems[0])
            continue
        done = is_accepted(one, manifest) and accepted.holds(one.manifest, one.code)
        if "digest" in manifest and (done or manifest["code"] == one.code):
            continue
        try:
            manifest = _bound(one, manifest)
            others = [*check_manifest(one, manifest)]
        except UserError as error:
            others = [str(error)]
        if others:
            say(f"not accepted: {others[0]}")
            continue
        say(f"{one.manifest}: {manifest['code'][:12]} → {one.code[:12]}")
        kept.append(one.manifest)
        if not dry_run:
            accepted.accept(one.manifest, manifest, one.code)
    return kept


def _bound(one: Made, manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest that names its inputs. Whoever accepts one of an older version, which does not,
    also vouches that its files were made from those that are there now."""
    if "digest" in manifest:
        return manifest
    inputs = by_relative_path(hash_inputs(one.inputs or ()), one.manifest.parent)
    return sealed(manifest | {"inputs": inputs})


def _matching(files: Artefacts, patterns: Sequence[str]) -> list[Made]:
    """The artefacts of the cells and bases that fit a pattern, and what these are made from."""
    made = [*made_results(files, read_sets(files)[0])]
    own = [one for one in made if any(fnmatch.fnmatch(one.source, p) for p in patterns)]
    read = {path for one in own for path in one.inputs or ()}
    wanted = {one.manifest for one in own}
    return [one for one in made if one.manifest in wanted or read & {*one.outputs}]


def _require_same_prompts(files: Artefacts) -> None:
    """Prompts that are there are made again and compared: they cost seconds, and all else is made
    from them."""
    with TemporaryDirectory() as folder:
        for name, settings in files.config.prompts.items():
            found = files.layout.found
            path, again = found(files.layout.prompts(name)), Path(folder, f"{name}.jsonl")
            if not path.exists():
                continue
            excluded = [p for other in files.kept_out(name) for p in read_prompts(found(other))]
            write_prompts(again, make_prompts(settings, excluded))
            if path.read_bytes() != again.read_bytes():
                raise UserError(
                    f"{path} is not what the present code makes of the configuration: nothing is"
                    " accepted, because all images are made from prompts"
                )


def main() -> None:
    """Accept the results of a configuration and print what was kept, and what not and why."""
    parser = argparse.ArgumentParser(description="Keep results that an update made stale.")
    parser.add_argument("--configfile", required=True)
    parser.add_argument(
        "--cells",
        nargs="+",
        default=["*"],
        help="patterns of cells and bases, as `make cells` prints them: by default all",
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would be accepted")
    args = parser.parse_args()
    config = load_config(args.configfile)
    kept = accept(config, cells=args.cells, dry_run=args.dry_run)
    would = "would be " if args.dry_run else ""
    print(f"{config.root}: {len(kept)} artefacts {would}accepted; `make verify` names them")
    if count := len(Artefacts(config).layout.sharded):
        print(f"{count} shards are used whatever code made them; `make verify` names its commit")


if __name__ == "__main__":
    run(main)
