"""Jobs side by side on one machine: a GPU each, or several processes for one training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
    return subprocess.Popen(
        [sys.executable, "-m", "rocm_core.commands.launch", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
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
    pool = {"CUDA_VISIBLE_DEVICES": "4,5,7", "TMPDIR": str(tmp_path)}
    pair, single = launch("--gpus", 2, show, 60, **pool), launch("--gpus", 1, show, 60, **pool)
    seen = [job.stdout.readline().strip().split(",") for job in (pair, single)]
    assert len(seen[0]) == 2 and {*seen[0], *seen[1]} == {"4", "5", "7"}
    late = launch("--gpus", 1, show, 0, **pool)
    with pytest.raises(subprocess.TimeoutExpired):
        late.wait(2)
    single.kill()
    assert late.communicate(timeout=60)[0].strip().split(",") == seen[1]
    pair.kill()
    for job in (pair, single):
        job.communicate()


def test_jobs_that_want_several_gpus_do_not_wait_for_each_others(show, tmp_path):
    pool = {"CUDA_VISIBLE_DEVICES": "0,1", "TMPDIR": str(tmp_path)}
    singles = [launch("--gpus", 1, show, 60, **pool) for _ in range(2)]
    assert {job.stdout.readline().strip() for job in singles} == {"0", "1"}
    pairs = [launch("--gpus", 2, show, 0, **pool) for _ in range(2)]
    for single in singles:  # one after the other, so that each pair meets one free GPU
        with pytest.raises(subprocess.TimeoutExpired):
            pairs[0].wait(3)
        single.kill()
        single.communicate()
    assert [job.communicate(timeout=60)[0].strip() for job in pairs] == ["0,1", "0,1"]


def test_more_gpus_than_the_machine_has_are_refused(show, tmp_path):
    job = launch("--gpus", 3, show, 0, CUDA_VISIBLE_DEVICES="0,1", TMPDIR=str(tmp_path))
    assert "wants 3 GPUs, but this machine has 2" in job.communicate()[1]
    assert job.returncode == 2


def test_within_slurm_the_gpus_are_those_of_the_job(show, tmp_path):
    slurm = {"SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "3", "TMPDIR": str(tmp_path)}
    jobs = [launch("--gpus", 1, show, 0, **slurm) for _ in range(2)]
    assert [job.communicate()[0].strip() for job in jobs] == ["3", "3"]


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
