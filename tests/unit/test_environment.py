"""Environment variables that say something odd, and folders among everybody's temporary files."""

import os
import subprocess
import sys
import time

import pytest
import tiny
import torch
from accelerate import Accelerator
from checkout import ROOT, Checkout

import rocm_core.training.trainer
from rocm_core.errors import UserError
from rocm_core.jobs import (
    StopRequest,
    private_folder,
    require_gpus,
    require_workplace,
    whole_number,
)
from rocm_core.training import Trainer, train
from rocm_core.training.memory import memory_of


@pytest.mark.parametrize(
    ("text", "number"),
    [("4", 4), (" 4 ", 4), ("4,2", 4), ("4, 2", 4), ("", None)]
    + [(text, None) for text in ("0", "-1", "four", "4.5", "4 2", ",4", "1e3", "²", "9" * 5000)],
)
def test_a_number_in_the_environment_is_read_or_named_and_ignored(
    text, number, monkeypatch, capsys
):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert whole_number("OMP_NUM_THREADS") == number
    errors = capsys.readouterr().err
    assert errors.count("\n") == bool(text and number is None)
    if errors:
        assert errors.startswith(f"OMP_NUM_THREADS is {text!r}")


@pytest.mark.parametrize(
    ("name", "text", "threads"),
    [("OMP_NUM_THREADS", "2,1", 2), ("OMP_NUM_THREADS", str(2**31), 1)]
    + [("SLURM_CPUS_PER_TASK", "2", 2), ("SLURM_CPUS_PER_TASK", "all", 1)],
)
def test_threads_of_a_training_are_what_the_environment_says_if_it_says_something(
    name, text, threads, model, reward, monkeypatch, tmp_path
):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv(name, text)
    before = torch.get_num_threads()
    used = []
    score = reward.score
    reward.score = lambda *a: used.append(torch.get_num_threads()) or score(*a)
    settings = tiny.settings(model=model, iterations=1)
    try:
        train(settings, tiny.PROMPTS, tmp_path / "cell", tmp_path / "state", "f00d")
    finally:
        torch.set_num_threads(before)
    assert set(used) == {threads if threads > 1 else before}


def test_a_rank_that_is_no_number_is_refused_in_one_sentence(model, reward, tmp_path, monkeypatch):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("LOCAL_RANK", "first")
    settings = tiny.settings(model=model)
    with pytest.raises(UserError, match="'first'.*LOCAL_RANK"):
        train(settings, tiny.PROMPTS, tmp_path / "cell", tmp_path / "state", "f00d")
    AcceleratorState._reset_state(reset_partial_state=True)  # it stopped half-way


@pytest.mark.parametrize("end", ["soon", "0", "1700000000", "-5", "nan"])
def test_an_end_of_the_job_that_is_none_stops_nothing(end, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_END_TIME", end)
    with StopRequest() as stop:
        assert not stop
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 100))
    with StopRequest() as stop:
        assert stop


@pytest.mark.parametrize("text", ["0", "64G", "all"])
def test_a_memory_of_the_job_that_is_none_is_the_machines(text, monkeypatch):
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    machine = memory_of(torch.device("cpu"))
    monkeypatch.setenv("SLURM_MEM_PER_NODE", text)
    assert memory_of(torch.device("cpu")) == machine > 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")
    assert memory_of(torch.device("cpu")) == 2**20


def test_a_home_that_cannot_be_used_is_named_and_needed_for_nothing(monkeypatch):
    home = "/dev/null/nobody"
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    planned = Checkout(ROOT).snakemake("-n", "prompts")
    assert planned.returncode == 0, planned.stderr
    said = [line for line in planned.stderr.splitlines() if home in line]
    assert len(said) == 1 and "set XDG_CACHE_HOME" in said[0]


@pytest.mark.parametrize(
    ("available", "count", "asked", "enough"),
    [(True, 1, 1, True), (True, 8, 2, True), (True, 1, 2, False), (False, 1, 1, False)],
)
def test_the_gpus_that_count_are_those_that_torch_can_use(
    available, count, asked, enough, monkeypatch
):
    """NVML counts devices that CUDA cannot use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    if enough:
        assert require_gpus(asked) == count
        return
    with pytest.raises(UserError, match=f"asks for {asked} GPU.*can use {available * count} on"):
        require_gpus(asked)


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """The folder of temporary files that all users share."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_private_folder_is_this_users_alone(shared):
    folder = private_folder("rocm-test")
    assert folder == shared / f"rocm-test-{os.getuid()}" == private_folder("rocm-test")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)  # whoever can read a file can lock it
    assert private_folder("rocm-test").stat().st_mode & 0o777 == 0o700


def link(path):
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


def dangling(path):
    path.symlink_to(path.parent / "nothing")


def writable(path):
    path.mkdir()
    path.chmod(0o770)


def file(path):
    path.touch()


@pytest.mark.parametrize("prepare", [link, dangling, writable, file])
def test_a_private_folder_that_somebody_has_prepared_is_refused(prepare, shared):
    path = shared / f"rocm-test-{os.getuid()}"
    prepare(path)
    before = sorted(shared.rglob("*"))
    with pytest.raises(UserError, match=f"^{path} is not a folder that only this user"):
        private_folder("rocm-test")
    assert sorted(shared.rglob("*")) == before


def test_a_private_folder_of_another_user_is_refused(shared, monkeypatch):
    other = os.getuid() + 1
    (shared / f"rocm-test-{other}").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(UserError, match="is not a folder that only this user can write to"):
        private_folder("rocm-test")


def test_compiled_code_is_cached_where_nobody_else_can_put_any(shared, model, reward, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setattr(rocm_core.training.trainer, "compile_network", lambda *_: None)
    Trainer(tiny.settings(model=model, compile=True), tiny.PROMPTS, "f00d", Accelerator())
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(private_folder("rocm-inductor"))


def test_a_link_in_place_of_a_claim_is_not_followed(shared, tmp_path):
    folder = private_folder("rocm-gpus")
    (folder / "@a").symlink_to(tmp_path / "victim")
    fake = f"{ROOT}{os.pathsep}{ROOT / 'tests/fake_gpus'}"
    environment = {"PYTHONPATH": fake, "FAKE_GPUS": "a", "CUDA_VISIBLE_DEVICES": "0"}
    job = subprocess.run(
        [sys.executable, "-m", "rocm_core.commands.launch", "--gpus", "1", "nothing.py"],
        env=os.environ | environment | {"TMPDIR": str(shared)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 2 and job.stderr.startswith("error: GPUs cannot be claimed in ")
    assert "TMPDIR" in job.stderr and not (tmp_path / "victim").exists()


@pytest.mark.parametrize("records", [False, True])
def test_a_folder_that_snakemake_cannot_keep_its_records_in_is_named(
    records, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if records:
        (tmp_path / ".snakemake").mkdir()
    require_workplace()
    closed = ".snakemake" if records else "."
    monkeypatch.setattr(os, "access", lambda path, mode: (str(path), mode) != (closed, os.W_OK))
    with pytest.raises(UserError, match=f"{tmp_path} is closed to writing.* with -s {ROOT}/Snake"):
        require_workplace()
