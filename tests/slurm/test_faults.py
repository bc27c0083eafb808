"""Whatever happens to a training on the cluster, it ends as if nothing had happened.

Each test compares with an undisturbed run, byte by byte, and with where each attempt began:
`resumed_after: [0, 10]` is one interruption after step 10, and no step before it done twice.
"""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from cluster import SECONDS, Cluster
from workplace import CELL, ITERATIONS, MINUTES, SNAPSHOT, Site, learned

Undisturbed = dict[str, bytes]


def check(site: Site, undisturbed: Undisturbed, resumed: bool = True) -> None:
    """The results are right, and no attempt but the first began at the start."""
    assert learned(site.results / "cells" / CELL) == undisturbed
    manifest = site.manifest()
    starts = manifest["resumed_after"]
    assert manifest["attempts"] == len(starts) and starts[0] == 0
    if resumed:
        assert len(starts) > 1 and all(start and start >= SNAPSHOT for start in starts[1:])
    else:
        assert starts == [0]


@pytest.mark.faults
def test_a_cancelled_job_is_submitted_again_and_goes_on(
    site: Site, undisturbed: Undisturbed
) -> None:
    run = site.train()
    with site.paused_training() as job:
        live = (site.results / "runs" / CELL / "history.csv").read_text().splitlines()
        assert len(live) > SNAPSHOT  # rows of steps under the names
        site.cluster.run("scancel", str(job))
    site.finish(run)
    check(site, undisturbed)
    assert site.cluster.state(job) in ("CANCELLED", "FAILED")


@pytest.mark.faults
def test_a_snakemake_that_was_killed_is_started_again_while_its_job_runs(
    site: Site, undisturbed: Undisturbed
) -> None:
    run = site.train()
    with site.paused_training() as first:
        run.kill()
        run.wait()
        site.unlock()
        run = site.train()
        site.wait(lambda: "waiting for process" in site.log())
        assert site.cluster.jobs("RUNNING")[0] == first != site.cluster.jobs("RUNNING")[1]
    site.finish(run)
    check(site, undisturbed)
    assert site.manifest()["resumed_after"] == [0, ITERATIONS]


@pytest.mark.faults
def test_a_job_that_ended_while_no_snakemake_ran_is_not_trained_again(
    site: Site, undisturbed: Undisturbed
) -> None:
    run = site.train()
    with site.paused_training():
        run.kill()
        run.wait()
    site.cluster.wait(lambda: not site.cluster.jobs(), MINUTES * 60)
    site.unlock()
    site.finish(site.train())
    check(site, undisturbed, resumed=False)


@pytest.mark.faults
def test_cancelled_leftovers_of_a_killed_snakemake_go_on(
    site: Site, undisturbed: Undisturbed
) -> None:
    run = site.train()
    with site.paused_training():
        run.kill()
        run.wait()
        subprocess.run(["make", "cancel"], cwd=site.path, env=site.cluster.environment, check=True)
    site.cluster.wait(lambda: not site.cluster.jobs(), MINUTES * 60)
    site.unlock()
    site.finish(site.train())
    check(site, undisturbed)


@pytest.mark.faults
def test_a_requeued_job_goes_on(site: Site, undisturbed: Undisturbed) -> None:
    run = site.train()
    with site.paused_training() as job:
        site.cluster.run("scontrol", "requeue", str(job))
    site.cluster.start_now(job)
    site.finish(run)
    check(site, undisturbed)
    assert site.cluster.jobs("COMPLETED")[-1] == job  # the same job, started twice


@pytest.mark.faults
def test_a_preempted_job_goes_on(site: Site, undisturbed: Undisturbed) -> None:
    run = site.train()
    with site.paused_training() as job:
        node = site.cluster.node(job)
        urgent = ["sbatch", "--parsable", "--partition=urgent", "--gpus=1", f"--nodelist={node}"]
        other = int(site.cluster.run(*urgent, f"--chdir={site.path}", "--wrap", "sleep 1"))
        site.cluster.wait(lambda: site.cluster.state(job) != "RUNNING", SECONDS)
    site.cluster.wait(lambda: site.cluster.state(other) == "COMPLETED", SECONDS)
    site.cluster.wait(lambda: site.cluster.state(job) in ("PENDING", "FAILED"), SECONDS)
    # One that saves and leaves within its grace has failed, and Snakemake submits another; one that
    # is too slow for that is killed and put back into the queue.
    if site.cluster.state(job) == "PENDING":
        site.cluster.start_now(job)
    site.finish(run)
    check(site, undisturbed)


