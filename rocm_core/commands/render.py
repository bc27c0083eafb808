"""Render one table, one figure, the claims or the report by name, and record what it is made of."""

import time
from pathlib import Path

from rocm_core import claims, report
from rocm_core.analysis import Results
from rocm_core.configuration import Config
from rocm_core.grid import Artefacts, shown_sections
from rocm_core.plugins import load
from rocm_core.provenance import Layout, write_manifest


def render(
    kind: str,
    name: str,
    config: Config,
    results_root: str | Path,
    output_stem: str | Path,
    fingerprint: str = "",
) -> None:
    """Make a table (.md, .tex, .csv), a figure (.pdf, .png, .csv), the claims (.json, .md) or the
    report (.html), and beside them their manifest.

    `name` is that of the table or figure; the report shows the tables, and the claims and figures
    found in `results_root`. fingerprint: of the code.
    Raises `UserError` for an unknown name and for results that are missing or broken.
    """
    began = time.perf_counter()
    maker = {"claims": claims, "report": report}.get(kind) or load(f"{kind}s", name, kind)
    layout = Artefacts(config, results_root).layout
    results = Results(config, layout)
    stem = Path(output_stem)
    maker.make(results).save(stem)
    inputs = {path: sha for path, sha in results.files_read.items() if layout.holds(path)}
    write_manifest(
        stem.with_name(f"{stem.name}.manifest.json"),
        settings=shown_sections(config, kind, name),
        code=fingerprint,
        weights=results.files_read.keys() - inputs.keys(),
        inputs=inputs,
        job_seconds=time.perf_counter() - began,
        outputs=[stem.with_name(f"{stem.name}.{suffix}") for suffix in Layout.SUFFIXES[kind]],
    )
