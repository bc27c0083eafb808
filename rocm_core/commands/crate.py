"""A run as a Workflow Run RO-Crate: what was made, by which workflow, from what, with sha256.

`python -m rocm_core.commands.crate --configfile config/demo.yaml` describes results/<name>/ in its
`ro-crate-metadata.json`, from the manifests that are there; `make crate` validates it too. Profile:
Workflow Run Crate 0.5 (https://w3id.org/ro/wfrun/workflow/0.5).
"""

import argparse
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rocm_core import __version__
from rocm_core.errors import UserError, run
from rocm_core.grid import load_config
from rocm_core.plugins import ROOT
from rocm_core.provenance import package_versions, read_manifest, sha256_file

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
TERMS = "https://w3id.org/ro/terms/workflow-run/context"  # where sha256 is defined
CODE = "code"  # where the crate has a copy of the workflow and the configuration
# Folders whose manifests are of no job of the run: copies, and what `make preflight` tries.
OTHERS = {CODE, "publish", "preflight"}


def write_crate(configfile: str | Path, root: str | Path | None = None) -> Path:
    """Describe the results of a configuration; returns the metadata file.

    Raises `UserError` where nothing was made yet, and for a manifest that cannot be read.
    """
    from rocrate.model.contextentity import ContextEntity
    from rocrate.rocrate import ROCrate

    config = load_config(configfile)
    root = Path(root or config.root)
    manifests = [
        file
        for file in sorted(root.rglob("*manifest.json"))
        if file.relative_to(root).parts[0] not in OTHERS
    ]
    if not manifests:
        raise UserError(f"{root} holds no manifests yet: run the workflow first")
    crate = ROCrate(version="1.1")  # on which the profiles are based
    crate.metadata.extra_contexts.append(TERMS)
    crate.name = f"{config.name}: a reproduction of ROCM, RLHF on consistency models"
    crate.description = f"What a run of {Path(configfile).name} made, as its manifests record it."
    crate.license = "https://spdx.org/licenses/Apache-2.0"
    for profile, (name, version) in PROFILES.items():
        known = {"@type": "CreativeWork", "name": name, "version": version}
        crate.root_dataset.append_to("conformsTo", crate.add(ContextEntity(crate, profile, known)))
    copied = _copy_code(root, Path(configfile))
    workflow = crate.add_workflow(
        dest_path=f"{CODE}/Snakefile", main=True, lang="snakemake", properties=_about_workflow()
    )
    given = crate.add_file(dest_path=copied, properties=_file(root / copied))
    made = [
        crate.add_file(dest_path=file.relative_to(root).as_posix(), properties=_file(file))
        for file in _outputs(manifests)
    ]
    times = [datetime.fromtimestamp(m.stat().st_mtime, UTC) for m in manifests]
    action = {"@type": "CreateAction", "name": f"A run of {config.name}"}
    action |= {"startTime": min(times).isoformat(), "endTime": max(times).isoformat()}
    done = crate.add(ContextEntity(crate, "#run", action))
    done["instrument"], done["object"], done["result"] = workflow, [given], made
    crate.root_dataset["mentions"] = [done]
    crate.metadata.write(root)
    return root / "ro-crate-metadata.json"


def _copy_code(root: Path, configfile: Path) -> str:
    """Copy the rules and the configuration into the crate; returns the configuration's place."""
    code = root / CODE
    shutil.rmtree(code, ignore_errors=True)
    shutil.copytree(ROOT / "workflow", code / "workflow", ignore=shutil.ignore_patterns("__py*"))
    for file in (ROOT / "Snakefile", configfile):
        shutil.copy(file, code / file.name)
    return f"{CODE}/{configfile.name}"


def _about_workflow() -> dict[str, Any]:
    packages = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    return {"name": "rocm-core", "version": __version__, "softwareRequirements": packages}


def _file(path: Path) -> dict[str, Any]:
    return {"name": path.name, "sha256": sha256_file(path), "contentSize": path.stat().st_size}


def _outputs(manifests: list[Path]) -> list[Path]:
    """The manifests and the files that they list; images stand in the index beside them."""
    files = dict.fromkeys(manifests)
    for manifest in manifests:
        content, problems = read_manifest(manifest)
        if problems:
            raise UserError(f"{problems[0]}: make its files again, or remove it")
        named = (name for name in content["outputs"] if not name.endswith(".png"))
        files |= dict.fromkeys(manifest.parent / name for name in named)
    return [file for file in files if file.is_file()]


def main() -> None:
    """Write it and print where it is."""
    parser = argparse.ArgumentParser(description="Describe a run as a Workflow Run RO-Crate.")
    parser.add_argument("--configfile", required=True)
    print(write_crate(parser.parse_args().configfile).parent)


if __name__ == "__main__":
    run(main)