@pytest.mark.faults
@pytest.mark.parametrize("with_jobs", [True, False], ids=["dead", "cut off"])
def test_a_lost_node_costs_nothing_that_was_saved(
    site: Site, undisturbed: Undisturbed, with_jobs: bool
) -> None:
    """Cut off, the node's training lives, and the job started anew must not train beside it."""
    run = site.train()
    with site.paused_training() as job:
        node = site.cluster.node(job)
        site.cluster.kill_node(node, job if with_jobs else None)
        site.cluster.start_now(job)
        site.cluster.wait(lambda: site.cluster.state(job) == "RUNNING", SECONDS)
        assert site.cluster.node(job) != node
        if not with_jobs:
            site.wait(lambda: "waiting for process" in site.log())
    site.finish(run)
    check(site, undisturbed)
    assert site.manifest()["resumed_after"] == [0, SNAPSHOT if with_jobs else ITERATIONS]


@pytest.mark.faults
def test_before_the_time_limit_a_job_saves_and_another_goes_on(
    site: Site, undisturbed: Undisturbed
) -> None:
    run = site.train()
    with site.paused_training() as job:
        # The profile's signal comes two minutes before the end: within a minute from now.
        minutes = _minutes_run(site.cluster, job) + 2
        site.cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
        trainer = site.owner()["pid"]
        site.cluster.wait(lambda: _was_told_to_leave(trainer), SECONDS)
    site.finish(run)
    check(site, undisturbed)
    assert site.cluster.state(job) == "FAILED"  # it left by itself, before its time was up


def _minutes_run(cluster: Cluster, job: int) -> int:
    days, hours, minutes, seconds = re.fullmatch(
        r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", cluster.run("squeue", "-hj", str(job), "-o%M").strip()
    ).groups()
    return int(days or 0) * 1440 + int(hours or 0) * 60 + int(minutes) + (int(seconds) > 0)


def _was_told_to_leave(process: int) -> bool:
    """SIGTERM waits for it, or it has left: some versions of Slurm wake what they end."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    pending = int(re.search(r"ShdPnd:\s*(\w+)", status)[1], 16)
    return bool(pending >> (signal.SIGTERM - 1) & 1)


@pytest.mark.faults
@pytest.mark.parametrize("silenced", [True, False], ids=["sacct silenced", "lost sight"])
def test_a_restart_of_the_controller_costs_nothing(
    site: Site, undisturbed: Undisturbed, tmp_path: Path, silenced: bool
) -> None:
    """Without an answer to its first question, Snakemake asks sacct until the end of its patience.

    That fails where there is no accounting, and it never asks squeue again. A sacct that answers
    with no job at all, as docs/cluster.md suggests there, leads it back to squeue.
    """
    paths = {"PATH": site.cluster.environment["PATH"]}
    if silenced:
        (tmp_path / "sacct").write_text("#!/bin/sh\n")
        (tmp_path / "sacct").chmod(0o755)
        paths["PATH"] = f"{tmp_path}{os.pathsep}{paths['PATH']}"
    run = site.train(**paths)
    with site.paused_training():
        site.cluster.stop_controller()
        site.wait(lambda: "Falling back to 'sacct' for status queries" in site.said())
        site.cluster.start_controller()
    if not silenced:
        site.cluster.wait(lambda: not site.cluster.jobs(), MINUTES * 60)
        with pytest.raises(subprocess.TimeoutExpired):
            run.wait(10)
        run.kill()
        run.wait()
        site.unlock()
        run = site.train()
    site.finish(run)
    check(site, undisturbed, resumed=False)


@pytest.mark.faults
def test_two_schedulers_in_one_folder_train_a_cell_once(
    site: Site, undisturbed: Undisturbed
) -> None:
    run = site.train()
    with site.paused_training() as first:
        refused = site.train()
        assert refused.wait(120) != 0
        assert "cannot be locked" in site.said()
        forced = site.train("--nolock")
        site.wait(lambda: "waiting for process" in site.log())
        assert site.cluster.jobs("RUNNING")[0] == first != site.cluster.jobs("RUNNING")[1]
    site.finish(run)
    site.finish(forced)
    check(site, undisturbed)
