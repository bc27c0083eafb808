"""Jobs side by side on one machine: a GPU each, or several processes for one training."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EIGHT = "a,b,c,d,e,f,g,h"
SETTINGS = {
    "reward": "aesthetic",
    "scorer": "resources/shapes/scorers/aesthetic",
    "policy": "consistency",
    "chain": "lcm",
    "model": "resources/shapes/consistency",
    "inference_steps": 2,
    "guidance_scale": 3.0,
    "algorithm": "direct",
    "divergence": "kl",
    "beta": 0.02,
    "learning_rate": 1e-3,
    "batch_size": 1,
    "iterations": 12,
    "lora_targets": ["to_q", "to_v"],
    "snapshot_every": 2,
    "seed": 0,
}


def launch(*arguments, **environment):
    """Start a job. FAKE_GPUS: names of the GPUs that its launcher finds; None unsets a variable."""
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests/fake_gpus'}"
    variables = os.environ | {"PYTHONPATH": path} | environment
    return subprocess.Popen(
        [sys.executable, "-m", "rocm_core.commands.launch", *map(str, arguments)],
        cwd=ROOT,
        env={name: value for name, value in variables.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def show(tmp_path):
    """A job that says which GPUs it sees, and ends when its standard input does."""
    script = tmp_path / "show.py"
    script.write_text(
        "import os, sys, time\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
        "time.sleep(float(sys.argv[1]))\n"
    )
    return script


def test_jobs_side_by_side_see_different_gpus_and_the_next_one_waits(show, tmp_path):
    pool = {"FAKE_GPUS": EIGHT, "CUDA_VISIBLE_DEVICES": "4,5,7", "TMPDIR": str(tmp_path)}
    pair, single = launch("--gpus", 2, show, 60, **pool), launch("--gpus", 1, show, 60, **pool)
    seen = [job.stdout.readline().strip().split(",") for job in (pair, single)]
    assert len(seen[0]) == 2 and {*seen[0], *seen[1]} == {"4", "5", "7"}
    late = launch("--gpus", 1, show, 0, "--output", "late", **pool)
    waits = late.stderr.readline()
    assert waits.startswith("waiting for a GPU: 4 of process ")
    assert f"{seen[1][0]} of process {single.pid} ({show})" in waits
    with pytest.raises(subprocess.TimeoutExpired):
        late.wait(3)
    single.kill()
    output, errors = late.communicate(timeout=60)
    assert output.strip().split(",") == seen[1] and errors == ""
    claims = [file.read_text() for file in tmp_path.glob("rocm-gpus-*/*")]
    assert f"process {late.pid} ({show}, for late)" in claims
    pair.kill()
    for job in (pair, single):
        job.communicate()


def test_jobs_that_want_several_gpus_do_not_wait_for_each_others(show, tmp_path):
    pool = {"FAKE_GPUS": "a,b", "CUDA_VISIBLE_DEVICES": "0,1", "TMPDIR": str(tmp_path)}
    singles = [launch("--gpus", 1, show, 60, **pool) for _ in range(2)]
    assert {job.stdout.readline().strip() for job in singles} == {"0", "1"}
    pairs = [launch("--gpus", 2, show, 0, **pool) for _ in range(2)]
    for single in singles:  # one after the other, so that each pair meets one free GPU
        with pytest.raises(subprocess.TimeoutExpired):
            pairs[0].wait(3)
        single.kill()
        single.communicate()
    assert [job.communicate(timeout=60)[0].strip() for job in pairs] == ["0,1", "0,1"]


@pytest.mark.parametrize(
    ("gpus", "there", "visible", "found"),
    [
        (1, None, "0", 0),  # the node's driver is down
        (1, None, None, 0),
        (1, "a", "", 0),
        (1, "a", "NoDevFiles", 0),  # as Slurm has it for a job without GPUs
        (1, "a", "2", 0),  # the container's one device has another number outside
        (3, "a,b", "0,1", 2),
        (3, "a,b", None, 2),
        (2, "MIG-a,MIG-b", "MIG-a,MIG-b", 1),
        (1, "MIG-a", "MIG-c", 0),
    ],
)
def test_gpus_that_are_not_there_are_refused_in_one_sentence(
    show, tmp_path, gpus, there, visible, found
):
    job = launch(
        *("--gpus", gpus, "--processes", gpus, show, 0),
        **{"CUDA_VISIBLE_DEVICES": visible, "FAKE_GPUS": there, "TMPDIR": str(tmp_path)},
    )
    output, errors = job.communicate(timeout=60)
    assert (job.returncode, output, errors.count("\n")) == (2, "", 1), errors
    assert errors.startswith(f"error: resources.gpus asks for {gpus} GPU")
    assert f"torch can use {found} on {socket.gethostname()} with " in errors


def test_a_job_that_asks_for_no_gpu_takes_what_is_there(show):
    job = launch(show, 0, CUDA_VISIBLE_DEVICES="0")
    assert job.communicate(timeout=60) == ("0\n", "")


@pytest.mark.parametrize(
    ("pool", "seen"),
    [
        ({"FAKE_GPUS": EIGHT, "CUDA_VISIBLE_DEVICES": None}, {"0", "1"}),
        # A container with one of the machine's GPUs, which it numbers from 0.
        ({"FAKE_GPUS": "GPU-a,GPU-b", "CUDA_VISIBLE_DEVICES": "1,0"}, {"1", "0"}),
        ({"FAKE_GPUS": "GPU-a,GPU-b", "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a"}, {"GPU-a", "GPU-b"}),
        ({"FAKE_GPUS": "MIG-a,MIG-b", "CUDA_VISIBLE_DEVICES": "MIG-b,MIG-a"}, {"MIG-a", "MIG-b"}),
        (
            {"FAKE_GPUS": "MIG-GPU-a/7/0,MIG-GPU-a/8/0"}
            | {"CUDA_VISIBLE_DEVICES": "MIG-GPU-a/7/0,MIG-GPU-a/8/0"},
            {"MIG-GPU-a/7/0", "MIG-GPU-a/8/0"},
        ),
        # One allocation of Slurm, in which `snakemake --profile local` starts jobs.
        ({"FAKE_GPUS": "a,b", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_ID": "7"}, {"0", "1"}),
    ],
)
def test_every_job_has_a_gpu_by_the_name_that_it_came_with(show, tmp_path, pool, seen):
    jobs = [launch("--gpus", 1, show, 60, **pool, TMPDIR=str(tmp_path)) for _ in range(2)]
    assert {job.stdout.readline().strip() for job in jobs} == seen
    for job in jobs:
        job.kill()
        job.communicate()


def test_jobs_with_allocations_of_their_own_do_not_wait_for_each_other(show, tmp_path):
    """Where Slurm hides the others' devices, each of its jobs sees a GPU 0."""
    pool = {"CUDA_VISIBLE_DEVICES": "0", "TMPDIR": str(tmp_path)}
    first = launch("--gpus", 1, show, 60, **pool, FAKE_GPUS="a", SLURM_JOB_ID="1")
    assert first.stdout.readline() == "0\n"
    for fake in ("b", "a"):  # one that Slurm shares, too
        job = launch("--gpus", 1, show, 0, **pool, FAKE_GPUS=fake, SLURM_JOB_ID="2")
        assert job.communicate(timeout=60) == ("0\n", "")
    assert {f.name for f in tmp_path.glob("rocm-gpus-*/*")} == {"1@a", "2@a", "2@b"}
    requeued = {"SLURM_JOB_ID": "1", "SLURMD_NODENAME": "another"}  # while the first hangs on
    job = launch("--gpus", 1, show, 0, **pool, FAKE_GPUS="a", **requeued)
    assert job.communicate(timeout=60)[0].strip()
    first.kill()
    first.communicate()
    later = launch("--gpus", 1, show, 0, **pool, FAKE_GPUS="a", SLURM_JOB_ID="3")
    assert later.communicate(timeout=60) == ("0\n", "")
    assert {f.name for f in tmp_path.glob("rocm-gpus-*/*")} == {"3@a"}


