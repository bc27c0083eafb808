"""`snakemake --profile slurm all` on a real Slurm: three nodes, two of them with one GPU each."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import GPUS, Cluster
from workplace import CELL, DEMO, LORA, Site, copy_site, learned, train_here

from rocm_core.grid import load_config, make_grid

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def grid(
    cluster: Cluster,
    prepared: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """The demo's grid with fewer steps and images, run to its end, from prompts to report."""
    path = tmp_path_factory.mktemp("grid") / "checkout"
    copy_site(prepared, path)
    site = Site(path, cluster, DEMO)
    try:
        site.finish(site.snakemake("all", "--forceall"))
        yield site
    finally:
        site.close()


def submitted(log: str) -> list[set[str]]:
    """The rules of every Slurm job, as Snakemake names the jobs' logs."""
    logs = re.findall(r"submitted with SLURM jobid \d+ \(log: .*/slurm_logs/(\S+)/\d+\.log\)", log)
    assert logs
    known = ("make_prompts", "train_cell", "evaluate_images", "evaluate_snapshots", "group_render")
    return [{rule for rule in known if rule in name} for name in logs]


def test_the_grid_is_complete_and_learned_what_it_learns_elsewhere(
    grid: Site, tmp_path: Path
) -> None:
    verify = [sys.executable, "-m", "rocm_core.commands.verify", "--configfile", grid.config]
    done = subprocess.run(verify, cwd=grid.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (grid.results / "report.html").exists()
    assert learned(grid.results / "cells" / CELL) == train_here(grid.path, grid.config, tmp_path)
    assert not list(grid.results.glob(".state/**/*.state"))


def test_every_node_worked_and_no_gpu_had_two_jobs_at_once(grid: Site) -> None:
    jobs = grid.cluster.history(grid.path)
    assert {job.node for job in jobs} == set(GPUS)
    assert {job.state for job in jobs} == {"COMPLETED"}
    config = load_config(grid.path / grid.config)
    cells = len(make_grid(config))
    # Trainings; images and scores, the base's too; snapshots.
    assert sum(job.gpus for job in jobs) == 2 * cells + 1 + bool(config.snapshots.prompts) * cells
    for job in jobs:
        assert job.gpus <= GPUS[job.node]
        others = [o for o in jobs if o.gpus and o.start < job.end and job.start < o.end]
        assert not job.gpus or [o.number for o in others if o.node == job.node] == [job.number]
    starts = sorted(job.start for job in jobs if job.gpus)
    at_once = [sum(j.gpus for j in jobs if j.start <= t < j.end) for t in starts]
    assert max(at_once) == sum(GPUS.values())  # all were in use, and the third job waited


def test_what_the_site_lacks_is_said_once_and_not_for_every_job(grid: Site) -> None:
    """This one has no accounts, by which the executor asks first."""
    said = (grid.path / "snakemake.log").read_text()
    assert len(submitted(said)) > 5
    assert said.count("No SLURM account given") == said.count("proceed without") == 1


def test_forcing_one_cell_submits_it_and_its_descendants_only(grid: Site) -> None:
    log = grid.path / "snakemake.log"
    before, manifest = len(log.read_text()), grid.manifest()
    first = learned(grid.results / "cells" / CELL)
    others = {
        path: path.stat().st_mtime_ns
        for name in ("cells", "samples", "prompts")
        for path in (grid.results / name).rglob("*")
        if path.is_file() and CELL not in str(path)
    }
    lora = grid.results.relative_to(grid.path) / LORA
    grid.finish(grid.snakemake("all", "-R", str(lora)))
    jobs = [{"train_cell"}, {"evaluate_images"}, {"group_render"}]
    if (grid.results / "samples" / CELL / "snapshots").exists():
        jobs.append({"evaluate_snapshots"})
    found = submitted(log.read_text()[before:])
    assert sorted(map(sorted, found)) == sorted(map(sorted, jobs))
    assert {path: path.stat().st_mtime_ns for path in others} == others
    again = grid.manifest()
    assert learned(grid.results / "cells" / CELL) == first
    assert (
        again["resumed_after"] == [0] and again["job_seconds"] != manifest["job_seconds"]
    )  # trained
