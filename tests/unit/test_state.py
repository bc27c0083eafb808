"""The owner of a state folder: never two, never nobody for long."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rocm_core.jobs.state
from rocm_core.errors import UserError
from rocm_core.jobs import Lock, StateFolder, remove_finished

ROOT = Path(__file__).parents[2]

# A process that owns the folder given to it.
HOLD = """\
import sys, time
from pathlib import Path
from rocm_core.jobs import state

state.HEARTBEAT_SECONDS = 0.05
with state.Lock(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(60)
"""


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


@pytest.mark.parametrize("text", ["", "[]", "null", '{"born": 1}', "\udcff"])
def test_a_lock_that_names_nobody_is_taken_over_when_it_has_been_silent(text, tmp_path, hasty):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/lock.json").write_text(text, errors="surrogateescape")
    began = time.monotonic()
    with Lock(tmp_path / "s") as lock, lock.held():
        assert time.monotonic() - began > 0.6


@pytest.fixture
def hasty(monkeypatch):
    """A second of patience for a minute."""
    seconds = {"HEARTBEAT": 0.05, "POLL": 0.1, "STALE": 0.6, "PATIENCE": 1.0}
    for name, value in seconds.items():
        monkeypatch.setattr(rocm_core.jobs.state, f"{name}_SECONDS", value)


def test_a_lock_that_beats_is_respected_and_a_silent_one_taken_over(tmp_path, hasty):
    with Lock(tmp_path / "s") as first:
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"):
            Lock(tmp_path / "s").__enter__()
        with first.held():
            pass
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["attempts.json"]
    write_lock(tmp_path / "s", host="elsewhere")
    began = time.monotonic()
    with Lock(tmp_path / "s"):
        assert time.monotonic() - began > 0.6


def test_an_owner_that_is_suspended_on_this_machine_keeps_its_lock(tmp_path, hasty):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as owner:
        owner.stdout.readline()
        owner.send_signal(signal.SIGSTOP)
        with pytest.raises(UserError, match=f"in use by process {owner.pid} on"):
            Lock(tmp_path / "s").__enter__()
        owner.kill()


def test_an_owner_who_ends_in_time_is_waited_for(tmp_path, hasty, monkeypatch, capsys):
    monkeypatch.setattr(rocm_core.jobs.state, "PATIENCE_SECONDS", 10.0)
    first = Lock(tmp_path / "s").__enter__()
    asked = []

    def wait_a_little():
        asked.append(1)
        if len(asked) == 5:
            first.__exit__()

    with Lock(tmp_path / "s", give_up=wait_a_little) as second, second.held():
        assert len(asked) == 5
    assert f"waiting for process {os.getpid()} on" in capsys.readouterr().err


def test_a_save_of_any_length_does_not_look_like_death(tmp_path, hasty):
    with Lock(tmp_path / "s") as first, first.held():
        before = first.path.stat().st_mtime_ns
        time.sleep(0.3)
        assert first.path.stat().st_mtime_ns > before


def test_owners_are_counted_with_their_time_even_those_that_were_killed(tmp_path, hasty):
    took = []
    with Lock(tmp_path / "s"):
        began = time.monotonic()
        time.sleep(0.2)
        took.append(time.monotonic() - began)
    command = [sys.executable, "-c", HOLD, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as killed:
        killed.stdout.readline()
        began = time.monotonic()
        time.sleep(0.5)
        killed.kill()
        took.append(time.monotonic() - began)
    with Lock(tmp_path / "s") as lock:
        attempts = lock.attempts()
    assert [one["pid"] for one in attempts] == [os.getpid(), killed.pid, os.getpid()]
    assert [one["seconds"] for one in attempts[:2]] == pytest.approx(took, abs=0.15)


# A process, on a machine of its own, that wants the folder given to it for a moment.
WANT = """\
import sys, time
from pathlib import Path
from rocm_core.jobs import state

state.HEARTBEAT_SECONDS, state.POLL_SECONDS, state.STALE_SECONDS = 0.1, 0.1, 3.0
here = state._here() | {"host": sys.argv[2]}
state._here = lambda: here
lock = state.Lock(Path(sys.argv[1]))
sys.stdin.readline()
with lock:
    time.sleep(0.3)
    with lock.held():
        print("mine", flush=True)
"""


def test_waiters_that_saw_the_same_dead_owner_do_not_rob_each_other(tmp_path):
    write_lock(tmp_path / "s", host="elsewhere")
    waiters = [
        subprocess.Popen(
            [sys.executable, "-c", WANT, str(tmp_path / "s"), f"host-{number}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    for waiter in waiters:
        waiter.stdin.write("go\n")
        waiter.stdin.flush()
    ended = [waiter.communicate(timeout=300) for waiter in waiters]
    assert [output for output, _ in ended] == 6 * ["mine\n"], ended


def test_an_owner_of_the_same_name_on_another_machine_is_not_taken_for_dead(tmp_path, hasty):
    """Twin hosts: this machine's processes say nothing about the other's."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_lock(tmp_path / "s", pid=dead.pid, boot="of the twin")
    began = time.monotonic()
    with Lock(tmp_path / "s"):
        assert time.monotonic() - began > 0.6


# An owner that its machine stops in the middle of a save.
HOLD_THE_GUARD = HOLD.replace(
    "state.Lock(Path(sys.argv[1])):", "state.Lock(Path(sys.argv[1])) as lock, lock.held():"
)


@pytest.mark.parametrize("here", [True, False], ids=["this machine", "another"])
def test_an_owner_that_is_stopped_in_a_save_holds_nobody_up_in_silence(
    here, tmp_path, hasty, monkeypatch, capsys
):
    if not here:
        mine = rocm_core.jobs.state._here()
        monkeypatch.setattr(rocm_core.jobs.state, "_here", lambda: mine | {"host": "another"})
    asked = []
    command = [sys.executable, "-c", HOLD_THE_GUARD, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as owner:
        owner.stdout.readline()
        owner.send_signal(signal.SIGSTOP)
        with pytest.raises(UserError, match=f"in use by process {owner.pid} on"):
            Lock(tmp_path / "s", give_up=lambda: asked.append(1)).__enter__()
        owner.kill()
    assert len(asked) > 1
    assert capsys.readouterr().err.count(f"waiting for process {owner.pid} on") == 1


def test_who_has_lost_the_lock_writes_no_more(tmp_path):
    with StateFolder(tmp_path / "s") as folder:
        folder.save(1, {"step": 1})
        write_lock(tmp_path / "s", host="elsewhere", pid=17)
        with pytest.raises(UserError, match="taken over by process 17 on elsewhere"):
            folder.save(2, {"step": 2})
        for change in (folder.keep, folder.clear, folder.attempts):
            with pytest.raises(UserError, match="taken over by process 17 on elsewhere"):
                change()
    assert json.loads((tmp_path / "s" / "lock.json").read_text())["pid"] == 17
    assert [path.name for path in tmp_path.glob("s/*.state")] == ["step-000000001.state"]


def test_a_finished_state_goes_when_its_results_are_there_and_nobody_uses_it(tmp_path):
    states, cells = tmp_path / ".state", tmp_path / "cells"
    for cell in ("r/done/seed-0", "r/lost/seed-0", "r/used/seed-0", "r/open/seed-0"):
        with StateFolder(states / cell / "1") as folder:
            folder.save(1, {"step": 1})
            if "open" not in cell:
                folder.keep()
        if "lost" not in cell:
            (cells / cell).mkdir(parents=True)
            (cells / cell / "manifest.json").touch()
    with StateFolder(states / "r/used/seed-0/1"):
        remove_finished(states, cells)
    assert {path.parts[-3] for path in states.glob("*/*/*/*")} == {"lost", "used", "open"}
    remove_finished(states, cells)
    assert {path.parts[-3] for path in states.glob("*/*/*/*")} == {"lost", "open"}


def test_a_finished_state_that_a_job_takes_at_that_moment_stays(tmp_path, monkeypatch):
    states, cells = tmp_path / ".state", tmp_path / "cells"
    with StateFolder(states / "r/m/seed-0/1") as folder:
        folder.save(1, {"step": 1})
        folder.keep()
    (cells / "r/m/seed-0").mkdir(parents=True)
    (cells / "r/m/seed-0/manifest.json").touch()
    clear = StateFolder.clear

    def clear_too_late(self):
        write_lock(self.folder, pid=17, host="elsewhere")
        clear(self)

    monkeypatch.setattr(StateFolder, "clear", clear_too_late)
    remove_finished(states, cells)
    assert folder.load() == {"step": 1}