def test_one_gpu_with_two_numbers_has_one_job_at_a_time(show, tmp_path):
    """Two containers on one machine, which share its temporary files."""
    outer = {"FAKE_GPUS": "a,b,c", "CUDA_VISIBLE_DEVICES": "2", "TMPDIR": str(tmp_path)}
    inner = {"FAKE_GPUS": "c", "CUDA_VISIBLE_DEVICES": None, "TMPDIR": str(tmp_path)}
    first = launch("--gpus", 1, show, 60, **outer)
    assert first.stdout.readline() == "2\n"
    second = launch("--gpus", 1, show, 0, **inner)
    assert f"waiting for a GPU: 0 of process {first.pid} " in second.stderr.readline()
    first.kill()
    first.communicate()
    assert second.communicate(timeout=60)[0] == "0\n"


def test_what_started_the_launcher_does_not_decide_how_many_processes_a_job_has(tmp_path):
    script = tmp_path / "show.py"
    script.write_text("from accelerate import Accelerator\nprint(Accelerator().num_processes)\n")
    ranks = {"RANK": "x", "LOCAL_RANK": "x", "WORLD_SIZE": "4", "MASTER_PORT": "x", "PMI_SIZE": "2"}
    job = launch(script, **ranks, PET_NNODES="x", ACCELERATE_USE_CPU="true")
    assert job.communicate(timeout=60) == ("1\n", "")


