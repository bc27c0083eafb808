"""The owner of a state folder: never two, never nobody for long."""

import json
import os
import subprocess
import sys
import time

import pytest

import rocm_core.state
from rocm_core.errors import UserError
from rocm_core.state import Lock, StateFolder


def write_lock(folder, **owner):
    folder.mkdir(exist_ok=True)
    mine = Lock(folder).me
    (folder / "lock.json").write_text(json.dumps({**mine, "token": "other", **owner}))


def test_the_lock_of_a_dead_process_is_taken_over_at_once(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_lock(tmp_path / "s", pid=dead.pid)
    with Lock(tmp_path / "s") as lock, lock.held():
        assert json.loads(lock.path.read_text())["pid"] == os.getpid()


def test_a_lock_that_beats_is_respected_and_a_silent_one_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(rocm_core.state, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(rocm_core.state, "STALE_SECONDS", 0.6)
    with Lock(tmp_path / "s") as first:
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"):
            Lock(tmp_path / "s").__enter__()
        with first.held():
            pass
    assert not list((tmp_path / "s").iterdir())
    write_lock(tmp_path / "s", host="elsewhere")
    began = time.monotonic()
    with Lock(tmp_path / "s"):
        assert time.monotonic() - began > 0.6


def test_who_has_lost_the_lock_writes_no_more(tmp_path):
    with StateFolder(tmp_path / "s") as folder:
        folder.save(1, {"step": 1})
        write_lock(tmp_path / "s", host="elsewhere", pid=17)
        with pytest.raises(UserError, match="taken over by process 17 on elsewhere"):
            folder.save(2, {"step": 2})
    assert json.loads((tmp_path / "s" / "lock.json").read_text())["pid"] == 17
    assert [path.name for path in tmp_path.glob("s/*.state")] == ["step-000000001.state"]