@pytest.fixture
def train(tmp_path):
    """Start a training of two processes on the CPU, in the folder of the given name."""
    prompts = tmp_path / "prompts.jsonl"
    texts = ["a red circle", "a blue square", "a green ring"]
    rows = [{"id": str(i), "text": text, "source": "test"} for i, text in enumerate(texts)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def train(name, *arguments):
        folder = tmp_path / name
        return launch(
            *("--processes", 2, "workflow/scripts/train.py", "--settings", json.dumps(SETTINGS)),
            *("--prompts", prompts, "--output", folder / "cell", "--state", folder / "state"),
            *("--fingerprint", "f00d", *arguments),
            ACCELERATE_USE_CPU="true",
        )

    return train


def finish(job):
    output, errors = job.communicate(timeout=600)
    assert job.returncode == 0, output + errors


def lora(folder):
    return (folder / "cell/lora.safetensors").read_bytes()


@pytest.mark.faults
def test_two_processes_resume_exactly_when_told_to_leave_and_when_one_is_killed(train, tmp_path):
    whole = train("whole")
    finish(whole)
    manifest = json.loads((tmp_path / "whole/cell/manifest.json").read_text())
    assert manifest["processes"] == 2 and manifest["reward_queries"] == 24

    left = train("left", "--stop-after", 5)
    left.communicate(timeout=600)
    assert left.returncode != 0
    told = train("left")
    _wait_for_step(tmp_path / "left", 6)
    told.send_signal(signal.SIGTERM)
    told.communicate(timeout=600)
    finish(train("left"))
    assert lora(tmp_path / "left") == lora(tmp_path / "whole")

    killed = train("killed")
    _wait_for_step(tmp_path / "killed", 4)
    os.kill(_processes_of(killed)[-1], signal.SIGKILL)
    killed.communicate(timeout=600)
    assert killed.returncode != 0 and not _processes_of(killed)
    finish(train("killed"))
    assert lora(tmp_path / "killed") == lora(tmp_path / "whole")
    starts = json.loads((tmp_path / "killed/cell/manifest.json").read_text())["resumed_after"]
    assert starts[0] == 0 and starts[1] >= 4


def _wait_for_step(folder, step):
    deadline = time.monotonic() + 600
    while not list(folder.glob(f"state/step-{step:09d}.state")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _processes_of(job):
    """The training processes, which know the rank that they have, in its order."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [v.removeprefix(b"RANK=") for v in variables if v.startswith(b"RANK=")]
        if parent == job.pid and ranks:
            found[int(ranks[0])] = int(folder.name)
    return [found[rank] for rank in sorted(found)]
